"""Exported networks beside torch eager, and `detect` on many images beside a loop over single ones: CPU time, one thread.

`python tests/bench/bench_inference.py` prints JSON rows {name, ours, peer, ratio, unit}; `ratio` above 1: ours is faster. The
network is the paper's, with random weights: what it says takes as long as what a trained one says. Medians of ratios.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.bench_facts import photographs

Row = dict[str, object]
ROUNDS = 5


def spent(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def beside(name: str, ours: Callable[[], object], peer: Callable[[], object], images: int) -> Row:
    ours(), peer()
    pairs = [(spent(ours), spent(peer)) for _ in range(ROUNDS)]
    return {
        "name": name,
        "ours": images / statistics.median(a for a, _ in pairs),
        "peer": images / statistics.median(b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
        "unit": "images a core-second",
    }


def exports(folder: Path) -> list[Row]:
    """fp32 and int8 of both runtimes, at 256 pixels."""
    import torch

    from imaginet_build.baseline import graphs
    from imaginet_build.detectors import onnx, openvino
    from imaginet_build.detectors.selfcon_networks import NetworkConfig, build

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build(NetworkConfig("imaginet", ("a", "b", "c", "d"))).eval()
    crops = np.stack([np.asarray(p)[:256, :256] for p in photographs()[:8]]).transpose(0, 3, 1, 2).astype(np.float32)
    graphs.fp32(network, folder / "fp32.onnx", 96)
    graphs.int8(folder / "fp32.onnx", folder / "int8.onnx", np.ascontiguousarray(crops[:, :, :96, :96]))
    pixels = np.ascontiguousarray(crops[:1])

    def eager() -> None:
        with torch.inference_mode():
            network(torch.from_numpy(pixels))

    rows = []
    for precision in ("fp32", "int8"):
        for make, write in ((onnx.Onnx, None), (openvino.OpenVino, graphs.openvino)):
            place = folder / f"{precision}-{make.__name__}"
            place.mkdir()
            (place / "config.json").write_text(json.dumps({"names": list("abcd"), "crop": 96}))
            source = folder / f"{precision}.onnx"
            if write is None:
                (place / onnx.WEIGHTS).write_bytes(source.read_bytes())
            else:
                write(source, place / openvino.WEIGHTS)
            detector = make(str(place), threads=1)
            name = f"imaginet 256 px, {make.__name__} {precision}, beside torch eager"
            rows.append(beside(name, lambda run=detector.run: run(pixels), eager, 1))
    return rows


def batch(folder: Path) -> Row:
    """A folder in one call, and a call for each of its images."""
    from imaginet_build.detect import detect

    for number, image in enumerate(photographs()):
        image.save(folder / f"{number:02}.jpg", "JPEG", quality=90)
    files = sorted(folder.glob("*.jpg"))
    return beside(
        f"detect on {len(files)} JPEGs of 1024 px, beside a loop of one call each",
        lambda: detect([folder]), lambda: [detect([file]) for file in files], len(files),
    )  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        print(json.dumps([*exports(Path(one)), batch(Path(other))]))


if __name__ == "__main__":
    main()
