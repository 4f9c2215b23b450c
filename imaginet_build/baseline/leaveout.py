"""Leave one generator out: for each generator of the train split a detector that never saw it, judged on its images.

What a detector reaches on generators it was trained on says little of tomorrow's; this says more. The generator is left out of
the calibration split too, so neither the weights nor the threshold know it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from imaginet_build import catalog
from imaginet_build.baseline import judge, naming
from imaginet_build.baseline.judge import Judge, items
from imaginet_build.baseline.metrics import Figures, rounded
from imaginet_build.baseline.parts import Parts
from imaginet_build.baseline.testset import Test
from imaginet_build.errors import BuildError, UsageError

log = logging.getLogger(__name__)

Teach = Callable[[str, Path], list[Path]]
"""A generator and a folder to the checkpoints of detectors that never saw it, one a seed; a finished one is left as it is."""

WHAT = (
    "each generator judged by detectors that were trained and calibrated without it; `seen`: the AUC where it was among the "
    "others, `lost`: what leaving it out costs; `rejected`: the share of its images that are put to no known generator; "
    "`family_named`: the share put to its family"
)


def leave_one_out(
    test: Test, detector: str, teach: Teach | None, folder: Path, seen: Mapping[str, Figures], bootstrap: int
) -> Figures:
    """One detector a generator that is in the train split and in the test. `teach` trains one; None for a card that is fitted.
    `folder`: where checkpoints lie, taken up where they were. Raises `UsageError` where nothing would be left to learn."""
    if test.train is None:
        raise UsageError("--leave-one-out trains on the train split of a release; the test has none. Evaluate on a release")
    trained = sorted({g for g in test.train.generator if g != "real"})
    if len(trained) < 2:
        raise UsageError(
            f"--leave-one-out needs two generators in the train split, there is {', '.join(trained) or 'none'}: add another"
        )
    if teach is None and not judge.learns(catalog.build(catalog.card("detectors", detector))):
        raise UsageError(f"the detector '{detector}' does not learn here, so no generator can be left out of its training")
    held = [name for name in trained if name in test.rows.generator]
    found: dict[str, Figures] = {}
    for number, name in enumerate(held, 1):
        log.info("leave one out: %s (%d of %d)", name, number, len(held))
        found[name] = _without(name, test, _judges(name, test, detector, teach, folder), bootstrap)
        if (whole := seen.get(name, {}).get("auc")) is not None:
            found[name]["seen"] = whole
            if found[name]["auc"] is not None:
                found[name]["lost"] = rounded(whole - found[name]["auc"])
    known = {name: figures["auc"] for name, figures in found.items() if figures["auc"] is not None}
    worst = min(known, key=lambda name: (known[name], name)) if known else None
    mean = rounded(float(np.mean(list(known.values())))) if known else None
    return {"generators": found, "worst": worst, "mean": mean, "what": WHAT} | (
        {} if known else {"reason": "no generator has enough groups in the test to be judged alone"}
    )


def _judges(name: str, test: Test, detector: str, teach: Teach | None, folder: Path) -> list[Judge]:
    train = test.train.without(name) if test.train is not None else None
    calibration = test.calibration.without(name) if test.calibration is not None else None
    if teach is None:
        return judge.judges(detector, (), train, calibration, test.lock)
    return judge.judges(detector, teach(name, folder / _as_folder(name)), None, calibration)


def _as_folder(name: str) -> str:
    """A generator's name as that of a folder. Raises `BuildError` where it cannot be one."""
    plain = "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in name).strip(". ")
    if not plain:
        raise BuildError(
            f"the generator {name!r} has no letter that a folder could be called by; rename it in its card or index"
        )
    return plain


def _without(name: str, test: Test, judges: Sequence[Judge], bootstrap: int) -> Figures:
    """The generator's images and the real ones beside them; whether the detector put them into their family, or into none."""
    whole = Parts(test.rows, np.zeros((1, len(test.rows))), 0)
    mine = (test.rows.label == 1) & (np.array(test.rows.generator, dtype=object) == name)
    some = test.rows.some(np.flatnonzero(whole.against(mine)).tolist())
    answers = [judge.score(j.detector, items(some)) for j in judges]
    scores = np.stack([j.p(a) for j, a in zip(judges, answers, strict=True)])
    figures = Parts(some, scores, bootstrap).part(np.ones(len(some), bool))
    made = np.flatnonzero(some.label == 1)
    named = [a.p_generator[made] for a in answers if a.p_generator is not None]
    if len(named) < len(judges):
        return figures
    if keep := [j.keep for j in judges if j.keep is not None]:
        low = [float((p.max(1) < least).mean()) for p, least in zip(named, keep, strict=True)]
        figures["rejected"] = rounded(float(np.median(low)))
    family = some.family[int(made[0])]
    right = []
    for j, a, p in zip(judges, answers, named, strict=True):
        sums, names = naming.merged(p, a.generators, judge.families(j, a.generators, test.rows))
        right.append(float(np.mean([names[k] == family for k in sums.argmax(1)])))
    return figures | {"family": family, "family_named": rounded(float(np.median(right)))}
