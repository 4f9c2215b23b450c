"""Near-duplicates: exact at every radius, whatever the order, however many hashes collide."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from peakmemory import CODE

from imaginet_build import dedup, images, perturb
from imaginet_build.duplicates import connect, hamming
from imaginet_build.errors import BadImage, BuildError, UsageError

Hashes = NDArray[np.uint64]
RADII = (0, 1, 2, 3, 4, 6, 8, 11, 16, 24, 40, 63, 64)


def flipped(value: int, bits: int, random: np.random.Generator) -> int:
    """`value` with exactly `bits` of its 64 bits changed."""
    for bit in random.choice(64, bits, replace=False):
        value ^= 1 << int(bit)
    return value


def planted(seed: int, strangers: int = 250) -> Hashes:
    """Strangers, and beside some of them neighbours at every distance from 0 to 17, in random order."""
    random = np.random.default_rng(seed)
    base = [int(v) for v in random.integers(0, 2**64, strangers, dtype=np.uint64)]
    near = [flipped(v, distance, random) for distance in range(18) for v in base[:8]]
    return random.permutation(np.array(base + near, dtype=np.uint64))


def brute(hashes: Hashes, radius: int, others: Hashes | None = None) -> NDArray[np.int64]:
    """Every pair compared: hashes with each other, or both ways with the hashes of mirror images."""
    close = np.bitwise_count(hashes[:, None] ^ (hashes if others is None else others)[None, :]) <= radius
    return np.argwhere(np.triu(close & close.T, 1))


@pytest.fixture(params=["as planned", "bands", "every pair"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three ways through the search: small inputs would only ever take the last."""
    if request.param == "bands":
        monkeypatch.setattr(hamming, "plan", lambda n, radius: (radius + 3, 3) if radius <= 12 else None)
        monkeypatch.setattr(hamming, "_DEEP", 2)
    if request.param == "every pair":
        monkeypatch.setattr(hamming, "plan", lambda n, radius: None)
        monkeypatch.setattr(hamming, "_TILE", 100)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("radius", RADII)
def test_every_planted_neighbour_is_found_and_no_other(radius: int) -> None:
    hashes = planted(radius)
    expected = brute(hashes, radius)
    assert np.array_equal(dedup.pairs(hashes, radius), expected)
    assert np.array_equal(dedup.groups(hashes, radius), dedup.components(len(hashes), expected))
    assert np.array_equal(dedup.groups(hashes, radius, memory=1000), dedup.components(len(hashes), expected))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("radius", [1, 4, 6, 9])
@pytest.mark.parametrize("crowd", [0, 60])
def test_mirror_images_are_found_and_must_agree_both_ways(radius: int, crowd: int) -> None:
    random = np.random.default_rng(radius)
    hashes, mirrored = (random.integers(0, 2**64, 200, dtype=np.uint64) for _ in range(2))
    for row in range(100, 200):
        source = int(random.integers(0, 100))
        hashes[row] = flipped(int(mirrored[source]), int(random.integers(0, 8)), random)
        mirrored[row] = flipped(int(hashes[source]), int(random.integers(0, 8)), random)
    hashes[:crowd], mirrored[: crowd // 2] = 0, 0
    reflected, direct = brute(hashes, radius, mirrored), brute(hashes, radius)
    assert len(reflected) > 0
    assert np.array_equal(dedup.pairs(hashes, radius, mirrored=mirrored), reflected)
    expected = dedup.components(200, np.concatenate([direct, reflected]))
    assert np.array_equal(dedup.groups(hashes, radius, mirrored=mirrored), expected)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("radius", [0, 3, 7])
@pytest.mark.parametrize("values", [2**64 - 1, 40])
def test_what_is_not_confirmed_does_not_connect(radius: int, values: int) -> None:
    random = np.random.default_rng(radius)
    hashes = random.permutation(np.concatenate([planted(3, 100), random.integers(0, values, 200, dtype=np.uint64)]))
    mirrored = random.permutation(hashes)

    def agrees(i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (np.minimum(i, j) * 7 + np.maximum(i, j)) % 4 == 0

    def reflects(i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (np.minimum(i, j) * 5 + np.maximum(i, j)) % 4 == 0

    direct = brute(hashes, radius)
    direct = direct[agrees(*direct.T)]
    assert np.array_equal(dedup.groups(hashes, radius, agrees), dedup.components(len(hashes), direct))
    reflected = brute(hashes, radius, mirrored)
    reflected = reflected[reflects(*reflected.T)]
    both = dedup.groups(hashes, radius, agrees, mirrored=mirrored, confirm_mirrored=reflects)
    assert np.array_equal(both, dedup.components(len(hashes), np.concatenate([direct, reflected])))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 300), max_size=60), st.integers(0, 64), st.randoms())
