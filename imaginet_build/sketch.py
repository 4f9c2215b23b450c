"""`sketch`: the hashes of a data set in one small file, for anyone who wants to know whether he holds some of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from imaginet_build import dedup, images
from imaginet_build.auditing import holdings
from imaginet_build.auditing.holdings import Item
from imaginet_build.duplicates import contamination
from imaginet_build.errors import BadImage, UsageError
from imaginet_build.records import Refusal

BLANK = 1.0
"""Standard deviation of the grey image below which it is one flat surface."""

MAX_BYTES = 256 * 2**20

Row = dict[str, Any]
Map = Callable[[Callable[[Item], Row | Refusal], Iterable[Item]], Iterable[Row | Refusal]]
"""How images are measured: the built-in `map`, or one that keeps the order and spreads the work."""


@dataclass(frozen=True, slots=True)
class Sketched:
    """What was written: `count` images in `path`; `unreadable`, by reason, and the first of them in `examples`."""

    path: Path
    name: str
    version: str
    count: int
    nbytes: int
    unreadable: dict[str, int]
    examples: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The document that `sketch --json` prints."""
        return asdict(self) | {"path": str(self.path), "examples": list(self.examples)}


def sketch(target: Path | str, out: Path, name: str | None = None, version: str = "", map: Map = map) -> Sketched:
    """Write the sketch of `target` to `out`. Raises `UsageError` where `target` holds no image that can be read."""
    held = holdings.of(target)
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: give the file to write, for example {out / 'sketch.parquet'}")
    lost: list[Refusal] = []
    rows = list(_rows(held.items, map, lost))
    reasons = dict(sorted(Counter(refusal.reason for refusal in lost).items()))
    if not rows:
        why = f": of {len(lost)} none could be read ({', '.join(reasons)})" if lost else ""
        raise UsageError(f"{target} holds no image to sketch{why}")
    label = name or held.name
    count = contamination.write(out, label, version, rows)
    examples = tuple(f"{refusal.source_key}: {refusal.reason} {refusal.detail}".strip() for refusal in lost[:10])
    return Sketched(out, label, version, count, out.stat().st_size, reasons, examples)


def contaminated(
    targets: Sequence[Path | str], sketches: Sequence[Path | str], radius: Literal["auto"] | int = "auto", map: Map = map
) -> list[contamination.Contamination]:
    """What each of `sketches` holds of the images of all `targets`; what of these cannot be read is left out.

    `radius`: bits of the 64-bit pHash that may differ; by the number of images without it. Raises `UsageError` for what is no
    sketch, before any image is read.
    """
    read = [contamination.read(path) for path in sketches]
    if not read:
        return []
    rows = [row for target in targets for row in _rows(holdings.of(target).items, map, [])]
    own = contamination.hashed(pa.Table.from_pylist(rows, schema=contamination.SCHEMA))
    return contamination.report(own, read, dedup.default_radius(len(rows)) if radius == "auto" else radius)


def _rows(items: Iterable[Item], map: Map, lost: list[Refusal]) -> Iterator[Row]:
    for answer in map(measured, items):
        if isinstance(answer, Refusal):
            lost.append(answer)
        else:
            yield answer


def measured(item: Item) -> Row | Refusal:
    """One row of a sketch, or why there is none. Never raises for what a file holds."""
    name, data = item
    try:
        if isinstance(data, Refusal):
            return Refusal(data.reason, data.detail, name)
        if isinstance(data, Path):
            if (size := data.stat().st_size) > MAX_BYTES:
                return Refusal("too-large", f"{size:,} bytes, more than {MAX_BYTES:,}", name)
            data = data.read_bytes()
        facts, long, mirrored = images.measure_long(data)
    except BadImage as error:
        return Refusal(error.reason, error.detail, name)
    except OSError as error:
        return Refusal("unreadable", error.strerror or str(error), name)
    return {
        "path": name,
        "sha256": bytes.fromhex(facts.sha256),
        "pixel_hash": bytes.fromhex(facts.pixel_hash),
        "phash": facts.phash,
        "phash_mirror": facts.phash_mirror,
        "dhash": facts.dhash,
        "long": long.astype(">u8").tobytes(),
        "long_mirror": mirrored.astype(">u8").tobytes(),
        "scaled": facts.codec == "jpeg",
        "blank": facts.contrast < BLANK,
    }
