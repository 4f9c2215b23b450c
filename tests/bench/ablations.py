"""What helps the small detector: `python tests/bench/ablations.py RELEASE OUT [--seeds N] [--weights TAEF2]`.

Trains it on the release with one thing changed at a time and judges each on the same test split: what it looks at (residuals
or RGB), how it is trained (heads and encoder at once, or the heads on a frozen encoder), SelfCon's loss in or out, the average
of the weights, and reconstructions of the real training images by an autoencoder in or out (arXiv 2410.11835). Prints a table
and writes every figure to ablations.json; finished checkpoints are kept, so that it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from imaginet_build import images
from imaginet_build.baseline.data import splits
from imaginet_build.baseline.evaluate import evaluate
from imaginet_build.baseline.settings import Settings
from imaginet_build.baseline.train import train
from imaginet_build.models.train_detector import RECONSTRUCTED, autoencoder
from imaginet_build.records import ORIGINS, make_id
from imaginet_build.releases import release

VARIANTS: dict[str, dict[str, Any]] = {
    "residuals, joint (the preset)": {},
    "RGB instead of residuals": {"sees": "rgb"},
    "two stages, as in the paper": {"joint": False, "contrast": 1.0, "rate": 0.02, "head_steps": 300},
    "without SelfCon's loss": {"contrast": 0.0},
    "average of the weights (0.99)": {"ema": 0.99},
}
ALIGNED = "with reconstructions of the real images"


def aligned(source: Path, out: Path, weights: Path) -> Path:
    """The release with a synthetic twin of every real training image: reconstructed, and encoded as it was."""
    if out.exists():
        return out
    reconstruct = autoencoder(weights)
    table = release.rows(source, "equalized")
    columns = [column for column in table.column_names if column != "split"]
    kinds = {name: sorted(set(table[name].to_pylist())) for name in ("content_type", "family", "generator")}
    names = release.Names(
        tuple(kinds["content_type"]),
        ("real", *sorted({*kinds["family"], "vae"} - {"real"})),
        ("real", *sorted({*kinds["generator"], RECONSTRUCTED} - {"real"})),
    )
    schema = release.schema(names)
    lists = {"label": ORIGINS, "content_type": names.categories, "family": names.families, "generator": names.generators}
    place = out.with_name(f".{out.name}")
    shutil.rmtree(place, ignore_errors=True)
    (place / "data/equalized").mkdir(parents=True)
    for split, rows in splits(source).items():
        said = {row["id"]: row for row in table.filter(pc.equal(table["split"], split)).to_pylist()}
        made: list[dict[str, Any]] = []
        for number, name in enumerate(rows.ids):
            row = {key: said[name][key] for key in columns} | {"image": {"bytes": rows.read(number), "path": name}}
            made.append(row)
            if split != "train" or row["label"] != "real":
                continue
            data = rows.read(number)
            facts = images.measure(data)
            pixels = reconstruct(np.asarray(images.decode(data)))
            again = images.encode(Image.fromarray(pixels), "jpeg", facts.quality or 90, facts.subsampling or "4:2:0")
            twin = make_id("aligned", name)
            made.append(
                row
                | {"image": {"bytes": again, "path": twin}, "id": twin, "label": "synthetic", "family": "vae"}
                | {"generator": RECONSTRUCTED, "width": pixels.shape[1], "height": pixels.shape[0], "pair_id": name}
            )
        coded = [
            {f.name: row.get(f.name) for f in schema} | {k: v.index(row[k]) for k, v in lists.items()} for row in made
        ]  # fmt: skip
        path = place / f"data/equalized/{split}-00000-of-00001.parquet"
        pq.write_table(pa.Table.from_pylist(coded, schema=schema), path, row_group_size=50)
    place.rename(out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="a folder with TAEF2's encoder.pth and decoder.pth")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    runs = [(name, options.release, changes) for name, changes in VARIANTS.items()]
    if options.weights:
        runs.append((ALIGNED, aligned(options.release, options.out / "aligned", options.weights), {}))
    found = []
    for name, data, changes in runs:
        place = options.out / re.sub(r"\W+", "-", name)
        begun = time.monotonic()
        common = {"steps": options.steps, "threads": options.threads}
        chosen = [Settings.of("small", seed=seed, **common | changes) for seed in range(options.seeds)]
        seeds = [train(data, place / f"seed-{settings.seed}", settings).checkpoint for settings in chosen]
        seconds = time.monotonic() - begun
        document = evaluate(options.release, checkpoints=seeds, bootstrap=200).document
        origin = document["tracks"]["origin"]
        each = {k: v["auc"] for k, v in document["by_generator"].items()}
        row = {"variant": name, "auc": origin["auc"], "ci95": origin["ci95"], "seconds": round(seconds), "by_generator": each}
        found.append(row)
        worst = min((v, k) for k, v in each.items() if v is not None)
        print(f"{name:<42} {origin['auc']:.3f}  worst {worst[1]} {worst[0]:.3f}  {seconds:.0f} s", flush=True)
    (options.out / "ablations.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
