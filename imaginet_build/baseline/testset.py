"""A test made ready once, for however many detectors: opened, looked through for what training held, read, every loss named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from imaginet_build import perturb
from imaginet_build.baseline import benchsets, contaminated, hubsets
from imaginet_build.baseline.benchsets import Bench
from imaginet_build.baseline.contaminated import Measure
from imaginet_build.baseline.data import Rows, splits
from imaginet_build.baseline.judge import readable
from imaginet_build.baseline.metrics import Figures
from imaginet_build.duplicates.contamination import Sketch
from imaginet_build.errors import UsageError, suggest


@dataclass(frozen=True)
class Around:
    """What a test of somebody else's needs besides itself. `home`: the release that the detector was trained on, whose
    calibration split fixes the threshold, whose train split teaches what learns, and whose images are looked for in the test;
    `kept`: the folder for its sketch; `sketches`: of other training data; `measure`: how an image is hashed, None for no check;
    `keep`: what training held stays in; `real`, `images`, `calibration`: see `benchsets`; `condition`: what every test image
    goes through first, one of `perturb.CONDITIONS`, drawn from its name; `lock`: where the commits of detectors are
    recorded."""

    home: Path | None = None
    kept: Path | None = None
    sketches: Sequence[Sketch] = ()
    measure: Measure | None = None
    keep: bool = False
    real: Path | None = None
    images: Path | None = None
    calibration: Path | None = None
    condition: str | None = None
    lock: Path | None = None


@dataclass(frozen=True)
class Test:
    """`rows`: every one readable, with its size; `frozen`: which images fix the threshold, in words; `contamination`: what was
    looked for and found, None for a release's own test split, which the balancer keeps apart from its train split; `lock`: see
    `Around`; `revision`: the commit of a data set of the Hub."""

    rows: Rows
    layout: str
    train: Rows | None
    calibration: Rows | None
    frozen: str | None
    release: Path | None = None
    contamination: Figures | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    condition: str | None = None
    lock: Path | None = None
    revision: str | None = None

    __test__ = False  # for pytest, which collects what is called so

    def described(self) -> Figures:
        """Name, size and kind, for the report."""
        groups = len(set(self.rows.group))
        found = {"name": self.rows.title, "images": len(self.rows), "groups": groups, "layout": self.layout}
        found |= {"condition": self.condition} if self.condition else {}
        return found | ({"revision": self.revision} if self.revision else {})


def prepare(on: Path | str | tuple[Path, Path], view: str = "equalized", around: Around | None = None) -> Test:
    """Make the test at `on` ready: a path, a data set of the Hub, or the folders (real, synthetic). Raises `UsageError` for
    what is no test, or holds nothing that training did not hold."""
    around = around or Around()
    if around.condition is not None and around.condition not in perturb.CONDITIONS:
        near = suggest(around.condition, perturb.CONDITIONS)
        raise UsageError(f"no condition '{around.condition}'{near or '.'} There are: {', '.join(perturb.CONDITIONS)}")
    bench = _opened(on, view, around)
    own = bench.release is not None and around.home is not None and bench.release.resolve() == around.home.resolve()
    train, calibration, where = bench.train, bench.calibration, f"calibration split of {bench.rows.title.partition(':')[0]}"
    if around.home is not None and bench.release is None:
        at_home = splits(around.home, view)
        train, calibration, where = at_home.get("train"), at_home.get("calibration"), f"calibration split of {around.home.name}"
    if around.calibration is not None:
        calibration = benchsets.calibration_of(around.calibration, around.images)
        where = str(around.calibration)
    frozen = None if calibration is None else f"{where} ({len(calibration)} images)"
    rows, contamination = bench.rows, None
    if around.measure is not None and not own:
        sketches = list(around.sketches)
        if around.home is not None:
            sketches.append(contaminated.sketch_of(around.home, around.measure, around.kept))
        rows, contamination = contaminated.cleared(rows, sketches, around.measure, around.keep)
    if around.condition is not None:
        rows = replace(rows, read=partial(_under, rows, around.condition))
    rows, unreadable = readable(rows)
    if calibration is not None and (both := set(calibration.ids) & set(rows.ids)) and bench.release is None:
        rows = rows.some([i for i, name in enumerate(rows.ids) if name not in both])
        frozen = f"{frozen}; {len(both)} images of the test are among them and were taken out of it"
    if len({int(y) for y in rows.label}) < 2:
        raise UsageError(f"of {rows.title} only images of one class can be judged; a test needs real and synthetic ones")
    lost = unreadable | dict(bench.lost)
    return Test(
        rows, bench.layout, train, calibration, frozen, bench.release, contamination, lost, around.condition, around.lock,
        bench.revision,
    )  # fmt: skip


def _under(rows: Rows, condition: str, row: int) -> bytes:
    """The file that the condition makes of a row's image: the same one whenever it is asked."""
    return perturb.perturbed_file(rows.image(row), condition, rows.ids[row])


def _opened(on: Path | str | tuple[Path, Path], view: str, around: Around) -> Bench:
    if isinstance(on, tuple):
        return benchsets.of_pair(*on)
    path = Path(on)
    if not path.exists() and hubsets.NAME.fullmatch(str(on)) and (str(on).startswith("hf://") or not path.parent.exists()):
        return hubsets.fetched(str(on), view)
    return benchsets.opened(path, view, around.real, around.images)
