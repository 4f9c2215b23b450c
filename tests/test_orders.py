"""Orders: everything has its name before a pixel is drawn, from nothing but what was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import write

from imaginet_build import orders
from imaginet_build.errors import UsageError
from imaginet_build.orders import Batch, manifest, still_wanted
from imaginet_build.recipe import Generate
from imaginet_build.records import Order
from imaginet_build.store import Store

NO_STORE = Store(Path("nowhere"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, kind, size in (
        ("blind", "Blind", "width = 32\nheight = 24\n"),
        ("sizeless", "Blind", ""),
        ("painter", "Painter", ""),
    ):
        text = f'adapter = "painter:{kind}"\nlicence = "CC0-1.0"\nrevision = "1"\nfamily = "other"\n{size}'
        write(tmp_path / "manifests" / "generators" / f"{name}.toml", text)
    write(tmp_path / "list.txt", "a red barn under snow\ntwo cats asleep on warm bricks\nthe old harbour at dawn\n")
    return tmp_path


def ordered(*entries: Generate, seed: int = 0, revisions: dict[str, str | None] | None = None) -> list[Order]:
    found = [o for b in manifest(entries, seed, NO_STORE, revisions or {}, trust=True) for o in b.orders]
    assert len({order.id for order in found}) == len(found)
    return found


def entry(generator: str = "blind", count: int = 5, **more) -> Generate:
    return Generate(**{"generator": generator, "category": "photos", "count": count} | more)


def ids(*entries: Generate, **more) -> set[str]:
    return {order.id for order in ordered(*entries, **more)}


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_manifest_is_the_same_every_time(place):
    assert ordered(entry(), entry("painter", 2, prompts="list.txt", width=32, height=32)) == ordered(
        entry(), entry("painter", 2, prompts="list.txt", width=32, height=32)
    )


def test_everything_that_decides_the_pixels_is_in_the_name(place):
    base = ids(entry())
    others = [
        ids(entry(), seed=1),
        ids(entry(width=40)),
        ids(entry(height=40)),
        ids(entry(category="faces")),
        ids(entry(options={"delay": 0.5})),
        ids(entry(), revisions={"blind": "abc"}),
        ids(entry("sizeless", width=32, height=24)),
    ]
    assert all(not base & other for other in others)


def test_what_does_not_decide_the_pixels_is_not(place):
    assert ids(entry(batch=1)) == ids(entry(batch=4)) == ids(entry(width=32, height=24))


def test_seeds_fit_every_vendor_and_differ(place):
    seeds = [order.seed for order in ordered(entry(count=300))]
    assert len(set(seeds)) == 300
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeds_that_meet_by_chance_are_parted(place, monkeypatch):
    """Of 100,000 equal orders two would meet among 2**32 seeds, and one image would stand twice."""
    real = orders.seed_of
    monkeypatch.setattr(orders, "seed_of", lambda name, purpose: real(name, purpose) % 7)
    few, many = ordered(entry(count=4)), ordered(entry(count=12))
    assert len({order.seed for order in many}) == 12
    assert many[:4] == few, "a longer list begins with the shorter one"


def test_a_prompt_that_is_listed_later_renames_nothing(place):
    before = {o.prompt.text: o.id for o in ordered(entry("painter", 3, prompts="list.txt", width=32, height=32)) if o.prompt}
    write(place / "list.txt", "steam over a mountain lake\n" + (place / "list.txt").read_text())
    after = {o.prompt.text: o.id for o in ordered(entry("painter", 4, prompts="list.txt", width=32, height=32)) if o.prompt}
    assert before.items() <= after.items()


def test_too_few_prompts_and_no_size_are_said_before_anything_starts(place):
    with pytest.raises(UsageError, match=r"painter needs 9 prompts of photos; list\.txt has 3"):
        ordered(entry("painter", 9, prompts="list.txt"))
    with pytest.raises(UsageError, match="sizeless: neither its card nor the recipe says how large an image is"):
        ordered(entry("sizeless"))


def test_without_a_list_the_categorys_own_set_is_expanded(place):
    found = ordered(entry("painter", 6, width=32, height=32))
    texts = [order.prompt.text for order in found if order.prompt]
    assert len(set(texts)) == 6
    assert all(order.prompt.category == "photos" for order in found if order.prompt)


# --- batches ----------------------------------------------------------------------------------------------------------


def batches(sizes: list[int]) -> list[Batch]:
    names = iter(range(1000))
    made = []
    for size in sizes:
        group = tuple(Order(f"{next(names):04}", "g", "photos", 0, 8, 8) for _ in range(size))
        made.append(Batch("g", {}, None, group, frozenset(order.id for order in group)))
    return made


sizes = st.lists(st.integers(1, 5), max_size=8)


@settings(max_examples=100)
@given(sizes, st.integers(1, 4), st.sets(st.integers(0, 40)), st.none() | st.integers(0, 20))
def test_wanted_is_what_is_not_done_of_the_shard_up_to_the_limit(sizes, shards, done_numbers, limit):
    all_batches = batches(sizes)
    done = {f"{number:04}" for number in done_numbers}
    missing = {order.id for batch in all_batches for order in batch.orders} - done
    found: set[str] = set()
    for shard in range(1, shards + 1):
        wanted = list(still_wanted(iter(all_batches), done, (shard, shards), limit))
        kept = [name for batch in wanted for name in batch.keep]
        assert limit is None or len(kept) <= limit
        assert all(batch.keep for batch in wanted)
        assert {batch.orders for batch in wanted} <= {batch.orders for batch in all_batches}, "batches are drawn whole"
        assert found.isdisjoint(kept)
        found |= set(kept)
    assert found == missing if limit is None else found <= missing


@given(st.integers(2, 9), st.data())
def test_halves_hold_every_wanted_order_once_and_say_that_they_are_cut(size, data):
    (batch,) = batches([size])
    keep = data.draw(st.sets(st.sampled_from(sorted(batch.keep)), min_size=1))
    halves = replace(batch, keep=frozenset(keep)).halves()
    assert frozenset().union(*(half.keep for half in halves)) == keep
    assert sum(len(half.keep) for half in halves) == len(keep)
    assert all(half.cut and half.keep and len(half.orders) < size for half in halves)


def test_a_part_is_named_by_its_batch_and_what_is_kept_of_it():
    (batch,) = batches([4])
    fewer = replace(batch, keep=frozenset(sorted(batch.keep)[:2]))
    assert batch.name != fewer.name
    assert batch.name == batches([4])[0].name
