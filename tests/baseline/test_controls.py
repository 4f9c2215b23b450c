"""The controls: a detector that learned smoothness is exposed, permuted labels give chance, one that looks is not accused."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageFilter

from imaginet_build.baseline import controls, metrics
from imaginet_build.baseline.data import Rows
from imaginet_build.baseline.judge import Judge
from imaginet_build.records import Item, Scores


class Smoothness:
    """Calls synthetic what has little fine detail: on data whose synthetic images are the smoother ones it looks perfect."""

    generators: tuple[str, ...] = ()

    def score(self, items: Sequence[Item]) -> Scores:
        detail = [np.abs(np.diff(np.asarray(item.image.convert("L"), float), axis=1)).mean() for item in items]
        return Scores(1 / (1 + np.exp(np.array(detail) - 25)))


class Marked:
    """Looks at one thing only: whether the left upper corner is red."""

    generators: tuple[str, ...] = ()

    def score(self, items: Sequence[Item]) -> Scores:
        red = [np.asarray(item.image.convert("RGB"), float)[:12, :12].mean((0, 1)) for item in items]
        return Scores(np.array([0.95 if r[0] > r[1] + 60 else 0.05 for r in red]))


def drawn(number: int, fake: bool) -> bytes:
    noise = np.random.default_rng(number).integers(60, 190, (48, 48, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    if fake:
        image = image.filter(ImageFilter.GaussianBlur(1.5))
        image.paste((250, 20, 20), (0, 0, 16, 16))
    held = io.BytesIO()
    image.save(held, "PNG")
    return held.getvalue()


@pytest.fixture(scope="module")
def test_rows() -> Rows:
    label = np.array([0, 1] * 40, np.int64)
    data = [drawn(i, bool(y)) for i, y in enumerate(label)]
    names = tuple(f"{i:03d}" for i in range(80))
    kinds = tuple("tool" if y else "real" for y in label)
    return Rows("t", names, label, ("all",) * 80, kinds, kinds, names, np.full((80, 2), 48), lambda row: data[row])


def scores_of(rows: Rows, detector: object) -> np.ndarray:
    from imaginet_build.baseline.judge import items, score

    return score(detector, items(rows)).p_synthetic[None]  # type: ignore[arg-type]


def test_a_detector_that_learned_smoothness_is_exposed(test_rows: Rows) -> None:
    smooth = Judge(Smoothness(), 0)
    assert metrics.auc(test_rows.label, scores_of(test_rows, smooth.detector)[0])[0] == 1, "its AUC gives no hint"
    found = controls.smoothed(test_rows, [smooth])
    assert found["real_untouched"]["called_synthetic"] == 0
    assert found["real_blurred"]["called_synthetic"] > 0.9
    assert found["real_blurred"]["p"] < 0.01
    assert found["smoothness"]["verdict"] == "learned smoothness"
    assert "worth less than it says" in found["smoothness"]["words"]
    assert "once blurred (sigma 1)" in found["smoothness"]["words"]


def test_a_detector_that_looks_at_something_else_is_not_accused(test_rows: Rows) -> None:
    found = controls.smoothed(test_rows, [Judge(Marked(), 0)])
    assert {name: f["called_synthetic"] for name, f in found.items() if "called_synthetic" in f} == {
        "real_untouched": 0, "real_blurred": 0, "real_resized": 0, "real_reencoded": 0,
    }  # fmt: skip
    assert found["smoothness"]["verdict"] == "not seen"


def test_few_or_no_real_images_say_nothing(test_rows: Rows) -> None:
    few = test_rows.some([0, 1, 2, 3])
    assert controls.smoothed(few, [Judge(Marked(), 0)])["smoothness"]["verdict"] == "undecided"
    none = controls.smoothed(test_rows.some([1, 3]), [Judge(Marked(), 0)])
    assert none["real_blurred"]["called_synthetic"] is None
    assert none["smoothness"]["verdict"] == "undecided"
    assert controls.one_sided(test_rows.some([1, 3]), [Judge(Marked(), 0)])["score"] is None


def test_permuted_labels_give_chance_and_a_small_test_says_how_far_chance_reaches() -> None:
    label = np.array([0, 1] * 200)
    perfect = label[None] * 0.8 + 0.1
    large = controls.permuted(label, [str(i) for i in range(400)], perfect, 200)
    assert large["mean"] == pytest.approx(0.5, abs=0.02)
    assert large["reachable"] < 0.58
    assert large["p"] == pytest.approx(1 / 201, abs=1e-6)
    small = controls.permuted(label[:12], [str(i) for i in range(12)], np.random.default_rng(1).random((1, 12)), 200)
    assert small["reachable"] > 0.75, "six images of a class: chance alone reaches far"
    assert small["p"] > 0.02
    few = controls.permuted(label[:4], [str(i) for i in range(4)], perfect[:, :4], 200)
    assert (few["mean"], few["reachable"]) == (None, None)
    assert "needs 5 groups" in few["reason"]
    assert controls.permuted(label, [str(i) for i in range(400)], perfect, 0)["reason"] == "none asked"


def test_pairs_stay_pairs_when_labels_are_permuted() -> None:
    """A real image and its reconstruction in each group: swapped within it, so each group always holds both."""
    label = np.array([0, 1] * 30)
    groups = [str(i // 2) for i in range(60)]
    content = np.repeat(np.random.default_rng(1).random(30), 2)
    found = controls.permuted(label, groups, (content + label * 1e-3)[None], 200)
    assert found["range95"][1] < 0.51, "what differs between groups is no noise here: pairs share it"
    assert found["p"] == pytest.approx(1 / 201, abs=1e-6)


class Everything:
    """Calls every image synthetic."""

    generators: tuple[str, ...] = ()

    def score(self, items: Sequence[Item]) -> Scores:
        return Scores(np.full(len(items), 0.9))


def test_where_all_are_called_synthetic_already_smoothing_shows_nothing(test_rows: Rows) -> None:
    found = controls.smoothed(test_rows, [Judge(Everything(), 0)])["smoothness"]
    assert found["verdict"] == "undecided"
    assert "100 % are called synthetic as they are; too few are left" in found["words"]
