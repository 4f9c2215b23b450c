"""Tiers are nested, whole in their groups, and hold as many real as synthetic images of every content type."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from growth import begun
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build.releases import release, tiers
from imaginet_build.releases.joining import ranks

Row = tuple[str, str, str, str, str]


def table(rows: list[Row]) -> pa.Table:
    """Rows of (category, origin, maker, split, group)."""
    return pa.Table.from_pylist(
        [
            {
                "id": f"{i:06d}", "category": category, "origin": origin, "split": split, "group": group,
                "generator": maker if origin == "synthetic" else None, "source": maker if origin == "real" else None,
            }
            for i, (category, origin, maker, split, group) in enumerate(rows)
        ]
    )  # fmt: skip


def members(rows: list[Row]) -> tiers.Members:
    """The same, as they come: a few at a time."""
    found, whole = tiers.Members(len(rows)), table(rows)
    whole = whole.append_column("rank", pa.array(ranks(whole["group"])))
    for start in range(0, len(rows), 101):
        found.add(whole.slice(start, 101))
    return found


def even(n: int, makers: tuple[str, ...] = ("gan-a", "gan-b")) -> list[Row]:
    """`n` real and `n` synthetic images of each of two content types, each a group of its own, two thirds of them in train."""
    found = []
    for category in ("photos", "paintings"):
        for i in range(n):
            split = ("train", "train", "test")[i % 3]
            found.append((category, "real", "album", split, f"{category} real {i}"))
            found.append((category, "synthetic", makers[i % len(makers)], split, f"{category} synthetic {i}"))
    return found


def cells(rows: list[Row], place: list[int], tier: int) -> Counter[tuple[str, str, str]]:
    return Counter((r[3], r[0], r[1]) for r, p in zip(rows, place, strict=True) if p <= tier)


def test_small_releases_have_fewer_tiers() -> None:
    assert tiers.sizes(100) == {}
    assert tiers.sizes(128) == {"tiny": 64}
    assert tiers.sizes(1279) == {"tiny": 64}
    assert tiers.sizes(1280) == {"tiny": 64, "small": 640}
    assert tiers.sizes(200_000) == {"tiny": 2000, "small": 20_000}
    assert tiers.sizes(10**8) == {"tiny": 10_000, "small": 100_000}


def test_every_tier_is_even_in_every_split_and_near_its_size() -> None:
    rows = even(400)
    found = tiers.arrange(members(rows))
    assert found.names == ("tiny", "small")
    place = found.place.tolist()
    for tier, size in enumerate(tiers.sizes(len(rows)).values()):
        held = cells(rows, place, tier)
        assert abs(sum(held.values()) - size) <= 8
        for split in ("train", "test"):
            for category in ("photos", "paintings"):
                assert held[split, category, "real"] == held[split, category, "synthetic"] > 0
    makers = Counter(r[2] for r, p in zip(rows, place, strict=True) if p == 0 and r[1] == "synthetic")
    assert abs(makers["gan-a"] - makers["gan-b"]) <= 2


KINDS = ["photos real", "photos synthetic", "paintings real", "paintings synthetic"]


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=30, max_size=60),
    kinds=st.lists(st.sampled_from(KINDS), min_size=300, max_size=300),
)
def test_groups_stay_whole_and_labels_even_whatever_the_groups(sizes: list[int], kinds: list[str]) -> None:
    groups = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    rows = [(*kinds[i].split(), "m", "train", group) for i, group in enumerate(groups)] + even(100)
    found = tiers.arrange(members(rows))  # type: ignore[arg-type]
    by_group: dict[str, set[int]] = {}
    for row, place in zip(rows, found.place.tolist(), strict=True):
        by_group.setdefault(row[4], set()).add(place)
    assert all(len(places) == 1 for places in by_group.values())
    held = cells(rows, found.place.tolist(), 0)  # type: ignore[arg-type]
    assert all(held[s, c, "real"] == held[s, c, "synthetic"] for s, c, _ in held)


def test_the_order_of_the_rows_decides_nothing() -> None:
    rows = even(60)
    one = dict(zip((r[4] for r in rows), tiers.arrange(members(rows)).place.tolist(), strict=True))
    back = rows[::-1]
    assert dict(zip((r[4] for r in back), tiers.arrange(members(back)).place.tolist(), strict=True)) == one


def test_a_class_that_stands_alone_is_in_no_tier() -> None:
    rows = [*even(60), *[("faces", "real", "album", "train", f"f{i}") for i in range(60)]]
    held = cells(rows, tiers.arrange(members(rows)).place.tolist(), 0)
    assert ("train", "faces", "real") not in held
    assert held["train", "photos", "real"] == held["train", "photos", "synthetic"] > 0


def test_a_later_version_leaves_a_tier_as_it_is_and_makes_one_that_the_earlier_was_too_small_for() -> None:
    rows = even(400)
    assert tiers.arrange(members(rows), ["tiny"], 200).names == ("tiny", "small")
    place = tiers.arrange(members(rows), ["tiny"], 200).place
    assert set(place.tolist()) == {1, 2}
    assert abs(200 + int((place == 1).sum()) - 640) <= 8
    assert set(tiers.arrange(members(rows), ["tiny", "small"], 5000).place.tolist()) == {2}
    assert tiers.arrange(members(rows), [], 5000).names == ()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_tier_loads_by_name_and_is_a_beginning_of_every_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    _, folder = begun(tmp_path, rows=80)
    named = release.read_manifest(folder)["tiers"]
    assert set(named) == {"tiny", "full", "tiny-native"}
    for split, paths in named["tiny"].items():
        assert [folder / path for path in paths] == release.shards(folder, "equalized")[split][: len(paths)]
    tiny = datasets.load_dataset(str(folder), "tiny", cache_dir=str(tmp_path / "c"))
    full = datasets.load_dataset(str(folder), "full", cache_dir=str(tmp_path / "c"))
    native = datasets.load_dataset(str(folder), "tiny-native", cache_dir=str(tmp_path / "c"))
    assert 56 <= sum(len(rows) for rows in tiny.values()) <= 72
    assert sum(len(rows) for rows in full.values()) == release.read_manifest(folder)["rows"] == 160
    for split, rows in tiny.items():
        assert Counter(rows["label"]) == {0: len(rows) // 2, 1: len(rows) // 2}
        assert set(rows["id"]) == set(native[split]["id"]) < set(full[split]["id"])
