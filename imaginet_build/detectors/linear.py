"""What detectors share that are a logistic regression on features: they have no weights of their own and are fitted first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imaginet_build.errors import UsageError
from imaginet_build.records import Item, Scores


class Linear(ABC):
    """A linear head on `features`. `strength`: inverse of its regularization. `who` says in messages what it is."""

    generators: tuple[str, ...] = ()

    def __init__(self, who: str, strength: float) -> None:
        self._who, self._strength = who, strength
        self._head: Any = None

    @abstractmethod
    def features(self, items: Sequence[Item]) -> npt.NDArray[np.float64]:
        """(n, features) of `items`, of which there is one at least."""

    def fit(self, items: Sequence[Item], labels: npt.NDArray[np.int64]) -> None:
        """Learn from `items` with `labels` (n,), 1 for synthetic."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        head = make_pipeline(StandardScaler(), LogisticRegression(C=self._strength, max_iter=2000))
        self._head = head.fit(self.features(items), labels)

    def score(self, items: Sequence[Item]) -> Scores:
        """P(synthetic) of every item. Raises `UsageError` before it was fitted."""
        if self._head is None:
            raise UsageError(f"{self._who} has learned nothing yet; evaluate it on a release with a train split")
        p = self._head.predict_proba(self.features(items))[:, 1] if len(items) else np.empty(0)
        return Scores(np.asarray(p, np.float64))
