"""A release of a few small images with everything that a push looks at, made in no time and always the same."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pictures import jpeg

from imaginet_build import images
from imaginet_build.releases import release

ROWS = {"train": 8, "calibration": 4, "test": 4}
NAMES = release.Names(("photos",), ("real", "gan"), ("real", "tiny-gan"))


def make(folder: Path, seed: str = "one", shards: int = 2, views: tuple[str, ...] = release.VIEWS) -> Path:
    """`shards` files of every split in each view; other seeds have other images."""
    for view in views:
        for split, count in ROWS.items():
            rows = [_row(seed, view, split, n) for n in range(count)]
            each = -(-count // shards)
            for i in range(shards):
                path = folder / release.Shard(split, i, shards, range(0)).path(view)
                path.parent.mkdir(parents=True, exist_ok=True)
                table = pa.Table.from_pylist(rows[i * each : (i + 1) * each], schema=release.schema(NAMES))
                pq.write_table(table, path, row_group_size=3, compression="none")
    return seal(folder, views)


def seal(folder: Path, views: tuple[str, ...] = release.VIEWS, title: str = "Small set") -> Path:
    """The card and the manifest of the files that lie there."""
    configs = [
        f"- config_name: {view}\n"
        + ("  default: true\n" if view == views[0] else "")
        + "  data_files:\n"
        + "".join(f"  - split: {split}\n    path: data/{view}/{split}-*.parquet\n" for split in ROWS)
        for view in views
    ]
    (folder / "README.md").write_text(f"---\nlicense: cc0-1.0\nconfigs:\n{''.join(configs)}---\n# {title}\n")
    files = release.inventory(folder)
    manifest = {
        "title": title, "digest": release.digest(files), "rows": sum(ROWS.values()),
        "views": dict.fromkeys(views, ROWS), "files": files,
    }  # fmt: skip
    (folder / release.MANIFEST).write_text(json.dumps(manifest))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a release by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _row(seed: str, view: str, split: str, n: int) -> dict[str, object]:
    data = jpeg(f"{seed} {view} {split} {n}", 40, 32)
    facts = images.measure(data)
    origin = n % 2
    return {
        "image": {"bytes": data, "path": f"{split}{n}.jpg"}, "label": origin, "content_type": 0, "family": origin,
        "generator": origin, "id": f"{split}{n}", "pair_id": None, "group": f"{split}{n}", "source": "album",
        "source_key": f"{split}{n}", "licence": "CC0-1.0", "prompt": None, "seed": None, "width": 40, "height": 32,
        "sha256": facts.sha256, "source_sha256": facts.sha256, "phash": f"{facts.phash:016x}",
    }  # fmt: skip
