"""The search for markers: a value that one class carries is found however few groups carry it, and chance is not."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from looks import cases_of, facts
from scipy.stats import fisher_exact

from imaginet_build.auditing.crossfit import Cases
from imaginet_build.auditing.markers import MARKER_P, Parts, _Field, _fields, _stratified, _Test, markers, self_test
from imaginet_build.auditing.probes import Probe, probes_of

FACTS = ("extension", "quality", "qtables", "subsampling", "width", "exif", "software")


def planted(probes: list[Probe], name: str, rows: np.ndarray) -> list[Probe]:
    """`probes`, where `rows` carry a value of `name` that no other row has; a new fact stands on these alone."""
    held = {p.name: p for p in probes}
    nothing = np.zeros(len(probes[0].codes), np.int64)
    old = held.get(name, Probe(name, nothing, False, nothing, ("none",)))
    values = old.values.copy()
    values[rows] = len(old.names)
    held[name] = replace(old, values=values, names=(*old.names, "planted"))
    return list(held.values())


@pytest.mark.parametrize("fact", FACTS)
@pytest.mark.parametrize(("rows", "label"), [(120, 1), (600, 0), (2600, 1)])
def test_a_marker_on_two_percent_or_25_groups_is_caught_whatever_the_fact(fact: str, rows: int, label: int) -> None:
    for seed in range(3):
        random = np.random.default_rng(seed)
        cases = cases_of(random.permutation(np.arange(rows) % 2))
        mine = np.flatnonzero(cases.labels == label)
        marked = random.choice(mine, max(25, -(-len(mine) // 50)), replace=False)
        found = markers(planted(probes_of(facts(rows, seed)), fact, marked), cases)
        assert (fact, "planted") in {(m.probe, m.value) for m in found}


@pytest.mark.parametrize("label", [0, 1])
def test_a_marker_on_one_row_of_each_of_25_groups_is_caught(label: int) -> None:
    """Eight crops of each photograph, one of them marked: a share of an eighth, and still nobody else has it."""
    groups = np.repeat(np.arange(400), 8)
    cases = cases_of(groups % 2, groups)
    marked = np.flatnonzero(cases.labels == label)[::8][:25]
    found = markers(planted(probes_of(facts(3200, 1)), "exif", marked), cases)
    assert [(m.probe, m.value, max(m.real, m.synthetic)) for m in found] == [("exif", "planted", 25)]


def test_many_rows_in_a_group_meet_many_values_and_mark_nothing() -> None:
    """Groups of four and of thirty rows, mixed in both classes unevenly: presence is compared among equals only."""
    false = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        size = np.r_[np.full(60, 4), np.full(20, 30), np.full(20, 4), np.full(40, 30)]
        label = np.repeat([0, 1], [80, 60])
        order = random.permutation(140)
        groups = np.repeat(np.arange(140), size[order])
        cases = cases_of(label[order][groups], groups)
        false += bool(markers(probes_of(facts(len(groups), seed)), cases))
    assert false <= 60 * MARKER_P * 3


@pytest.mark.parametrize(("real", "synthetic"), [(0, 12), (3, 9), (30, 1)])
def test_one_stratum_is_fishers_test(real: int, synthetic: int) -> None:
    expected = fisher_exact([[real, 40 - real], [synthetic, 60 - synthetic]]).pvalue
    assert _stratified(np.array([[real, synthetic]]), np.array([[40, 60]]))[1] == pytest.approx(expected)


def test_strata_add_up_exactly_and_far_out_nearly_so() -> None:
    carry, total = np.array([[3, 9], [10, 2], [4, 4]]), np.array([[20, 30], [15, 15], [10, 10]])
    random = np.random.default_rng(0)
    drawn = sum(random.hypergeometric(c.sum(), n.sum() - c.sum(), n[0], 40_000) for c, n in zip(carry, total, strict=True))
    law = np.bincount(drawn) / 40_000
    expected = law[law <= law[carry[:, 0].sum()]].sum()
    assert _stratified(carry, total)[1] == pytest.approx(expected, abs=0.02)
    large = _stratified(np.array([[30_000, 30_300]]), np.array([[100_000, 100_000]]))[1]
    assert large == pytest.approx(fisher_exact([[30_000, 70_000], [30_300, 69_700]]).pvalue, rel=0.05)


def test_the_self_test_finds_its_own_marker_in_either_class() -> None:
    cases = cases_of(np.arange(3000) % 2)
    tested = self_test(probes_of(facts(3000, 2)), cases)
    assert (tested.caught, tested.missed, tested.groups) == (True, (), (30, 30))
    assert len(tested.facts) == 3


def test_the_self_test_says_so_where_nothing_could_be_found() -> None:
    """Thousands of one class and thirty of the other: the thirty could all lack a marker by chance."""
    cases = cases_of((np.arange(2000) < 30).astype(int))
    tested = self_test(probes_of(facts(2000, 2)), cases)
    assert not tested.caught
    assert (tested.groups, tested.few) == ((40, 25), "")
    assert {missed.rpartition(" ")[2] for missed in tested.missed} == {"real"}


@pytest.mark.parametrize("groups", [6, 9, 20, 24, 25])
def test_the_self_test_needs_25_groups_of_a_class(groups: int) -> None:
    """Planted on every group of a class there is, a marker would be found, and that promises nothing of 25 among more."""
    cases = cases_of((np.arange(60 + groups) < groups).astype(int))
    plain = probes_of(facts(1, 0).take([0] * len(cases.labels)))
    tested = self_test(plain, cases)
    assert tested.caught == (groups == 25)
    if groups < 25:
        assert tested.few == f"{groups} groups of a class (synthetic), fewer than the 25 that the self-test marks"
        assert (tested.facts, tested.missed) == ((), (tested.few,))


def two_types(rows: int) -> tuple[Cases, dict[str, np.ndarray]]:
    """Half photos, half faces, the classes alike in both."""
    photos = np.arange(rows) < rows // 2
    return cases_of(np.arange(rows) % 2), {"faces": ~photos, "photos": photos}


@pytest.mark.parametrize("fact", FACTS)
def test_a_marker_that_leans_the_other_way_in_another_content_type_is_caught(fact: str) -> None:
    """25 of 300 synthetic photos and 25 of 300 real faces: over everything both classes carry it alike."""
    cases, parts = two_types(1200)
    marked = [np.flatnonzero(parts[name] & (cases.labels == label))[7:32] for name, label in (("photos", 1), ("faces", 0))]
    probes = planted(probes_of(facts(1200, 3)), fact, np.concatenate(marked))
    assert markers(probes, cases) == []
    found = markers(probes, cases, parts)
    assert {(m.probe, m.value, m.scope, m.real, m.synthetic, m.groups) for m in found} == {
        (fact, "planted", "photos", 0, 25, (300, 300)),
        (fact, "planted", "faces", 25, 0, (300, 300)),
    }


def test_a_marker_over_everything_is_told_once() -> None:
    cases, parts = two_types(1200)
    marked = np.flatnonzero(cases.labels == 1)[::6]
    found = markers(planted(probes_of(facts(1200, 3)), "exif", marked), cases, parts)
    assert [(m.probe, m.value, m.scope) for m in found] == [("exif", "planted", "all")]


def test_searching_every_content_type_marks_clean_data_no_more_often() -> None:
    false = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        types = random.integers(0, 4, 600)
        parts = {str(i): types == i for i in range(4)}
        false += bool(markers(probes_of(facts(600, 500 + seed)), cases_of(random.permutation(np.arange(600) % 2)), parts))
    assert false <= 60 * MARKER_P * 3


def test_the_self_test_plants_in_a_content_type_what_does_not_show_over_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    cases, parts = two_types(1200)
    probes = probes_of(facts(1200, 2))
    tested = self_test(probes, cases, parts)
    assert (tested.caught, tested.scope) == (True, "faces")

    def blind(cases: Cases, parts: Parts) -> list[_Field]:
        """The same fields, with what is looked at in the content types put out of sight."""
        whole, *others = _fields(cases, parts)
        return [whole, *(_Unseeing(field.scope, field.rows, field.blocks) for field in others)]

    monkeypatch.setattr("imaginet_build.auditing.markers._fields", blind)
    tested = self_test(probes, cases, parts)
    assert not tested.caught
    assert {missed.partition(" among ")[2] for missed in tested.missed} == {"faces"}


class _Unseeing(_Field):
    def tests(self, probe: Probe) -> list[_Test]:
        return []


def test_a_content_type_with_few_groups_is_not_planted_in() -> None:
    cases, few = two_types(1200)[0], np.arange(1200) < 48
    tested = self_test(probes_of(facts(1200, 2)), cases, {"few": few})
    assert (tested.caught, tested.scope) == (True, None)


def test_large_groups_of_unequal_size_mark_nothing() -> None:
    """Groups of 64 and of 400 rows, and any sizes from 40 to 500: the larger meet every rare value more often."""
    for seed in range(10):
        random = np.random.default_rng(seed)
        natural = np.r_[random.integers(40, 120, 60), random.integers(200, 500, 60)]
        for size in (np.repeat([64, 400], 40), natural):
            groups = np.repeat(np.arange(len(size)), size)
            cases = cases_of((groups >= len(size) // 2).astype(int), groups)
            rare = (random.random(len(groups)) < 0.01).astype(np.int64)
            assert markers([Probe("extension", rare, False, rare, ("jpg", "png"))], cases) == []


def test_the_self_test_says_where_it_finds_whole_groups_only() -> None:
    """Single real rows beside synthetic groups of twenty: a marker on a row of each of 25 groups cannot be told from chance."""
    groups = np.r_[np.arange(150), 150 + np.repeat(np.arange(150), 20)]
    cases = cases_of((groups >= 150).astype(int), groups)
    tested = self_test(probes_of(facts(3150, 1)), cases)
    assert (tested.caught, tested.missed) == (True, ())
    assert {missed.rpartition(" ")[2] for missed in tested.thin} == {"synthetic"}
    alike = cases_of(np.arange(2500) // 5 % 2, np.arange(2500) // 5)
    assert self_test(probes_of(facts(2500, 1)), alike).thin == ()


def test_two_values_that_read_alike_are_two_markers() -> None:
    """A marker is a value of a probe by its number: what stands for absence may also stand in a file."""
    cases = cases_of(np.arange(1200) % 2)
    values = np.zeros(1200, np.int64)
    values[cases.labels == 1] = np.arange(600) % 2 + 1
    found = markers([Probe("exif Make", values, False, values, ("a", "(absent)", "(absent)"))], cases)
    assert {(m.number, m.value) for m in found} == {(0, "a"), (1, "(absent)"), (2, "(absent)")}


@pytest.mark.parametrize("size", [1, 4])
def test_two_hundred_keys_on_five_thousand_rows_are_searched_in_seconds(size: int) -> None:
    random = np.random.default_rng(0)
    groups = np.arange(5000) // size
    types = random.integers(0, 4, 1250)[groups % 1250]
    drawn = random.integers(0, 20, (200, 5000))
    probes = [Probe(f"exif {n}", v, False, v, tuple(map(str, range(20)))) for n, v in enumerate(drawn)]
    cases, parts = cases_of(groups % 2, groups), {str(i): types == i for i in range(4)}
    start = time.process_time()
    assert markers(probes, cases, parts) == []
    assert self_test(probes, cases, parts).caught
    assert time.process_time() - start < 30
