"""Who is a twin of whom: the rules of DESIGN, on hashes made up for each case."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaginet_build import dedup
from imaginet_build.duplicates import nearness, twins

FAR = [int(x) for x in np.random.default_rng(5).integers(0, 2**63, 64)]


def table(*rows: dict[str, object]) -> pa.Table:
    """Facts of as many images; by default real, 100 x 100, each a picture of its own that resembles no other."""
    full = [
        {
            "id": f"{i:03}", "origin": "real", "codec": "png",
            "pixel_hash": f"p{i}", "phash": FAR[i], "phash_mirror": FAR[63 - i] ^ 0xFFFF,
            "pair_id": None, "group": f"g{i}", "prompt": None, "width": 100, "height": 100,
        } | row
        for i, row in enumerate(rows)
    ]  # fmt: skip
    return pa.Table.from_pylist(full, schema=pa.schema({
        "id": pa.string(), "origin": pa.string(), "codec": pa.string(),
        "pixel_hash": pa.string(), "phash": pa.uint64(), "phash_mirror": pa.uint64(),
        "pair_id": pa.string(), "group": pa.string(), "prompt": pa.string(), "width": pa.int32(), "height": pa.int32(),
    }))  # fmt: skip


def test_of_two_alike_of_one_origin_the_larger_stays() -> None:
    found = twins.find(table({"phash": 0}, {"phash": 0b111, "width": 200}, {}), radius=3)
    assert found.twin_of.tolist() == [1, -1, -1]
    assert found.near.tolist() == [0, 0, 2]


def test_one_bit_more_is_another_picture() -> None:
    assert twins.find(table({"phash": 0}, {"phash": 0b1111}), radius=3).twin_of.tolist() == [-1, -1]


def test_across_the_origins_both_are_conflicts() -> None:
    found = twins.find(table({"phash": 0}, {"phash": 1, "origin": "synthetic"}), radius=3)
    assert found.twin_of.tolist() == [-1, -1]
    assert found.conflict.tolist() == [1, 0]


def test_a_pair_is_grouped_and_neither_twin_nor_conflict() -> None:
    found = twins.find(table({"phash": 0, "pair_id": "a"}, {"phash": 1, "pair_id": "a", "origin": "synthetic"}), radius=3)
    assert found.conflict.tolist() == [-1, -1]
    assert found.group[0] == found.group[1]


def test_crops_of_one_photograph_are_never_twins_of_each_other() -> None:
    found = twins.find(table({"phash": 0, "group": "sky"}, {"phash": 0, "group": "sky"}), radius=6)
    assert found.twin_of.tolist() == [-1, -1]
    assert found.group[0] == found.group[1]


def test_a_stranger_like_two_crops_is_the_twin_and_not_they() -> None:
    rows = table({"phash": 0, "group": "sky"}, {"phash": 1, "group": "sky"}, {"phash": 1, "width": 50})
    assert twins.find(rows, radius=3).twin_of.tolist() == [-1, -1, 1]


def test_the_one_with_a_partner_stays_so_that_the_pair_is_not_broken() -> None:
    rows = table({"phash": 0, "width": 500}, {"phash": 1, "pair_id": "a"}, {"phash": 3, "pair_id": "a", "origin": "synthetic"})
    found = twins.find(rows, radius=3)
    assert found.twin_of.tolist() == [1, -1, -1]
    assert found.conflict.tolist() == [-1, -1, -1]


def test_a_mirror_image_is_one_both_ways() -> None:
    both = table({"phash": 0b1010, "phash_mirror": FAR[0]}, {"phash": FAR[0], "phash_mirror": 0b1010})
    assert twins.find(both, radius=2).twin_of.tolist() == [-1, 0]
    one = table({"phash": 0b1010, "phash_mirror": FAR[0]}, {"phash": FAR[0], "phash_mirror": FAR[9]})
    assert twins.find(one, radius=2).twin_of.tolist() == [-1, -1]


def test_exact_copies_need_no_hash() -> None:
    assert twins.find(table({"pixel_hash": "same"}, {"pixel_hash": "same"}), radius=0).twin_of.tolist() == [-1, 0]


def bits(*counts: int) -> twins.Closer:
    """A closer look at rows of which row i has the first `counts[i]` of 256 bits set, and its mirror image none."""

    def closer(rows: twins.Rows, mirrored: bool) -> twins.Hashes:
        numbers = [0 if mirrored else (1 << counts[row]) - 1 for row in rows.tolist()]
        return np.array([[n >> shift & (1 << 64) - 1 for shift in (192, 128, 64, 0)] for n in numbers], dtype=np.uint64)

    return closer


def test_a_closer_look_may_refuse() -> None:
    alike = table({"phash": 0}, {"phash": 1})
    assert twins.find(alike, 3, bits(0, 90)).twin_of.tolist() == [-1, 0]
    found = twins.find(alike, 3, bits(0, 91))
    assert found.twin_of.tolist() == [-1, -1]
    assert found.group[0] == found.group[1], "alike but not the same: still one group, to be safe"


def test_the_further_apart_the_closer_the_look() -> None:
    """Aligned portraits of two people lie 7 or 8 bits apart and 62 or more of 256; edited copies stay below 50 there."""
    apart = table({"phash": 0}, {"phash": 0x7F})
    assert twins.find(apart, 8, bits(0, 56)).twin_of.tolist() == [-1, 0]
    assert twins.find(apart, 8, bits(0, 57)).twin_of.tolist() == [-1, -1]


def test_exact_copies_are_not_looked_at_again() -> None:
    asked: list[int] = []

    def closer(rows: twins.Rows, mirrored: bool) -> twins.Hashes:
        asked.extend(rows.tolist())
        return np.zeros((len(rows), 4), dtype=np.uint64)

    same = {"pixel_hash": "same", "phash": 7, "phash_mirror": FAR[60]}
    found = twins.find(table(same, same, same, {}), 3, closer)
    assert found.twin_of.tolist() == [-1, 0, 0, -1]
    assert asked == []


def test_a_jpeg_decoded_small_has_two_bits_of_slack_beside_a_full_decode() -> None:
    one_bit_more = [{"phash": 0}, {"phash": 0b11111}]
    assert twins.find(table(*one_bit_more), radius=3).twin_of.tolist() == [-1, -1]
    one_bit_more[1]["codec"] = "jpeg"
    assert twins.find(table(*one_bit_more), radius=3).twin_of.tolist() == [-1, 0]
    assert twins.find(table({"phash": 0}, {"phash": 1, "codec": "jpeg"}), radius=0).twin_of.tolist() == [-1, -1]


def test_a_photograph_twice_with_a_reconstruction_of_each_keeps_one_pair() -> None:
    fake = {"origin": "synthetic", "phash": 1}
    rows = table(
        {"phash": 0, "pair_id": "a"}, {"phash": 0, "pair_id": "b", "width": 200},
        fake | {"pair_id": "a", "width": 300}, fake | {"pair_id": "b"},
    )  # fmt: skip
    found = twins.find(rows, radius=3)
    assert found.conflict.tolist() == [-1] * 4, "all four show one picture, and each label is right"
    assert found.twin_of.tolist() == [-1, 0, -1, 2], "the pair with the largest image stays, and stays a pair"


def test_twins_of_a_row_in_conflict_are_in_conflict() -> None:
    rows = table({"phash": 0, "width": 300}, {"phash": 0b11}, {"phash": 0b1111, "origin": "synthetic"}, {})
    found = twins.find(rows, radius=2)
    assert found.twin_of.tolist() == [-1, 0, -1, -1]
    assert found.conflict.tolist() == [2, 2, 1, -1], "the label of the picture is in doubt, whichever copy raised it"


def test_exact_copies_under_both_labels_are_all_rejected() -> None:
    copies = [{"pixel_hash": "same", "phash": 5, "origin": origin} for origin in ("real", "synthetic", "real", "synthetic")]
    assert (twins.find(table(*copies), radius=0).conflict >= 0).all()


def test_of_twins_the_one_that_may_enter_stays_and_blank_ones_are_nobodys() -> None:
    rows = table({"phash": 0, "width": 900}, {"phash": 1}, {"phash": 1})
    assert twins.find(rows, 3, rank=np.array([1, 0, 0])).twin_of.tolist() == [1, -1, 1]
    assert twins.find(rows, 3, rank=np.array([-1, 0, 0])).twin_of.tolist() == [-1, -1, 1]


def test_an_empty_prompt_ties_nothing() -> None:
    assert twins.find(table({"prompt": ""}, {"prompt": ""}, {"prompt": None}), radius=3).group.tolist() == [0, 1, 2]


def test_a_prompt_is_one_group() -> None:
    found = twins.find(table({"prompt": "a cat"}, {"prompt": "a dog"}, {"prompt": "a cat"}), radius=3)
    assert found.group.tolist() == [0, 1, 0]


def test_chains_leave_no_kept_row_near_another() -> None:
    found = twins.find(table({"phash": 0}, {"phash": 0b11}, {"phash": 0b1111}), radius=2)
    assert found.twin_of.tolist() == [-1, 0, -1]
    assert len(set(found.group.tolist())) == 1, "a chain is one group although its ends differ"


@given(st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.integers(0, 3)), min_size=1, max_size=24), st.integers(0, 2))
def test_what_stays_resembles_nothing_else_that_stays(rows: list[tuple[int, bool, int]], radius: int) -> None:
    facts = table(
        *(
            {"phash": hash_, "phash_mirror": FAR[i] | 1 << 62, "origin": "synthetic" if fake else "real", "group": f"g{group}"}
            for i, (hash_, fake, group) in enumerate(rows)
        )
    )
    found = twins.find(facts, radius)
    stay = [i for i in range(len(rows)) if found.twin_of[i] < 0 and found.conflict[i] < 0]
    # Pictures that share a twin are one picture: the reconstruction of a photograph's twin has its label rightly.
    tied = [(i, int(k)) for i, k in enumerate(found.twin_of) if k >= 0]
    tied += [(i, j) for i in range(len(rows)) for j in range(i) if rows[i][2] == rows[j][2]]
    picture = dedup.union(len(rows), tied)
    for i in stay:
        for j in stay:
            near = (rows[i][0] ^ rows[j][0]).bit_count() <= radius
            if near and rows[i][2] != rows[j][2]:
                assert rows[i][1] != rows[j][1], f"rows {i} and {j} of one class and different pictures are alike and both stay"
                assert picture[i] == picture[j], f"rows {i} and {j} are alike under two labels and both stay"
            if near:
                assert found.group[i] == found.group[j]
    for other in found.twin_of:
        assert other < 0 or found.twin_of[other] < 0, "the twin of a row that stays, not of one that goes"


def crowd(n: int, pixels: str = "own", origins: str = "real", group: str = "own") -> pa.Table:
    """`n` images under one hash of zeros; `own` means another for every image."""
    own = [f"{i:07}" for i in range(n)]
    columns = {
        "id": own,
        "origin": ["real"] * n if origins == "real" else ["real", "synthetic"] * (n // 2),
        "codec": ["png"] * n,
        "pixel_hash": own if pixels == "own" else [pixels] * n,
        "phash": np.zeros(n, np.uint64),
        "phash_mirror": np.zeros(n, np.uint64),
        "pair_id": [None] * n,
        "group": own if group == "own" else [group] * n,
        "prompt": [None] * n,
        "width": np.full(n, 9, np.int32),
        "height": np.full(n, 9, np.int32),
    }
    return pa.table(columns).cast(table({}).schema)


def all_different(rows: twins.Rows, mirrored: bool) -> twins.Hashes:
    return np.random.default_rng(int(mirrored)).integers(0, 2**64, (len(rows), 4), dtype=np.uint64)


@pytest.mark.parametrize("n", [20_000, pytest.param(1_000_000, marks=pytest.mark.prove)])
def test_a_great_many_alike_are_no_trouble(n: int) -> None:
    for pixels in ("own", "same"):
        found = twins.find(crowd(n, pixels), 6)
        assert (found.twin_of[1:] == 0).all()
        assert (found.group == 0).all()
        assert (twins.find(crowd(n, pixels, origins="both"), 6).conflict >= 0).all()
    crops = twins.find(crowd(n, group="sky"), 6)
    assert (crops.twin_of == -1).all()
    assert (crops.group == 0).all()


def test_a_crowd_under_one_hash_that_the_closer_look_tells_apart_stays_apart() -> None:
    """Of 2e8 pairs of random 256 bits about 240 lie within 90, upright, and as many of the independent mirror images."""
    start = time.process_time()
    found = twins.find(crowd(20_000), 6, all_different)
    assert time.process_time() - start < 20
    assert 0.01 < (found.twin_of >= 0).mean() < 0.03
    assert len(np.unique(found.group)) > 19_000, "chance must not tie all portraits of the world into one split"


def looks(n: int, copies: int, bits: int) -> twins.Hashes:
    """256 bits of `n` images, and of a copy of each of the first `copies`, `bits` away, in random places."""
    random = np.random.default_rng(n)
    own = random.integers(0, 2**64, (n, 4), dtype=np.uint64)
    edited = own[:copies].copy()
    for row in edited:
        for bit in random.choice(256, bits, replace=False):
            row[bit // 64] ^= np.uint64(1 << int(bit) % 64)
    return np.concatenate([own, edited])


@pytest.mark.parametrize("spread", [0, 3, 12])
@pytest.mark.parametrize("flip", [False, True])
def test_every_copy_in_a_crowd_is_found(spread: int, flip: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 pictures under one hash, or under near ones, and copies of 150 of them, upright or mirrored, among them."""
    random = np.random.default_rng(spread)
    long = looks(200, 150, 30)
    place = random.permutation(350)
    facts = crowd(350)
    hashes = random.integers(0, 2**spread, 350, dtype=np.uint64)
    hashes[200:] = hashes[:150]
    hashes = hashes[place]
    facts = facts.set_column(4, "phash", pa.array(hashes)).set_column(5, "phash_mirror", pa.array(hashes))
    mirrored = looks(350, 0, 0)
    upright = long.copy()
    if flip:
        upright[200:], mirrored[200:] = mirrored[:150], long[200:]

    def closer(rows: twins.Rows, mirror: bool) -> twins.Hashes:
        return (mirrored if mirror else upright)[place[rows]]

    where = np.argsort(place)
    for sweep in (250, 0):
        monkeypatch.setattr(nearness, "_SWEEP", sweep)
        monkeypatch.setattr(nearness, "_FEW", 16 * sweep)
        for few in (24, 2):
            monkeypatch.setattr(nearness, "_SMALL", few)
            found = twins.find(facts, 6, closer)
            tied = np.stack([found.twin_of[where[:150]] == where[200:], found.twin_of[where[200:]] == where[:150]])
            assert tied.any(axis=0).all(), "each copy, or what it is a copy of, is the twin of the other"
            assert (found.twin_of >= 0).sum() == 150
            assert (found.group[where[:150]] == found.group[where[200:]]).all()
            assert len(np.unique(found.group)) == 200
            labels = facts.set_column(1, "origin", pa.array(["real" if i < 200 else "synthetic" for i in place]))
            conflict = twins.find(labels, 6, closer).conflict
            assert (conflict[where[:150]] == where[200:]).all()
            assert (conflict[where[200:]] == where[:150]).all()
            assert (conflict[where[150:200]] == -1).all()


