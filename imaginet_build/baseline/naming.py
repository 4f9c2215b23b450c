"""The generator track, over synthetic rows alone: which model made an image, among those a detector knows (closed set), how
well it keeps its hands off those it does not know (open set), and what is right one storey up, at the family.

Rows whose true name the detector has never heard are `unknown`: generators held out of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imaginet_build.baseline import metrics
from imaginet_build.baseline.intervals import ends, resamples
from imaginet_build.baseline.metrics import Figures, Floats, Ints, rounded

FIGURES = ("accuracy", "balanced_accuracy", "macro_auc")
OPEN = ("oscr", "auroc")
KEPT = 0.95
WHAT_OSCR = (
    "area under the share of known images named right against the share of unknown ones let through, over every threshold on "
    "the highest probability (Dhamija et al. 2018): 0 to the closed-set accuracy"
)


@dataclass(frozen=True)
class Named:
    """Rows to be named. `truth`: (n,) names; `group`: (n,); `answers`: for each seed (n, len(names)) probabilities; `keep`: for
    each seed the highest probability that an image must reach to be named at all, frozen on the calibration split, or None."""

    truth: Sequence[str]
    group: Sequence[str]
    answers: Sequence[Floats]
    names: Sequence[str]
    keep: Sequence[float] | None = None

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(n,): whose true name is one of `names`."""
        return np.array([name in self.names for name in self.truth], bool)

    @property
    def place(self) -> Ints:
        """(n,): the number of the true name, -1 for an unknown one."""
        number = {name: k for k, name in enumerate(self.names)}
        return np.array([number.get(name, -1) for name in self.truth], np.int64)


def closed(place: Ints, answer: Floats, weight: Floats) -> dict[str, Floats]:
    """Accuracy, the mean recall over the names that occur, and the mean one-against-rest AUC over them, each (k,) from 0 to 1
    under the weightings `weight` (k, n). Chance of the first two: one over the number of names; of the last: 0.5."""
    present = np.unique(place)
    right = (answer.argmax(1) == place).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        recalls = np.stack([weight[:, place == k] @ right[place == k] / weight[:, place == k].sum(1) for k in present])
        areas = np.stack([metrics.auc((place == k).astype(np.int64), answer[:, k], weight) for k in present])
        accuracy = weight @ right / weight.sum(1)
    return {"accuracy": accuracy, "balanced_accuracy": recalls.mean(0), "macro_auc": areas.mean(0)}


def opened(place: Ints, answer: Floats, weight: Floats) -> dict[str, Floats]:
    """OSCR and the AUROC of the highest probability for telling known names from unknown ones (`place` -1), each (k,).

    A known image counts at a threshold where it is named right and its probability reaches it. Averaged over the unknown
    images, that is the accuracy times the area between the rightly named ones and the unknown. AUROC: 0 to 1, chance 0.5
    (Hendrycks and Gimpel 2017).
    """
    sure, known = answer.max(1), place >= 0
    right = known & (answer.argmax(1) == place)
    some = right | ~known
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = weight @ right / (weight @ known)
        between = metrics.auc(right[some].astype(np.int64), sure[some], weight[:, some])
        return {
            "oscr": np.where(accuracy > 0, accuracy * between, accuracy),
            "auroc": metrics.auc(known.astype(np.int64), sure, weight),
        }


def figures(rows: Named, times: int) -> Figures:
    """The closed set of one naming, with intervals over groups, its confusion, and the open set beside it."""
    place, known = rows.place, rows.known
    found: Figures = {"n": int(known.sum()), "unknown": int((~known).sum())}
    present = np.unique(place[known])
    if len(present) < 2:
        reason = f"needs two known generators or families in the test, it has {len(present)}"
        nothing: Figures = dict.fromkeys(FIGURES) | {"reasons": dict.fromkeys(FIGURES, reason)}
        return found | nothing | {"open_set": _open_set(rows, 0)}
    answers = [a[known] for a in rows.answers]
    one = _median([closed(place[known], a, np.ones((1, len(a)))) for a in answers])
    found |= {name: rounded(one[name][0]) for name in FIGURES}
    if times:
        weight = resamples([g for g, k in zip(rows.group, known, strict=True) if k], times, "names")
        spread = _median([closed(place[known], a, weight) for a in answers])
        found["intervals"] = {name: ends(spread[name]) for name in FIGURES}
    found["classes"] = [rows.names[k] for k in present]
    return found | {"confusion": confusion(rows), "open_set": _open_set(rows, times)}


