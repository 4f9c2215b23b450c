"""Whether a test holds images that a detector was trained on: by sketch, before anything is judged.

Hashes are compared, equal or near (`duplicates.contamination`); what is found is named, and left out unless it is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from imaginet_build import dedup
from imaginet_build.baseline.data import Rows, splits
from imaginet_build.baseline.metrics import Figures
from imaginet_build.duplicates import contamination
from imaginet_build.duplicates.contamination import Sketch
from imaginet_build.errors import BadImage, UsageError
from imaginet_build.records import Refusal
from imaginet_build.releases import release

log = logging.getLogger(__name__)

Measure = Callable[[tuple[str, Any]], Any]
"""A name and bytes (or a Refusal) to one row of a sketch, or why there is none: `sketch.measured`."""
_SHOWN = 50


def sketch_of(folder: Path, measure: Measure, kept: Path | None = None) -> Sketch:
    """What a detector learned from: the train and calibration splits of the release `folder`, in their native view where that
    is there, since a crop is no near-duplicate of its photograph. `kept`: a folder where the sketch is kept by the release's
    digest."""
    view = "native" if release.shards(folder, "native").get("train") else "equalized"
    digest = release.read_manifest(folder)["digest"] if (folder / release.MANIFEST).is_file() else ""
    path = kept / f"trained-on-{digest[:16]}-{view}.sketch.parquet" if kept is not None and digest else None
    if path is not None and path.is_file():
        return contamination.read(path)
    name = f"the train and calibration splits of {folder.name}, {view} view"
    hashes = [row for split, rows in splits(folder, view).items() if split != "test" for row in _hashes(rows, measure)]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        contamination.write(path, name, digest[:16], hashes)
        return contamination.read(path)
    return Sketch(name, digest[:16], pa.Table.from_pylist(hashes, schema=contamination.SCHEMA))


def cleared(rows: Rows, sketches: Sequence[Sketch], measure: Measure, keep: bool = False) -> tuple[Rows, Figures]:
    """The rows that none of the sketches holds, and what was found, for the report; all rows with `keep`. Raises `UsageError`
    where nothing of a class is left."""
    if not sketches:
        why = "no sketch of what the detector was trained on is known here; give one with --sketch FILE"
        return rows, {"checked": [], "left_out": [], "reason": why}
    hashes = _hashes(rows, measure)
    own = contamination.hashed(pa.Table.from_pylist(hashes, schema=contamination.SCHEMA))
    found = contamination.report(own, sketches, dedup.default_radius(len(hashes)))
    held = sorted({own.names[match.row] for one in found for match in one.matches})
    said: Figures = {"checked": [one.to_json() for one in found], "held": len(held), "left_out": [] if keep else held[:_SHOWN]}
    if keep or not held:
        return rows, said | ({"reason": f"{len(held)} images were kept although training had them"} if held else {})
    log.warning(
        "%d of %d images of %s were in the data the detector learned from, such as %s: they are left out",
        len(held), len(rows), rows.title, held[0],
    )  # fmt: skip
    gone = set(held)
    left = [i for i, name in enumerate(rows.ids) if name not in gone]
    if len({int(rows.label[i]) for i in left}) < 2:
        raise UsageError(
            f"{len(held)} of {len(rows)} images of {rows.title} were in the data the detector learned from, such as {held[0]}; "
            "without them one class is missing. Judge it on another set, or all the same: --keep-contaminated"
        )
    return rows.some(left), said


def _hashes(rows: Rows, measure: Measure) -> list[dict[str, Any]]:
    found = []
    for row, name in enumerate(rows.ids):
        try:
            answer = measure((name, rows.read(row)))
        except BadImage:
            continue  # it is reported as unreadable when the test is read
        if not isinstance(answer, Refusal):
            found.append(answer)
    return found