def test_the_partition_does_not_depend_on_the_order(values: list[int], radius: int, order: object) -> None:
    hashes = np.array(values, dtype=np.uint64)
    groups = dedup.groups(hashes, radius)
    assert groups.shape == hashes.shape
    assert all(groups[g] == g <= row for row, g in enumerate(groups))
    shuffle = np.random.default_rng(len(values)).permutation(len(values))
    again = dedup.groups(hashes[shuffle], radius)
    for number in set(again.tolist()):
        assert len(set(groups[shuffle][again == number].tolist())) == 1
    assert len(set(again.tolist())) == len(set(groups.tolist()))


def test_confirmation_by_256_bits() -> None:
    random = np.random.default_rng(0)
    long = random.integers(0, 2**64, (3, 4), dtype=np.uint64)
    long[1] = long[0] ^ np.array([2**30 - 1] * 4, dtype=np.uint64) >> np.uint64(8)
    hashes = np.zeros(3, dtype=np.uint64)
    assert dedup.groups(hashes, 6, dedup.confirm_by(long)).tolist() == [0, 0, 2]
    assert dedup.groups(hashes, 6, dedup.confirm_by(long, radius=256)).tolist() == [0, 0, 0]
    swap = dedup.confirm_by(long, long[[1, 0, 2]], radius=0)
    assert swap(np.array([0, 0, 2]), np.array([1, 0, 2])).tolist() == [True, False, True]


@pytest.mark.parametrize("confirm", [None, True, False])
def test_a_million_identical_hashes_are_one_question(confirm: bool | None) -> None:
    zeros = np.zeros(1_000_000, dtype=np.uint64)
    answer = None if confirm is None else lambda i, j: np.full(len(i), confirm)
    start = time.process_time()
    groups = dedup.groups(zeros, 6, answer, mirrored=zeros, confirm_mirrored=answer)
    assert time.process_time() - start < 20
    assert len(set(groups.tolist())) == (1_000_000 if confirm is False else 1)


@pytest.mark.parametrize("kind", ["random", "zeros", "two values", "crowded", "skewed"])
@pytest.mark.parametrize("radius", [0, 4, 6])
def test_past_its_memory_the_search_sorts_on_disk_and_finds_the_same(kind: str, radius: int, tmp_path: Path) -> None:
    random = np.random.default_rng(radius)
    hashes = {
        "random": np.concatenate([random.integers(0, 2**64, 30_000, dtype=np.uint64), planted(9)]),
        "zeros": np.zeros(50_000, dtype=np.uint64),
        "two values": random.choice(np.array([0, 2**64 - 1], dtype=np.uint64), 50_000),
        "crowded": random.integers(0, 2**14, 20_000, dtype=np.uint64),
        "skewed": np.minimum(random.integers(0, 2**64, 30_000, dtype=np.uint64), np.uint64(2**60)),
    }[kind]
    spilled = []

    def watched(*arguments: object, **options: object) -> object:
        spilled.append(options["dir"])
        return temporary(*arguments, **options)

    temporary = tempfile.TemporaryDirectory
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming.tempfile, "TemporaryDirectory", watched)
        patch.setattr(hamming, "_COMPARE", 1e9)
        small = dedup.groups(hashes, radius, memory=40_000, folder=tmp_path)
    assert np.array_equal(small, dedup.groups(hashes, radius))
    assert set(spilled) == ({tmp_path} if kind in ("random", "crowded", "skewed") and radius else set())
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot be sorted on disk in .*gone.*allow more memory"):
        dedup.groups(np.arange(100_000, dtype=np.uint64) * np.uint64(2**40 + 1), 6, memory=1000, folder=tmp_path / "gone")


