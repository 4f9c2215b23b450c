"""What fits into the memory of a device, learned by running out of it, and not learned twice.

Without memory for a batch, half of it is tried; for a single image, the pipeline is offloaded, first model by model, then layer
by layer; then the image is refused. What was found is kept in a small file, for every later worker and run on that device.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger(__name__)

Level = Literal["none", "model", "sequential"]
LADDER: tuple[Level, ...] = ("none", "model", "sequential")


@dataclass(frozen=True, slots=True)
class Fit:
    """At most `batch` images at once (None: as many as are asked for), at offload `level`."""

    batch: int | None = None
    level: Level = "none"


class Memory:
    """What fits, by size of image. `who`: what all else depends on, the device's name, the model and its number format.

    Without a file (`keep` was not called) it lasts as long as this object.
    """

    def __init__(self, *who: str) -> None:
        self.who = " | ".join(who)
        self._known: dict[str, Fit] = {}
        self._path: Path | None = None

    def keep(self, path: Path) -> None:
        """Read what others have learned, and write there what will be. A file that is not whole counts as none."""
        self._path = path
        for size, found in _read(path).get(self.who, {}).items():
            self._known.setdefault(size, Fit(found["batch"], found["level"]))

    def fit(self, width: int, height: int) -> Fit:
        """What is known of images of this size."""
        return self._known.get(f"{width} x {height}", Fit())

    def learn(self, width: int, height: int, fit: Fit) -> None:
        """Remember it, also for others."""
        self._known[f"{width} x {height}"] = fit
        if self._path is None:
            return
        every = _read(self._path)
        every.setdefault(self.who, {})[f"{width} x {height}"] = {"batch": fit.batch, "level": fit.level}
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        self._path.parent.mkdir(parents=True, exist_ok=True)  # before the first image, there is no work folder
        beside.write_text(json.dumps(every, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        beside.replace(self._path)


def _read(path: Path) -> dict[str, Any]:
    """Another worker may just have begun it, and a machine may have died over it: it is learned anew."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = all(
            isinstance(fit["batch"], int | None) and fit["level"] in LADDER
            for sizes in found.values()
            for fit in sizes.values()
        )
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        log.warning("%s is not whole and is begun anew: %s", path, error)
        return {}
    if not whole:
        log.warning("%s is not whole and is begun anew", path)
    return dict(found) if whole else {}
