"""One detector ready to judge: built from its card, taught where it learns, its scale and threshold frozen on the calibration
split. From here on nothing about it depends on the test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from imaginet_build import catalog
from imaginet_build.baseline import metrics, naming
from imaginet_build.baseline.data import Rows
from imaginet_build.baseline.metrics import Floats
from imaginet_build.detectors.checkpoint import read_config
from imaginet_build.errors import BadImage, BuildError, UsageError
from imaginet_build.readiness import is_hub_id
from imaginet_build.records import Item, Scores

log = logging.getLogger(__name__)

NO_PIXEL = "nopixel"
FOLDS = 5
_CHUNK = 64
_SLACK = 1e-4
"""By how much a sum of single-precision probabilities may leave 0 to 1."""
Change = Callable[[Image.Image], Image.Image]


class Detector(Protocol):
    """What is judged: an adapter; `fit(items, labels)` too where it has no weights of its own."""

    def score(self, items: Sequence[Item]) -> Scores: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Judge:
    """A detector with its scale of probability and its threshold. `keep`: the least probability at which it names a generator;
    `reason`: why the threshold is its own 0.5; `threshold`: on the detector's own probability; `revision`: the commit of
    a model from the Hub."""

    detector: Detector
    seed: int | None
    scale: float = 1.0
    bias: float = 0.0
    reason: str | None = None
    keep: float | None = None
    revision: str | None = None

    @property
    def threshold(self) -> float:
        """Of the detector's own P(synthetic); on the calibrated one it is 0.5."""
        return float(1 / (1 + np.exp(self.bias / self.scale)))

    def p(self, scores: Scores) -> Floats:
        """(n,) calibrated P(synthetic)."""
        return np.asarray(1 / (1 + np.exp(-(self.scale * metrics.logit(scores.p_synthetic) + self.bias))), np.float64)

    @property
    def names_are(self) -> str:
        """`generator` or `family`: what the detector's second head tells apart."""
        return str(getattr(self.detector, "names_are", "generator"))

    @property
    def config(self) -> dict[str, Any]:
        """config.json of its checkpoint; empty where it has none."""
        found: dict[str, Any] = getattr(self.detector, "config", {})
        return found


class Reading(Sequence[Item]):
    """Items of some rows, each decoded when it is asked for."""

    def __init__(self, rows: Rows, places: Sequence[int], change: Change | None = None) -> None:
        self._rows, self._places, self._change = rows, places, change

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return Reading(self._rows, self._places[at], self._change)
        row = self._places[at]
        image = self._rows.image(row)
        return Item(self._rows.ids[row], self._rows.read(row), self._change(image) if self._change else image)


def items(rows: Rows, places: Sequence[int] | None = None, change: Change | None = None) -> Reading:
    """The images at `places`, each as `change` leaves it."""
    return Reading(rows, range(len(rows)) if places is None else places, change)


def readable(rows: Rows) -> tuple[Rows, dict[str, str]]:
    """The rows that decode, with their sizes, and why the others do not. Raises `BuildError` where none does."""
    good, sizes, bad = [], [], {}
    for row in range(len(rows)):
        try:
            sizes.append(rows.image(row).size)
            good.append(row)
        except BadImage as error:
            bad[rows.ids[row]] = str(error)
    if not good:
        raise BuildError(f"no image of {rows.title} can be read: {next(iter(bad.values()), 'there is none')}")
    if bad:
        log.warning("%d images of %s cannot be read and are left out", len(bad), rows.title)
    return replace(rows.some(good), size=np.array(sizes, np.int64)), bad


def score(detector: Detector, these: Sequence[Item]) -> Scores:
    """All items, a chunk at a time so that memory stays bounded. Raises `BuildError` for an answer that is no probability."""
    parts = []
    for at in range(0, len(these), _CHUNK):
        some = [these[i] for i in range(at, min(at + _CHUNK, len(these)))]
        parts.append(_sound(detector, some, detector.score(some)))
    if not parts:
        return Scores(np.empty(0))
    named = [p.p_generator for p in parts if p.p_generator is not None]
    joined = np.concatenate(named) if len(named) == len(parts) else None
    return Scores(np.concatenate([p.p_synthetic for p in parts]), joined, parts[0].generators)


def _sound(detector: Detector, some: Sequence[Item], answer: Scores) -> Scores:
    """The answer, if it is a probability for each item, and for each item and name."""
    who, advice = type(detector).__name__, "no figure can be made of it: mend the detector, or leave it out"
    if answer.p_synthetic.shape != (len(some),):
        raise BuildError(f"{who}.score gave {answer.p_synthetic.shape} values for {len(some)} images; {advice}")
    wrong = np.flatnonzero(~(np.abs(answer.p_synthetic - 0.5) <= 0.5 + _SLACK))
    if len(wrong):
        at = int(wrong[0])
        raise BuildError(f"{who}.score gave {answer.p_synthetic[at]} for {some[at].name}, which is no probability; {advice}")
    named = answer.p_generator
    if named is not None and (named.shape != (len(some), len(answer.generators)) or not np.isfinite(named).all()):
        raise BuildError(
            f"{who}.score gave {named.shape} values, not all of them finite perhaps, for {len(some)} images and "
            f"{len(answer.generators)} names of generators; {advice}"
        )
    return answer


