"""A trained detector and the words in which it answers: many images at a time, or one with where it saw what.

A verdict is given only outside the band that the calibration split asks for (`baseline.certainty`), and about nothing smaller
than one of the detector's crops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from imaginet_build import catalog, images
from imaginet_build.detecting.given import Given
from imaginet_build.detectors.checkpoint import SMALLEST, calibration_of, read_config
from imaginet_build.errors import BadImage
from imaginet_build.records import Item

SHIPPED = "bundled:detector-small"
SHIPPED_NAME = "detector-small (ships with imaginet-build)"
PATCHES = {"small": 12}
"""Patches a side of the heat map, at most, by preset; of any other network, which takes longer, 6."""

_TOGETHER = 64
_PIXELS = 40_000_000
"""Pixels of images scored together: 120 MB; one image may be larger by itself."""
_AHEAD = 4

Answer = dict[str, Any]


class Judge:
    """A checkpoint of `baseline train` or `baseline export`; None is the one that ships. Raises `UsageError` where the folder
    is none."""

    def __init__(self, checkpoint: Path | None = None) -> None:
        folder = catalog.bundled(SHIPPED) if checkpoint is None else checkpoint
        self.config = read_config(folder, "card", "crop")
        self.name = SHIPPED_NAME if checkpoint is None else str(checkpoint)
        self.detector = catalog.build(catalog.card("detectors", self.config["card"]), model=str(folder))
        self.calibration = calibration_of(self.config)
        self.crop = int(self.config["crop"])

    def answers(self, files: Iterable[Given]) -> Iterator[Answer]:
        """One answer an image, in order, as `detect` gives it, or `{"path", "error"}`. Only so many images are held at a
        time."""
        held: list[Item | Answer] = []
        pixels = 0
        for read in _ahead(files):
            held.append(read)
            pixels += read.image.width * read.image.height if isinstance(read, Item) else 0
            if len(held) >= _TOGETHER or pixels >= _PIXELS:
                yield from self._said(held)
                held, pixels = [], 0
        yield from self._said(held)

    def look(self, file: Given) -> tuple[Answer, Item | None, list[dict[str, Any]]]:
        """One image's answer, the image, and what the detector says of its patches; none where it cannot look at them."""
        read = _decoded(file)
        (answer,) = self._said([read])
        if not isinstance(read, Item):
            return answer, None, []
        patches = getattr(self.detector, "patches", None)
        found = [] if patches is None else patches(read.image, PATCHES.get(self.config.get("preset", ""), 6))
        rows = [{"left": p.left, "top": p.top, "side": p.side, "p_synthetic": round(p.p_synthetic, 4)} for p in found]
        return answer, read, rows

    def _said(self, held: list[Item | Answer]) -> Iterator[Answer]:
        items = [read for read in held if isinstance(read, Item)]
        scores = self.detector.score(items) if items else None
        at = 0
        for read in held:
            if not isinstance(read, Item):
                yield read
                continue
            assert scores is not None
            named = scores.p_generator[at] if scores.p_generator is not None else None
            yield self._answer(read, float(scores.p_synthetic[at]), named, scores.generators)
            at += 1

    def _answer(self, item: Item, p: float, named: Any, names: tuple[str, ...]) -> Answer:
        verdict, note = self.calibration.verdict(p), self._note()
        if min(item.image.size) < self.crop:
            verdict, note = "cannot tell", f"smaller than one crop of {self.crop} pixels; {note}"
        guess = None if named is None or verdict != "synthetic" else int(named.argmax())
        return {
            "path": item.name,
            "p_synthetic": round(p, 4),
            "verdict": verdict,
            "generator": None if guess is None else names[guess],
            "p_generator": None if guess is None else round(float(named[guess]), 4),
            "checkpoint": self.name,
            "note": note,
        }

    def _note(self) -> str:
        """What a verdict is worth: the promise of the calibration split, and the checkpoint's own limits."""
        c = self.calibration
        if c.error is None:
            promise = "" if (c.low, c.high) != (0, 1) else "no calibration split stands behind it, so it gives no verdict"
        else:
            promise = (
                f"of images like the {c.rows} it was calibrated on, at most {c.error:.0%} of either class get the other's "
                f"verdict; between {c.low:.3f} and {c.high:.3f} it cannot tell"
            )
        return "; ".join(part for part in (promise, str(self.config.get("note", ""))) if part)


def _ahead(files: Iterable[Given]) -> Iterator[Item | Answer]:
    """The images decoded, a few of them ahead of the one that is asked for."""
    waiting: deque[Future[Item | Answer]] = deque()
    with ThreadPoolExecutor(2) as threads:
        for file in files:
            waiting.append(threads.submit(_decoded, file))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _decoded(file: Given) -> Item | Answer:
    if file.data is None:
        return {"path": file.name, "error": file.error}
    try:
        image = images.decode(file.data)
        if min(image.size) < SMALLEST:
            raise BadImage("too-small", f"{image.width} x {image.height}; the detector needs {SMALLEST} pixels a side")
    except BadImage as error:
        return {"path": file.name, "error": str(error)}
    return Item(file.name, file.data, image)
