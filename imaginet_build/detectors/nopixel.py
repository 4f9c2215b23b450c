"""The detector that never looks: what the file's form alone gives away. It belongs in every comparison, since whatever it
reaches no other detector has to see anything for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imaginet_build import images
from imaginet_build.errors import UsageError
from imaginet_build.records import Item, Scores

_CODECS = ("jpeg", "png", "webp", "gif", "bmp", "tiff")
_SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "grey")
_METADATA = ("exif", "xmp", "icc", "iptc", "c2pa", "text", "comment")


class NoPixel:
    """Gradient boosting on codec, quality, chroma subsampling, quantization tables, size, aspect and which metadata there is.

    It has no weights: `fit` it first. Bytes per pixel are left out, since they speak of content.
    """

    generators: tuple[str, ...] = ()

    def __init__(self, rounds: int = 100) -> None:
        self._rounds = rounds
        self._model: Any = None

    def fit(self, items: Sequence[Item], labels: npt.NDArray[np.int64]) -> None:
        """Learn from `items` with `labels` (n,), 1 for synthetic."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        model = HistGradientBoostingClassifier(max_iter=self._rounds, min_samples_leaf=10, early_stopping=False, random_state=0)
        known = form(items)
        # A column that says nothing of any image (the quality of PNG files) has no bins to be cut into.
        known[:, np.isnan(known).all(axis=0)] = 0
        self._model = model.fit(known, labels)

    def score(self, items: Sequence[Item]) -> Scores:
        """P(synthetic) of every item."""
        if self._model is None:
            raise UsageError("the nopixel detector has learned nothing yet; evaluate it on a release with a train split")
        p = self._model.predict_proba(form(items))[:, 1] if items else np.empty(0)
        return Scores(np.asarray(p, np.float64))


def form(items: Sequence[Item]) -> npt.NDArray[np.float64]:
    """(n, 20) numbers that describe each file without its pixels; NaN where a codec has no such thing."""
    rows = []
    for item in items:
        facts = images.measure(item.data)
        rows.append(
            [
                _CODECS.index(facts.codec) if facts.codec in _CODECS else np.nan,
                np.nan if facts.quality is None else facts.quality,
                _SUBSAMPLINGS.index(facts.subsampling) if facts.subsampling in _SUBSAMPLINGS else np.nan,
                # A digest of the tables as a number: trees can single out the few values that occur.
                np.nan if facts.qtables is None else sum(map(ord, facts.qtables)),
                facts.progressive,
                facts.mode != "RGB",
                facts.width,
                facts.height,
                facts.width / facts.height,
                min(facts.width, facts.height),
                facts.width % 8,
                facts.height % 8,
                len(facts.metadata),
                *(name in facts.metadata for name in _METADATA),
            ]
        )
    return np.array(rows, np.float64).reshape(len(items), 20)