def known(name: str, checkpoints: Sequence[Path]) -> None:
    """Raises `UsageError` for a card that does not exist, or a folder that is no checkpoint."""
    for folder in checkpoints:
        catalog.card("detectors", read_config(folder, "card")["card"])
    if not checkpoints:
        catalog.card("detectors", name)


def judges(
    name: str, checkpoints: Sequence[Path], train: Rows | None, calibration: Rows | None, lock: Path | None = None
) -> list[Judge]:
    """The checkpoints of a detector, one a seed, or the card `name` as it is, taught on `train` where it learns; each with its
    threshold from `calibration`. `lock`: where the commit of a card that names none is recorded, and read from then on. Raises
    `UsageError` for an unknown card, or for one that has nothing to learn from."""
    good = readable(calibration)[0] if calibration is not None else None
    revision = None if checkpoints else _commit(catalog.card("detectors", name), lock)
    built = _built(name, checkpoints, train, revision)
    return [replace(frozen(detector, seed, good), revision=revision) for detector, seed in built]


def _commit(card: catalog.Card, lock: Path | None) -> str | None:
    """The commit of a card's model on the Hub, None for a model that has none."""
    if lock is not None:
        return catalog.resolve(card, lock) if card.model and is_hub_id(card.model) else None
    if card.revision == catalog.UNRESOLVED and card.model and is_hub_id(card.model):
        log.warning("%s names no commit of %s, and nothing records one here: what main is today is used", card.name, card.model)
    return None


def _built(
    name: str, checkpoints: Sequence[Path], train: Rows | None, revision: str | None
) -> Iterator[tuple[Detector, int | None]]:
    for folder in checkpoints:
        config = read_config(folder, "card")
        seed = config.get("trained", {}).get("settings", {}).get("seed")
        yield catalog.build(catalog.card("detectors", config["card"]), model=str(folder)), seed
    if checkpoints:
        return
    built = catalog.build(catalog.card("detectors", name), revision=revision)
    if learns(built):
        if train is None:
            raise UsageError(
                f"the detector '{name}' learns from a train split, and there is none here; evaluate it on a release"
            )
        good, _ = readable(train)
        taught(built, items(good), good.label)
    yield built, None


def families(first: Judge, names: Sequence[str], rows: Rows) -> Mapping[str, str]:
    """The family of each name that a detector gives: as the test says, or its checkpoint; itself where nobody does."""
    if first.names_are == "family":
        return {name: name for name in names}
    known = dict(zip(rows.generator, rows.family, strict=True)) | first.config.get("families", {})
    return {name: str(known.get(name, name)) for name in names}


def learns(detector: object) -> bool:
    """Whether it has to be fitted before it can score."""
    return getattr(detector, "fit", None) is not None


def taught(detector: Any, these: Sequence[Item], label: npt.NDArray[np.int64]) -> None:
    """Fit it. Raises `UsageError` where there are not both classes to learn from."""
    if len(np.unique(label)) < 2:
        raise UsageError("a detector learns from both real and synthetic images; its train split has one class only")
    detector.fit(these, label)


def frozen(detector: Detector, seed: int | None, calibration: Rows | None) -> Judge:
    """The detector with its scale and its thresholds fixed on the calibration images, every one readable."""
    if calibration is None:
        return Judge(detector, seed, reason="no calibration split: the detector's own 0.5")
    answer = score(detector, items(calibration))
    fitted = metrics.platt(calibration.label, metrics.logit(answer.p_synthetic))
    few = f"the calibration split ({len(calibration)} images) is too small or misleads: the detector's own 0.5"
    scale, bias = fitted or (1.0, 0.0)
    judge = Judge(detector, seed, scale, bias, None if fitted else few)
    if answer.p_generator is None:
        return judge
    made = np.flatnonzero(calibration.label == 1)
    truth = calibration.named(judge.names_are)
    return replace(judge, keep=naming.least([truth[i] for i in made], answer.p_generator[made], answer.generators))


def crossed(rows: Rows, name: str = NO_PIXEL) -> Floats:
    """P(synthetic) of every row by a detector that learns, each row's from a fit on other groups alone: what the file's form
    gives away in a test that comes without a train split. (n,), 0.5 where a fold has one class only."""
    from sklearn.model_selection import StratifiedGroupKFold

    p = np.full(len(rows), 0.5)
    groups = np.unique(np.asarray(rows.group, dtype=str), return_inverse=True)[1]
    folds = min(FOLDS, len(np.unique(groups)), int(np.bincount(rows.label, minlength=2).min()))
    if folds < 2:
        return p
    for train, test in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(p, rows.label, groups):
        if len(np.unique(rows.label[train])) == 2:
            built = catalog.build(catalog.card("detectors", name))
            taught(built, items(rows, train.tolist()), rows.label[train])
            p[test] = score(built, items(rows, test.tolist())).p_synthetic
    return p
