"""Facts of made-up files, drawn alike for both classes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from imaginet_build.auditing.crossfit import Cases


def facts(rows: int, seed: int, marked: np.ndarray | None = None) -> pa.Table:
    """Facts that one law draws for every row, whatever its label; `marked` rows carry a text chunk besides."""
    random = np.random.default_rng(seed)
    quality = random.integers(70, 96, rows)
    sides = random.choice([256, 320, 384, 512, 640, 768], (2, rows))
    metadata = np.where(random.random(rows) < 0.05, "icc", "").astype(object)
    if marked is not None:
        metadata[marked] = "text"
    return pa.table(
        {
            "extension": random.choice(["jpg", "webp", "png"], rows).tolist(),
            "codec": ["jpeg"] * rows,
            "quality": pa.array(quality, pa.int32()),
            "qtables": [f"q{q}" for q in quality],
            "subsampling": random.choice(["4:2:0", "4:4:4"], rows).tolist(),
            "progressive": [False] * rows,
            "mode": ["RGB"] * rows,
            "width": pa.array(sides[0], pa.int32()),
            "height": pa.array(sides[1], pa.int32()),
            "metadata": metadata.tolist(),
        }
    )


def cases_of(labels: np.ndarray, groups: np.ndarray | None = None) -> Cases:
    groups = np.arange(len(labels)) if groups is None else groups
    return Cases(labels.astype(np.int64), groups.astype(np.int64), ("real", "synthetic"))
