"""Several detectors on one test, the one without pixels always among them, differences on the same resampled groups."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from imaginet_build.baseline import leaderboard
from imaginet_build.baseline.data import Rows
from imaginet_build.baseline.testset import Test, prepare
from imaginet_build.errors import UsageError


@pytest.fixture(scope="module")
def board(tiny: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("board")
    found = leaderboard.leaderboard(prepare(tiny), [("mine", [trained]), ("spectral", [])], out, bootstrap=40, permutations=20)
    return found, out


def test_the_detector_without_pixels_always_has_its_row(board: tuple[dict[str, Any], Path]) -> None:
    rows = {row["detector"]: row for row in board[0]["leaderboard"]}
    assert set(rows) == {"mine", "spectral", "nopixel"}
    assert rows["nopixel"]["auc"] == 0.5, "every file of this release has the same form"
    assert rows["nopixel"]["rank"] == 3
    assert all(row["smoothness"] for row in rows.values())
    assert board[0]["detectors"]["mine"]["tracks"]["origin"]["auc"] == rows["mine"]["auc"]


def test_rows_are_ordered_by_the_worst_generator(board: tuple[dict[str, Any], Path]) -> None:
    worst = [row["worst_auc"] for row in board[0]["leaderboard"]]
    assert worst == sorted(worst, reverse=True)
    for row in board[0]["leaderboard"]:
        by_generator = board[0]["detectors"][row["detector"]]["by_generator"]
        assert row["worst_auc"] == by_generator[row["worst_generator"]]["auc"] == min(f["auc"] for f in by_generator.values())


def test_the_files_hold_the_table_and_the_plot(board: tuple[dict[str, Any], Path]) -> None:
    document, out = board
    assert json.loads((out / "leaderboard.json").read_text()) == {k: v for k, v in document.items() if k != "files"}
    with (out / "leaderboard.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["detector"] for line in table] == [row["detector"] for row in document["leaderboard"]]
    page = (out / "leaderboard.html").read_text()
    assert "default-src 'none'" in page
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    dots = svg.findall("circle")
    assert len(dots) == 3 * 2, "a dot a generator for each detector"
    assert sum("worst" in dot.attrib["class"] for dot in dots) == 3
    assert all(0 <= float(dot.attrib["cx"]) <= 520 for dot in dots)
    with (out / "scores.csv").open(newline="") as file:
        scores = list(csv.DictReader(file))
    assert len(scores) == 3 * 32
    assert {line["detector"] for line in scores} == {"mine", "spectral", "nopixel"}


def test_names_from_outside_are_escaped() -> None:
    hostile = "<script>alert(1)</script>"
    f = {"auc": 0.7, "ci95": None, **dict.fromkeys(leaderboard.COLUMNS, 0.5)}
    head = {"worst": {"auc": {"generator": hostile, "value": 0.7, "ci95": None}}, "mean": {"auc": {"value": 0.7, "ci95": None}}}
    one = {"detector": hostile, "checkpoint": None, "headline": head, "tracks": {"origin": f}, "by_generator": {hostile: f}}
    said = {
        "test": {"name": hostile, "images": 1, "groups": 1, "layout": "x"},
        "leaderboard": [{"rank": 1, **leaderboard.row(one)}],
        "differences": [],
        "detectors": {hostile: one},
    }
    page = leaderboard.page(said)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def spread(n: int, seed: int) -> tuple[Test, np.ndarray]:
    random = np.random.default_rng(seed)
    label = np.array([0, 1] * (n // 2))
    names = tuple(f"{i:04d}" for i in range(n))
    kinds = tuple("tool" if y else "real" for y in label)
    rows = Rows("t", names, label, ("all",) * n, kinds, kinds, names, np.full((n, 2), 64), lambda row: b"")
    return Test(rows, "folders", None, None, None), label + random.normal(0, 1.2, n)


def test_a_paired_difference_is_surer_than_two_intervals_apart() -> None:
    """The second detector is the first one made a little worse: their intervals overlap, the difference is sure."""
    test, logit = spread(600, 1)
    a = 1 / (1 + np.exp(-(logit - 0.5) * 2))[None]
    b = 1 / (1 + np.exp(-(logit - 0.5) * 2 + np.random.default_rng(2).normal(0, 1.8, 600)))[None]
    (found,) = leaderboard.differences(test, {"a": a, "b": b}, 400)
    assert (found["first"], found["second"]) == ("a", "b")
    assert found["auc"]["value"] > 0
    assert found["auc"]["sure"] is True
    from imaginet_build.baseline.intervals import interval

    first, second = (interval(test.rows.label, p, test.rows.group, 400) for p in (a, b))
    assert first is not None
    assert second is not None
    assert first[0] < second[1], "apart, the two intervals overlap"
    (same,) = leaderboard.differences(test, {"a": a, "again": a}, 50)
    assert same["auc"] == {"value": 0, "ci95": [0, 0], "sure": False}
    few, _ = spread(6, 1)
    assert leaderboard.differences(few, {"a": a[:, :6], "b": b[:, :6]}, 50) == []


def test_a_set_without_a_train_split_cross_fits_what_sees_no_pixel(trained: Path, tmp_path: Path) -> None:
    """The real ones are JPEG, the others PNG: no detector has to look at these pictures, and the row says so."""
    for k in range(30):
        for place, kind in (("real", "jpg"), ("fake/tool", "png")):
            path = tmp_path / place / f"{k}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((48, 48), 20 + k).convert("RGB").save(path)
    found = leaderboard.leaderboard(prepare(tmp_path), [("mine", [trained])], None, bootstrap=10, permutations=10)
    none = next(row for row in found["leaderboard"] if row["detector"] == "nopixel")
    assert "cross-fitted over groups" in none["how"]
    assert none["auc"] > 0.9
    assert "files" not in found


def test_a_fault_of_the_last_is_said_before_the_first_is_judged(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a checkpoint"):
        leaderboard.leaderboard(prepare(tiny), [("spectral", []), ("broken", [tmp_path])], None)
    with pytest.raises(UsageError, match="did you mean 'spectral'"):
        leaderboard.leaderboard(prepare(tiny), [("nopixel", []), ("spectrl", [])], None)