@pytest.mark.prove
def test_memory_stays_within_what_the_user_sets() -> None:
    """Four million hashes with 16 MB to sort in: besides that, distinct hashes, their first rows and the answer, and some."""
    code = CODE + (
        "import sys, numpy as np; from imaginet_build import dedup\n"
        "import scipy.sparse.csgraph\n"
        "h = np.random.default_rng(1).integers(0, 2**64, 4_000_000, dtype=np.uint64)\n"
        "before = peak()\n"
        "g = dedup.groups(h, 5, **({'memory': int(sys.argv[1])} if len(sys.argv) > 1 else {}))\n"
        "print(int(g.sum()), peak() - before)"
    )

    def spent(*arguments: str) -> tuple[int, int]:
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        total, peak = done.stdout.split()
        return int(total), int(peak)

    (free_sum, free), (bound_sum, bound) = spent(), spent(str(16 << 20))
    assert free_sum == bound_sum
    assert bound < free
    assert bound < 4_000_000 * 8 * 5 + (64 << 20)


def test_crowded_hashes_cost_what_it_takes_to_connect_them() -> None:
    crowded = np.random.default_rng(0).integers(0, 2**24, 60_000, dtype=np.uint64)
    start = time.process_time()
    assert len(set(dedup.groups(crowded, 6, mirrored=crowded).tolist())) == 1
    assert time.process_time() - start < 20
    with pytest.raises(UsageError, match="ask for groups"):
        dedup.pairs(crowded, 6, limit=100_000)


