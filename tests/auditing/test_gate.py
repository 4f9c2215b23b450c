"""The gate: a planted marker is caught, clean data passes, too little data is called that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from looks import cases_of, facts

from imaginet_build.auditing.gate import LIMIT, decide, joint
from imaginet_build.auditing.markers import MARKER_P, Marker, SelfTest, _fisher, markers, shares
from imaginet_build.auditing.probes import Probe, probes_of

NOTHING = np.empty(0)
LOW = np.full(100, 0.51)


@pytest.mark.parametrize("rows", [200, 1000, 3000])
def test_a_marker_on_two_percent_or_25_groups_is_caught(rows: int) -> None:
    cases = cases_of(np.arange(rows) % 2)
    marked = np.flatnonzero(cases.labels == 1)[: max(rows // 50, 25)]
    found = markers(probes_of(facts(rows, 3, marked)), cases)
    assert [(m.probe, m.value, m.real) for m in found] == [("text", "yes", 0)]
    gate = decide(0.5, LOW, found, rows)
    assert gate.verdict == "refused"
    assert "text = yes" in gate.reason


def test_a_marker_is_caught_where_the_groups_are_pairs() -> None:
    groups = np.repeat(np.arange(400), 2)
    cases = cases_of(np.tile([0, 1], 400), groups)
    marked = np.flatnonzero(cases.labels == 1)[:25]
    assert markers(probes_of(facts(800, 4, marked)), cases)[0].probe == "text"


def test_a_marker_in_one_photograph_of_many_crops_is_one_witness() -> None:
    """A hundred marked crops of one photograph are no more than one odd photograph."""
    groups = np.r_[np.repeat(np.arange(10), 100), np.arange(10, 210)]
    cases = cases_of((groups >= 10).astype(int), groups)
    found = markers(probes_of(facts(len(groups), 5, np.flatnonzero(groups == 0))), cases)
    assert [m for m in found if m.probe == "text"] == []


def test_large_groups_of_one_class_are_no_marker() -> None:
    """Sixty crops of a photograph meet every quality there is, one generated image meets one: no leak."""
    false = 0
    for seed in range(20):
        groups = np.r_[np.repeat(np.arange(20), 60), np.arange(20, 1220)]
        cases = cases_of((groups >= 20).astype(int), groups)
        false += bool(markers(probes_of(facts(len(groups), seed)), cases))
    assert false == 0


def test_clean_data_is_not_marked_more_often_than_promised() -> None:
    false = 0
    for seed in range(200):
        labels = np.random.default_rng(seed).permutation(np.arange(400) % 2)
        false += bool(markers(probes_of(facts(400, 1000 + seed)), cases_of(labels)))
    assert false <= 200 * MARKER_P * 3


def test_clean_data_passes_with_all_facts_together() -> None:
    verdicts = []
    for seed in range(3):
        labels = np.random.default_rng(seed).permutation(np.arange(1500) % 2)
        value, chance = joint(probes_of(facts(1500, seed)), cases_of(labels), permutations=19)
        verdicts.append(decide(value, chance, [], 1500).verdict)
    assert verdicts.count("passed") >= 2
    assert "refused" not in verdicts


def test_a_fact_that_leans_is_refused() -> None:
    labels = np.arange(800) % 2
    table = facts(800, 9)
    sizes = np.where(np.random.default_rng(0).random(800) < 0.7, 512 + 128 * labels, 300)
    table = table.set_column(table.column_names.index("width"), "width", pa.array(sizes, pa.int32()))
    value, chance = joint(probes_of(table), cases_of(labels), permutations=19)
    gate = decide(value, chance, [], 800)
    assert gate.verdict == "refused"
    assert gate.value is not None
    assert gate.value > 0.75


def test_a_difference_within_pairs_is_refused_although_every_group_holds_both() -> None:
    labels = np.tile([0, 1], 300)
    table = facts(600, 2)
    table = table.set_column(0, "extension", pa.array(np.where(labels == 1, "png", "jpg").tolist()))
    value, chance = joint(probes_of(table), cases_of(labels, np.repeat(np.arange(300), 2)), permutations=19)
    assert value == 1.0
    assert decide(value, chance, [], 300).verdict == "refused"


@pytest.mark.parametrize(
    ("value", "chance", "verdict"),
    [
        (0.52, np.full(100, 0.53), "passed"),
        (0.56, np.full(100, 0.53), "refused"),
        (0.56, np.full(100, 0.58), "undecided"),
        (0.52, np.full(100, 0.58), "undecided"),
        (0.90, np.full(100, 0.58), "refused"),
        (0.60, np.r_[np.full(99, 0.58), 0.61], "undecided"),
        (0.60, np.r_[np.full(99, 0.53), 0.61], "refused"),
        (LIMIT, np.full(100, 0.53), "passed"),
        (None, NOTHING, "undecided"),
        (0.52, NOTHING, "undecided"),
    ],
)
def test_the_verdict(value: float | None, chance: np.ndarray, verdict: str) -> None:
    gate = decide(value, chance, [], 40)
    assert gate.verdict == verdict
    if verdict == "undecided":
        assert "undecided: 40 groups" in gate.reason


def test_a_gate_whose_self_test_fails_passes_nothing() -> None:
    blind = SelfTest((20, 12), ("extension",), False, ("extension of real",))
    gate = decide(0.51, LOW, [], 32, tested=blind)
    assert gate.verdict == "undecided"
    assert gate.reason.startswith("undecided: 32 groups, too few to notice a marker on 20 real or 12 synthetic")
    assert gate.reason.endswith("missed extension of real")
    assert decide(0.51, LOW, [], 32, tested=replace(blind, caught=True)).verdict == "passed"
    assert decide(0.90, LOW, [], 32, tested=blind).verdict == "refused"


def test_a_gate_without_25_groups_of_a_class_passes_nothing() -> None:
    few = "6 groups of a class (real), fewer than the 25 that the self-test marks"
    tested = SelfTest((6, 6), (), False, (few,), few=few)
    gate = decide(0.5, LOW, [], 12, tested=tested)
    assert (gate.verdict, gate.reason) == ("undecided", f"undecided: 12 groups; {few}")
    assert decide(0.9, LOW, [], 12, tested=tested).verdict == "refused"
    assert decide(0.5, np.full(100, 0.58), [], 12, tested=tested).reason == "undecided: 12 groups, chance alone reaches 0.580"


def test_the_reason_names_the_content_type_in_which_a_value_marks_a_class() -> None:
    marker = Marker("extension", "png", 0, 25, (300, 300), 1e-7)
    assert decide(0.5, LOW, [marker], 60).reason.startswith("extension = png marks a class: in 0 of 300 real groups")
    within = decide(0.5, LOW, [replace(marker, scope="photos")], 60)
    assert within.verdict == "refused"
    assert within.reason.startswith("extension = png marks a class among photos: in 0 of 300 real groups and in 25 of 300 syn")


def test_a_marker_refuses_also_where_nothing_else_can_be_said() -> None:
    marker = Marker("exif", "yes", 0, 30, (30, 30), 1e-9)
    assert decide(None, NOTHING, [marker], 60).verdict == "refused"


@pytest.mark.parametrize(("real", "synthetic"), [(0, 12), (3, 9), (6, 6), (30, 1)])
def test_fishers_exact_test_is_that_of_scipy(real: int, synthetic: int) -> None:
    from scipy.stats import fisher_exact

    expected = fisher_exact([[real, 40 - real], [synthetic, 60 - synthetic]]).pvalue
    assert _fisher(real + synthetic, np.array([40, 60]), real)[1] == pytest.approx(expected)


def test_a_block_counts_one_in_all() -> None:
    probe = Probe("x", np.array([0, 0, 1, 1]), False, np.array([0, 0, 1, 1]), ("a", "b"))
    cases = cases_of(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1]))
    assert np.allclose(shares(probe, cases), [[2 / 3, 0], [1 / 3, 1]])
