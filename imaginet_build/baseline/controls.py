"""What the figures are worth: what permuted labels reach on this very test, whether real images become synthetic by being
smoothed, and how far the verdict moves when one class alone is treated.

None of the treatments makes a photograph synthetic. A detector that calls blurred, resized or re-encoded photographs synthetic
has learned smoothness, and its AUC on a test whose synthetic images are the smoother ones says little.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from imaginet_build import perturb
from imaginet_build.auditing import bias, crossfit
from imaginet_build.baseline import metrics
from imaginet_build.baseline.data import Rows
from imaginet_build.baseline.judge import Change, Judge, items, score
from imaginet_build.baseline.metrics import HALF, Figures, Floats, Ints, rounded
from imaginet_build.records import Item, random_of

ROWS = 200
SURE = 0.01
"""p below which more real images called synthetic are no accident."""
LARGE = 0.1
"""The share of real images that must change sides before it is called smoothness."""
_PERMUTED = (
    "AUC of these scores against labels permuted among groups, a group that holds both classes swapping within itself: "
    "what chance reaches on a test of this size"
)


def _blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(1))


def _resized(image: Image.Image) -> Image.Image:
    size = (max(1, image.width * 3 // 4), max(1, image.height * 3 // 4))
    return image.resize(size, Image.Resampling.LANCZOS)


def _reencoded(image: Image.Image) -> Image.Image:
    return perturb.recompress(image, "jpeg", 75)


CHANGES: dict[str, Change] = {"real_blurred": _blurred, "real_resized": _resized, "real_reencoded": _reencoded}
_DONE = {
    "real_blurred": "blurred (sigma 1)",
    "real_resized": "reduced to three quarters",
    "real_reencoded": "saved as JPEG at 75",
}


def controls(rows: Rows, judges: Sequence[Judge], scores: Floats, permutations: int) -> Figures:
    """Every control, as one part of the report. `scores`: (seeds, n) of `rows`."""
    return {
        "permuted_labels": permuted(rows.label, rows.group, scores, permutations),
        **smoothed(rows, judges),
        "bias": one_sided(rows, judges),
    }


def permuted(label: Ints, groups: Sequence[str], scores: Floats, times: int) -> Figures:
    """What chance reaches on this test. `reachable`: the AUC that one permutation in forty exceeds (97.5 % lie below): an AUC
    below it is no evidence; `p`: the share of permutations that reach this test's AUC, itself among them."""
    if reason := metrics.too_few(label, groups):
        return {"mean": None, "range95": None, "reachable": None, "p": None, "times": 0, "what": _PERMUTED, "reason": reason}
    _, number = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    reached = [_auc(new, scores) for new in crossfit.permuted(label, number.astype(np.int64), times)]
    low, high = np.percentile(reached, [2.5, 97.5]) if reached else (np.nan, np.nan)
    if not reached:
        return {
            "mean": None,
            "range95": None,
            "reachable": None,
            "p": None,
            "times": 0,
            "what": _PERMUTED,
            "reason": "none asked",
        }
    own = _auc(label, scores)
    return {
        "mean": rounded(float(np.mean(reached))),
        "range95": [rounded(low), rounded(high)],
        "reachable": rounded(high),
        "p": rounded((sum(value >= own for value in reached) + 1) / (len(reached) + 1)),
        "times": len(reached),
        "what": _PERMUTED,
    }


def _auc(label: Ints, scores: Floats) -> float:
    return float(np.median([metrics.auc(label, s)[0] for s in scores]))


def smoothed(rows: Rows, judges: Sequence[Judge]) -> Figures:
    """How many of the same real images (at most `ROWS`) are called synthetic untouched and after each of `CHANGES`, and what
    that means, in words. The verdict is by an exact sign test on the images whose verdict changes (McNemar 1947)."""
    real = np.flatnonzero(rows.label == 0).tolist()
    chosen = [real[k] for k in sorted(random_of(rows.title, "baseline/controls").permutation(len(real))[:ROWS])]
    if not chosen:
        nothing = {"n": 0, "called_synthetic": None, "reason": "the test has no real image"}
        return {name: dict(nothing) for name in ("real_untouched", *CHANGES)} | {
            "smoothness": {"verdict": "undecided", "words": "the test has no real image"}
        }
    before = _called(rows, judges, chosen, None)
    found: Figures = {"real_untouched": {"n": len(chosen), "called_synthetic": _share(before)}}
    moved = []
    for name, change in CHANGES.items():
        after = _called(rows, judges, chosen, change)
        rise, p = _rise(before, after)
        found[name] = {"n": len(chosen), "called_synthetic": _share(after), "rise": rounded(rise), "p": rounded(p)}
        if rise >= LARGE and p < SURE:
            moved.append(f"{100 * _share(after):.0f} % once {_DONE[name]}")
    return found | {"smoothness": _verdict(len(chosen), _share(before), moved)}


def _verdict(n: int, before: float, moved: list[str]) -> Figures:
    head = f"of {n} real images {100 * before:.0f} % are called synthetic as they are"
    if moved:
        learned = "this detector has in part learned smoothness, and its AUC is worth less than it says"
        return {"verdict": "learned smoothness", "words": f"{head}, and {', '.join(moved)}: {learned}"}
    if n < 2 * round(1 / LARGE):
        return {"verdict": "undecided", "words": f"{head}; so few cannot say whether smoothing changes that"}
    if 0.5 ** round(n * (1 - before)) >= SURE:
        return {"verdict": "undecided", "words": f"{head}; too few are left to say whether smoothing moves them"}
    return {"verdict": "not seen", "words": f"{head}, and hardly more once blurred, reduced or saved as JPEG"}


def _called(rows: Rows, judges: Sequence[Judge], chosen: Sequence[int], change: Change | None) -> npt.NDArray[np.bool_]:
    """(seeds, n): which of the chosen rows are called synthetic."""
    return np.stack([judge.p(score(judge.detector, items(rows, chosen, change))) >= HALF for judge in judges])


def _share(called: npt.NDArray[np.bool_]) -> float:
    return rounded(float(np.median(called.mean(axis=1))))


def _rise(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The change of the share called synthetic, and the one-sided p that as many rise by chance; the median over seeds."""
    from scipy.stats import binomtest

    rises, ps = [], []
    for one, two in zip(before, after, strict=True):
        up, down = int((~one & two).sum()), int((one & ~two).sum())
        rises.append((up - down) / len(one))
        ps.append(binomtest(up, up + down, 0.5, alternative="greater").pvalue if up + down else 1.0)
    return float(np.median(rises)), float(np.median(ps))


def one_sided(rows: Rows, judges: Sequence[Judge]) -> Figures:
    """How far the verdict moves when one class alone is compressed, resized or cropped: the median over the judges."""
    chosen: list[list[int]] = []
    for label in (0, 1):
        mine = np.flatnonzero(rows.label == label).tolist()
        order = random_of(rows.title, f"baseline/bias {label}").permutation(len(mine))
        chosen.append(sorted(mine[k] for k in order[: ROWS // 4]))

    def p(these: Sequence[Item]) -> Floats:
        return np.asarray(np.median([j.p(score(j.detector, these)) for j in judges], axis=0), np.float64)

    found = bias.one_sided(p, *([items(rows, part)[k] for k in range(len(part))] for part in chosen))
    return found.to_json() if found else {"score": None, "what": bias.WHAT, "reason": "the test has one class only"}