def test_who_resembles_two_ties_them() -> None:
    found = twins.find(table({"phash": 0}, {"phash": 0b1111}, {"phash": 0b11, "width": 50}), radius=2)
    assert found.twin_of.tolist() == [-1, -1, 0]
    assert found.near.tolist() == [0, 0, 0]


def test_crops_under_one_hash_are_each_compared() -> None:
    """The second crop shows what the stranger shows; the first crop of that picture must not answer for it."""
    alike = {"phash": 0, "phash_mirror": FAR[60]}
    rows = table(alike | {"group": "sky"}, alike | {"group": "sky"}, alike | {"width": 50})
    assert twins.find(rows, 3, bits(0, 200, 180)).twin_of.tolist() == [-1, -1, 1]


def test_a_crowd_too_large_to_compare_is_one_group_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nearness, "CROWD", 100)
    facts = crowd(300)
    hashes = np.zeros(300, np.uint64)
    hashes[[7, 250]] = 1, FAR[0]
    facts = facts.set_column(4, "phash", pa.array(hashes)).set_column(5, "phash_mirror", pa.array(hashes))
    found = twins.find(facts, 6, all_different)
    assert np.unique(found.group).tolist() == [0, 250], "the whole crowd, and its neighbour, but not the stranger"
    assert "299 images lie within the radius of one pHash" in caplog.text
    assert "more than 100 of them different" in caplog.text
    assert (found.twin_of == -1).all()
