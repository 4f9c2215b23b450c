"""The test cut into parts: by generator, family, content type, source, size, and by the day a generator was released.

A part of synthetic images (a generator, a family, a window of time) is held against the real images of the content types it
appears in, a source of real images against the synthetic ones of its content types: an AUC needs both classes.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from imaginet_build import catalog
from imaginet_build.baseline import metrics
from imaginet_build.baseline.data import Rows
from imaginet_build.baseline.intervals import ends, origin_figures, resamples
from imaginet_build.baseline.metrics import HALF, Figures, Floats, Ints, rounded

Mask = npt.NDArray[np.bool_]
SIZES = (256, 512, 768, 1024, 2048)
"""Edges of the shorter side, in pixels."""


@dataclass(frozen=True)
class Parts:
    """`rows`: the test, every row readable; `scores`: (seeds, n) calibrated P(synthetic), so that every threshold is 0.5;
    `bootstrap`: resamples for the whole, a quarter of them for a part."""

    rows: Rows
    scores: Floats
    bootstrap: int

    @property
    def label(self) -> Ints:
        """(n,) 1 for synthetic."""
        return self.rows.label

    def whole(self) -> Figures:
        """The origin track."""
        return origin_figures(self.label, self.scores, self.rows.group, self.bootstrap)

    def by_generator(self) -> dict[str, Figures]:
        """Each generator's images against the real ones of the content types it appears in."""
        return self._made(self.rows.generator)

    def by_family(self) -> dict[str, Figures]:
        """The same of families."""
        return self._made(self.rows.family)

    def by_content_type(self) -> dict[str, Figures]:
        """Each content type's images, of both classes."""
        return {name: self.part(self._kind == name) for name in sorted(set(self.rows.content_type))}

    def by_source(self) -> dict[str, Figures]:
        """Each source of real images against the synthetic ones of its content types; empty where nobody says the source."""
        sources = np.array(self.rows.source or [""] * len(self.rows), dtype=object)
        real = self.label == 0
        return {name: self.part(self.against(real & (sources == name))) for name in sorted(set(sources[real])) if name}

    def by_size(self) -> dict[str, Figures]:
        """Images by their shorter side."""
        place = np.digitize(self.rows.size.min(axis=1), SIZES)
        names = [f"below {SIZES[0]}", *(f"{a}-{b - 1}" for a, b in itertools.pairwise(SIZES)), f"from {SIZES[-1]}"]
        return {name: self.part(place == k) for k, name in enumerate(names) if (place == k).any()}

    def by_release(self, trained: Sequence[str] | None = None) -> Figures:
        """Generators by the year their card says they were `released`: `windows`, and with the generators a detector was
        `trained` on, those released after the newest of them: `later_than_training`. `undated`: whose card says nothing."""
        days = released(sorted(set(self._generator[self.label == 1])))
        undated = sorted(set(self._generator[self.label == 1]) - days.keys())
        windows = {
            str(year): self.part(self.against(self._by([n for n, day in days.items() if day.year == year])))
            for year in sorted({day.year for day in days.values()})
        }
        found: Figures = {"windows": windows, "undated": undated}
        if not days:
            return found | {"reason": "no card says when a generator of the test was released (`released` in manifests/)"}
        seen = released(trained) if trained is not None else {}
        if not seen:
            return found | {"later_than_training": None, "newest_trained": None}
        newest = max(seen.values())
        later = [name for name, day in days.items() if day > newest]
        part = self.part(self.against(self._by(later))) | {"generators": later} if later else None
        return found | {"later_than_training": part, "newest_trained": newest.isoformat()}

    def headline(self, by_generator: Mapping[str, Figures]) -> Figures:
        """The worst generator beside the mean over generators: AUC and balanced accuracy. Intervals over groups: the mean's is
        of the mean, the worst's its own."""
        judged = {name: figures for name, figures in by_generator.items() if figures["auc"] is not None}
        if not judged:
            why = "no generator of the test has enough groups to be judged alone"
            return {"worst": None, "mean": None, "generators": 0, "reason": why}
        found: Figures = {"worst": {}, "mean": {}, "generators": len(judged)}
        spread = self._means(list(judged))
        for name in ("auc", "balanced_accuracy"):
            worst = min(judged, key=lambda generator: (judged[generator][name], generator))
            between = judged[worst]["intervals"].get(name)
            found["worst"][name] = {"generator": worst, "value": judged[worst][name], "ci95": between}
            mean = rounded(float(np.mean([figures[name] for figures in judged.values()])))
            found["mean"][name] = {"value": mean, "ci95": ends(spread[name]) if self.bootstrap else None}
        return found

    def _means(self, generators: Sequence[str]) -> dict[str, Floats]:
        """The mean over generators of each figure, for every resample of the groups of the whole test."""
        if not self.bootstrap:
            return {}
        weight = resamples(self.rows.group, max(1, self.bootstrap // 4), "mean over generators")
        masks = [self.against(self._by([name])) for name in generators]
        names = ("auc", "balanced_accuracy")
        each = [metrics.every(self.label[m], self.scores[:, m], weight[:, m], names) for m in masks]
        return {name: np.mean([one[name] for one in each], axis=0) for name in names}

    @cached_property
    def _kind(self) -> npt.NDArray[np.object_]:
        return np.array(self.rows.content_type, dtype=object)

    @cached_property
    def _generator(self) -> npt.NDArray[np.object_]:
        return np.array(self.rows.generator, dtype=object)

    def _by(self, generators: Sequence[str]) -> Mask:
        return np.asarray((self.label == 1) & np.isin(self._generator.astype(str), list(generators)), bool)

    def _made(self, names: Sequence[str]) -> dict[str, Figures]:
        made, synthetic = np.array(names, dtype=object), self.label == 1
        return {str(name): self.part(self.against(synthetic & (made == name))) for name in sorted(set(made[synthetic]))}

    def against(self, mine: Mask) -> Mask:
        """`mine`, all of one class, and the images of the other class in the same content types."""
        other = self.label != self.label[mine][0] if mine.any() else np.zeros(len(self.label), bool)
        return np.asarray(mine | (other & np.isin(self._kind.astype(str), self._kind[mine].astype(str))), bool)

    def part(self, mask: Mask) -> Figures:
        """The figures of some rows, the share of synthetic ones found and of real ones falsely accused."""
        groups = [self.rows.group[i] for i in np.flatnonzero(mask)]
        times = max(1, self.bootstrap // 4) if self.bootstrap else 0
        return origin_figures(self.label[mask], self.scores[:, mask], groups, times) | shares(
            self.label[mask], self.scores[:, mask]
        )


def shares(label: Ints, scores: Floats) -> Figures:
    """`found`: the share of synthetic rows called synthetic; `false_alarms`: that of real ones. Each 0 to 1, at the frozen
    threshold, the median over seeds; None where there are none."""
    called = scores >= HALF
    return {
        key: rounded(float(np.median(called[:, label == value].mean(1)))) if (label == value).any() else None
        for value, key in ((1, "found"), (0, "false_alarms"))
    }


def released(generators: Sequence[str]) -> dict[str, datetime.date]:
    """The day that each generator's card gives, for those whose card gives one."""
    cards = catalog.cards("generators")
    days = {name: cards[name].released for name in generators if name in cards}
    return {name: day for name, day in days.items() if day is not None}