@pytest.mark.parametrize("radius", [7, 10])
def test_a_few_crowds_are_connected_and_then_left_alone(radius: int) -> None:
    """Six crowds of 500, two of them not far from each other: every way through the search says what all pairs say."""
    random = np.random.default_rng(radius)
    base = random.integers(0, 2**64, 6, dtype=np.uint64)
    base[1] = flipped(int(base[0]), 2 * radius, random)
    crowds = np.repeat(base, 500)
    for _ in range(radius // 2):
        crowds ^= np.uint64(1) << random.integers(0, 64, len(crowds)).astype(np.uint64)
    crowds = random.permutation(crowds)
    expected = dedup.components(len(crowds), brute(crowds, radius))
    for chosen in (None, (radius + 2, 2), (radius + 3, 3)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hamming, "plan", lambda n, radius, chosen=chosen: chosen)
            for memory in (1 << 30, 1 << 16) if radius == 7 else (1 << 30,):
                assert np.array_equal(dedup.groups(crowds, radius, memory=memory), expected)


def test_sixty_thousand_in_six_crowds_take_little_time_and_many_far_pairs_little_memory() -> None:
    code = CODE + (
        "import time, numpy as np; from imaginet_build import dedup; import scipy.sparse.csgraph\n"
        "random = np.random.default_rng(1)\n"
        "x = random.integers(0, 2**64, 12_000, dtype=np.uint64)\n"
        "y = random.integers(0, 2**64, 6, dtype=np.uint64)[random.integers(0, 6, 60_000)]\n"
        "for _ in range(5): y ^= np.uint64(1) << random.integers(0, 64, 60_000).astype(np.uint64)\n"
        "before = peak()\n"
        "assert not dedup.groups(x, 40, memory=16 << 20).any()\n"
        "start = time.process_time(); count = len(set(dedup.groups(y, 10, memory=16 << 20).tolist()))\n"
        "print(count, time.process_time() - start, (peak() - before) >> 20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, seconds, megabytes = (float(word) for word in done.stdout.split())
    assert count == 6
    assert seconds < 25
    assert megabytes < 120


def test_a_budget_bounds_what_is_asked(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(connect, "BUDGET", 1000)
    dedup.groups(np.zeros(500, dtype=np.uint64), 6, lambda i, j: np.zeros(len(i), dtype=bool))
    assert "share one hash and differ" in caplog.text


def test_components_have_the_name_of_their_smallest_row() -> None:
    assert dedup.components(5, [(3, 1), (4, 3)]).tolist() == [0, 1, 2, 1, 1]
    assert dedup.components(3, []).tolist() == [0, 1, 2]
    assert dedup.components(0, []).tolist() == []
    assert dedup.union(4, [(2, 0)]) == [0, 1, 0, 3]
    assert all(type(group) is int for group in dedup.union(4, [(2, 0)]))
    for bad in ([(0, 5)], [(-1, 0)]):
        with pytest.raises(UsageError, match="row"):
            dedup.components(5, bad)


def test_the_default_radius_follows_the_number_of_images() -> None:
    assert [dedup.default_radius(n) for n in (0, 1, 1592, 10**6, 10**7, 10**8, 10**9)] == [6, 6, 6, 6, 5, 4, 3]


def test_questions_that_make_no_sense() -> None:
    good = np.arange(4, dtype=np.uint64)
    for radius in (-1, 65, 2.5, "6"):
        with pytest.raises(UsageError, match="0 to 64"):
            dedup.groups(good, radius)  # type: ignore[arg-type]
    for bad in (good.reshape(2, 2), good.astype(float), np.array(["a"])):
        with pytest.raises(UsageError, match="whole number"):
            dedup.groups(bad, 6)
    for negative in ([-1, 5], [2**64 - 1, -1], np.array([5, -1]), [2**64, 0]):
        with pytest.raises(UsageError, match="is no 64-bit hash"):
            dedup.groups(negative, 6)
    assert dedup.groups([2**64 - 1, 0, 5], 6).tolist() == [0, 1, 1]
    assert dedup.groups([2**64 - 1, 2**64 - 2], 1).tolist() == [0, 0]
    with pytest.raises(UsageError, match="mirrored"):
        dedup.groups(good, 6, mirrored=good[:3])
    assert dedup.groups(np.zeros(0, dtype=np.uint64), 6).tolist() == []
    assert dedup.pairs([], 6, mirrored=[]).shape == (0, 2)


def hashed(paths: list[Path]) -> tuple[Hashes, Hashes]:
    facts = [images.measure(path.read_bytes()) for path in paths]
    return tuple(np.array([getattr(f, name) for f in facts], dtype=np.uint64) for name in ("phash", "phash_mirror"))  # type: ignore[return-value]


def test_the_known_twins_of_the_corpus(shared: Path) -> None:
    """Eleven groups: one photograph in eight orientations, nine pairs that `imagehash.phash` of full decodes finds at radius 6
    too, and two reproductions of The Scream, 8 bits apart in full and 6 scaled.

    The rows are those where twins are; every other image of the corpus stays alone, but reading it all takes 15 s.
    """
    with (shared / "data" / "index.csv").open(encoding="utf-8", newline="") as index:
        rows = list(csv.DictReader(index))
    sources = {"irinainina_artquiz", "painterly_targets", "quizmyart", "nst_styles", "libvips_tests", "skimage"}
    paths = [shared / "data" / row["path"] for row in rows if row["source"] in sources]
    hashes, mirrored = hashed(paths)
    for more in ({}, {"mirrored": mirrored}):
        sizes = np.unique(dedup.groups(hashes, 6, **more), return_counts=True)[1]
        assert sorted(sizes[sizes > 1].tolist()) == [2] * 10 + [8]


def test_edited_copies_are_recognised(shared: Path) -> None:
    """Recall of at least 0.9 for each edit that leaves the frame alone; crops only in part (a pHash sees the whole frame)."""
    paths = sorted((shared / "data" / "real" / "photos" / "imagenet_sample").glob("*"))[:30]
    hashes, mirrored = hashed(paths)
    recall = {}
    for name in perturb.EDITS:
        copies = [
            images.encode(perturb.perturb(images.decode(path.read_bytes()), name, path.stem), "jpeg", 85) for path in paths
        ]
        facts = [images.measure(copy) for copy in copies]
        both = np.concatenate([hashes, np.array([f.phash for f in facts], dtype=np.uint64)])
        reflected = np.concatenate([mirrored, np.array([f.phash_mirror for f in facts], dtype=np.uint64)])
        groups = dedup.groups(both, 6, mirrored=reflected)
        recall[name] = float((groups[: len(paths)] == groups[len(paths) :]).mean())
        assert len(set(groups[: len(paths)].tolist())) == len(paths)
    assert min(value for name, value in recall.items() if "crop" not in name) >= 0.9, recall


def test_nothing_here_reads_an_image() -> None:
    with pytest.raises(BadImage):
        images.measure(b"")
    assert not hasattr(dedup, "Image")
