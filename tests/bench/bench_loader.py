"""Training crops beside the usual loader: CPU time a crop, the same pictures and the paper's augmentation, in one run.

`python tests/bench/bench_loader.py` prints JSON rows {name, ours, peer, ratio, unit}; `ratio` above 1: ours is faster. The peer
decodes each file in full with Pillow, crops and augments with albumentations (arXiv 2407.20020: one of JPEG or WebP, blur,
noise with p 0.5; quarter turns and flips with p 0.33). Ours reads a release's Parquet at random, as an epoch does. Each is a
process of its own on one thread; the figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.bench_facts import SIDE, photographs, spent, worker
from bench.peers import environment

Row = dict[str, object]
ROUNDS = 7
CROP = 96
PEER = "albumentations==2.0.8"

OURS = f"""
from pathlib import Path
import sys
import numpy as np
from imaginet_build.baseline.data import Crops, Rows, places_of
places = places_of([Path(sys.argv[1]).parent / "train.parquet"])
n = len(places)
rows = Rows("bench", tuple(map(str, range(n))), np.zeros(n, np.int64), ("photos",) * n, ("real",) * n, ("real",) * n,
            tuple(map(str, range(n))), np.full((n, 2), {SIDE}, np.int64), lambda row: b"", tuple(places))
crops = Crops(rows, {CROP}, 0, "paper", Path(sys.argv[1]).parent / "pixels", budget=0)
turn = 0
def work(path):
    global turn
    turn += 1
    crops.one(turn * 7919 % n, turn)
"""
PEERS = f"""
import random
import albumentations as A
import numpy as np
from PIL import Image
augment = A.Compose([
    A.RandomCrop({CROP}, {CROP}),
    A.OneOf([
        A.OneOf([A.ImageCompression(quality_range=(50, 95), compression_type=kind) for kind in ("jpeg", "webp")]),
        A.GaussianBlur(blur_limit=(3, 7)),
        A.GaussNoise(std_range=(3**0.5 / 255, 10**0.5 / 255)),
    ], p=0.5),
    A.RandomRotate90(p=0.33),
    A.HorizontalFlip(p=0.33),
])
def work(path):
    with Image.open(path) as image:
        augment(image=np.asarray(image.convert("RGB")))["image"]
"""


def release(folder: Path, copies: int = 8) -> None:
    """The same pictures as files for the peer and as a shard of ours; some more in it, so that a row group is not all of it."""
    (folder / "files").mkdir()
    marked, plain = [], []
    for number, image in enumerate(photographs()):
        for where, options in ((marked, {"restart_marker_rows": 1}), (plain, {})):
            out = io.BytesIO()
            image.save(out, "JPEG", quality=90, subsampling="4:2:0", **options)
            where.append(out.getvalue())
        (folder / "files" / f"{number:02}.jpg").write_bytes(plain[-1])
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name, files in (("marked", marked), ("plain", plain)):
        cells = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(files * copies)]
        (folder / name).mkdir()
        (folder / name / "files").symlink_to(folder / "files")
        table = pa.table({"image": pa.array(cells, kind)})
        pq.write_table(table, folder / name / "train.parquet", row_group_size=50, compression="none", use_dictionary=False)


def main() -> None:
    try:
        peer = environment(PEER, "pillow==13.0.0") / "python"
    except RuntimeError as error:
        print(json.dumps([{"name": "training crops, beside Pillow and albumentations", "unit": f"not run: {error}"}]))
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        release(folder)
        theirs = stack.enter_context(worker(peer, PEERS, folder / "files"))
        for name, said in (("marked", "restart-marked JPEGs"), ("plain", "JPEGs marked once by the index")):
            ours = stack.enter_context(worker(sys.executable, OURS, folder / name / "files"))
            pairs = [(spent(ours), spent(theirs)) for _ in range(ROUNDS)]
            rows.append(
                {
                    "name": f"{CROP} px crops of {SIDE} px {said}, beside Pillow and albumentations",
                    "ours": statistics.median(pair[0] for pair in pairs) * 1e3,
                    "peer": statistics.median(pair[1] for pair in pairs) * 1e3,
                    "ratio": statistics.median(b / a for a, b in pairs),
                    "unit": "CPU ms",
                }
            )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