def confusion(rows: Named) -> Figures:
    """How often each true name (a row, unknown ones last) was called each name (a column): counts, the mean over seeds."""
    known = {name: rows.names.index(name) for name in rows.names if name in rows.truth}
    true = [*known, *sorted(set(rows.truth) - set(rows.names))]
    number = {name: k for k, name in enumerate(true)}
    at = np.array([number[name] for name in rows.truth])
    counts = np.zeros((len(true), len(rows.names)))
    for answer in rows.answers:
        np.add.at(counts, (at, answer.argmax(1)), 1 / len(rows.answers))
    return {"true": true, "named": list(rows.names), "counts": [[round(float(c), 3) for c in row] for row in counts]}


def _open_set(rows: Named, times: int) -> Figures:
    place, known = rows.place, rows.known
    if known.all() or not known.any():
        why = "every generator of the test was trained on: hold one out (balance.held_out.generators)"
        return dict.fromkeys((*OPEN, "rejected", "known_kept")) | {"reason": why if known.any() else "no generator is known"}
    one = _median([opened(place, a, np.ones((1, len(a)))) for a in rows.answers])
    found: Figures = {name: rounded(one[name][0]) for name in OPEN}
    if times:
        spread = _median([opened(place, a, resamples(rows.group, times, "names")) for a in rows.answers])
        found["intervals"] = {name: ends(spread[name]) for name in OPEN}
    if rows.keep is None:
        why = "no calibration split with synthetic images froze the least probability of a name"
        found |= {"rejected": None, "known_kept": None, "reason": why}
    else:
        low = [a.max(1) < keep for a, keep in zip(rows.answers, rows.keep, strict=True)]
        found["rejected"] = rounded(float(np.median([r[~known].mean() for r in low])))
        found["known_kept"] = rounded(float(np.median([1 - r[known].mean() for r in low])))
        found["least_probability"] = rounded(float(np.median(rows.keep)))
    return found | {"unknown": sorted({n for n, k in zip(rows.truth, known, strict=True) if not k}), "what": WHAT_OSCR}


def least(truth: Sequence[str], answer: Floats, names: Sequence[str]) -> float | None:
    """The highest probability that `KEPT` of the known rows reach: below it an image is of no generator that is known."""
    known = [k for k, name in enumerate(truth) if name in names]
    return float(np.quantile(answer[known].max(1), 1 - KEPT)) if known else None


def merged(answer: Floats, names: Sequence[str], family_of: Mapping[str, str]) -> tuple[Floats, list[str]]:
    """Probabilities of generators summed to probabilities of families: (n, families), and the families, sorted."""
    families = sorted({family_of[n] for n in names})
    sums = np.zeros((len(answer), len(families)))
    for column, name in enumerate(names):
        sums[:, families.index(family_of[name])] += answer[:, column]
    return sums, families


def tree(generators: Sequence[str], families: Sequence[str], by_name: Named | None, by_family: Named) -> Figures:
    """Family by family, and in each generator by generator: how many images, the share named right, and the share whose family
    is right. A generator that was held out can still be put into its family: `known` says which is which."""
    family_right = np.mean([a.argmax(1) == by_family.place for a in by_family.answers], axis=0)
    right = np.mean([a.argmax(1) == by_name.place for a in by_name.answers], axis=0) if by_name else None

    def node(rows: npt.NDArray[np.bool_], name: str | None) -> Figures:
        known = bool(by_name and name in by_name.names)
        own = rounded(right[rows].mean()) if right is not None and (known or name is None) else None
        said: Figures = {"n": int(rows.sum()), "named": own, "family_named": rounded(family_right[rows].mean())}
        return said | ({} if name is None else {"known": known if by_name else None})

    made, kind = np.array(generators, dtype=object), np.array(families, dtype=object)
    return {
        family: node(kind == family, None)
        | {"known": family in by_family.names}
        | {"generators": {g: node((kind == family) & (made == g), g) for g in sorted(set(made[kind == family]))}}
        for family in sorted(set(families))
    }


def _median(each: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.median([one[name] for one in each], axis=0) for name in each[0]}
