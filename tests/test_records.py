"""What flows between the stages: names that depend on values alone, chance that belongs to a name, and tables of one schema."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build import records
from imaginet_build.records import (
    FACT_SCHEMA,
    PLAN_SCHEMA,
    REJECT_SCHEMA,
    SCHEMA,
    Facts,
    Record,
    View,
    make_id,
    random_of,
    seed_of,
    table_of,
    view_of,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)

FACTS = Facts(
    sha256="0" * 64, nbytes=1, codec="png", width=8, height=9, mode="RGB", quality=None, qtables=None, subsampling=None,
    progressive=False, metadata=("exif", "icc"), pixel_hash="1" * 64, phash=2**64 - 1, phash_mirror=0, dhash=1, contrast=12.5,
)  # fmt: skip
RECORD = Record(
    id="a" * 32, origin="real", category="photos", family=None, generator=None, source="s", source_key="k", licence="CC0-1.0",
    revision="r", prompt=None, negative=None, seed=None, params="{}", pair_id=None, group="g", extension="png", facts=FACTS,
)  # fmt: skip


# --- names -------------------------------------------------------------------------------------------------------------


def test_ids_are_what_they_have_always_been():
    """A change here orphans every work folder there is."""
    assert make_id("order", 1, None, "é") == "1f10c0b0c64b6cbb0faf82a6d4c4fea8"
    assert seed_of("name", "image") == 582314405552311387
    assert random_of("name", "image").integers(0, 2**32, 3).tolist() == [2549345682, 3573420476, 3606225521]


@given(st.lists(json_values, max_size=4))
def test_an_id_is_thirty_two_hexadecimal_digits_and_the_same_every_time(parts):
    name = make_id(*parts)
    assert len(name) == 32
    assert set(name) <= set("0123456789abcdef")
    assert name == make_id(*parts)


@given(st.dictionaries(st.text(max_size=5), json_values, min_size=2, max_size=5))
def test_the_order_of_a_mapping_does_not_matter(mapping):
    assert make_id(mapping) == make_id(dict(reversed(mapping.items())))


@given(st.text(), st.text())
def test_where_one_part_ends_and_the_next_begins_matters(a, b):
    assert make_id(a + b) != make_id(a, b)
    assert make_id([a], b) != make_id(a, [b])


@given(st.sets(st.text(max_size=12), min_size=2, max_size=20))
def test_different_things_have_different_names(names):
    assert len({make_id(name) for name in names}) == len(names)


def test_names_and_chance_do_not_depend_on_the_process_or_its_hash_seed():
    code = (
        "from imaginet_build.records import make_id, random_of;"
        "print(make_id({'b': 1, 'a': ['x']}, 'é'), random_of('n', 'p').integers(0, 2**62))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "LC_ALL": "C"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


# --- chance ------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=20), st.text(max_size=20))
def test_seeds_lie_in_range_and_belong_to_one_purpose(name, purpose):
    assert 0 <= seed_of(name, purpose) < 2**63
    assert seed_of(name, purpose) == seed_of(name, purpose)
    assert seed_of(name, purpose) != seed_of(name, purpose + "2")


def test_random_numbers_of_different_names_and_purposes_are_unrelated():
    draws = np.array([random_of(f"{name}", purpose).random(200) for name in range(5) for purpose in ("crop", "quality")])
    correlations = np.corrcoef(draws)[np.triu_indices(10, 1)]
    assert np.abs(correlations).max() < 0.3
    assert abs(draws.mean() - 0.5) < 0.05


@settings(max_examples=20)
@given(st.text(max_size=8))
def test_random_numbers_do_not_depend_on_what_was_drawn_before(name):
    first = random_of(name, "a").random(3)
    random_of(name, "b").random(100)
    np.random.default_rng().random(10)
    assert np.array_equal(first, random_of(name, "a").random(3))


# --- rows --------------------------------------------------------------------------------------------------------------


def test_a_record_is_exactly_one_row_of_the_fact_schema():
    row = RECORD.row()
    assert set(row) == set(FACT_SCHEMA.names)
    assert row["metadata"] == "exif,icc"
    (back,) = table_of([row], FACT_SCHEMA).to_pylist()
    assert back == row


def test_a_part_is_the_facts_and_then_the_bytes():
    assert SCHEMA.names == [*FACT_SCHEMA.names, "image"]


def test_hashes_keep_all_their_sixty_four_bits():
    assert table_of([RECORD.row()], FACT_SCHEMA)["phash"].to_pylist() == [2**64 - 1]


@pytest.mark.parametrize("schema", [FACT_SCHEMA, REJECT_SCHEMA, PLAN_SCHEMA], ids=["facts", "rejects", "plan"])
def test_no_rows_are_an_empty_table_of_the_schema(schema):
    assert table_of([], schema).schema == schema


@pytest.mark.parametrize("change", [{"reason": None}, {}], ids=["null", "missing"])
def test_what_must_be_there_must_be_there(change):
    row = {"id": "a", "stage": "collect", "reason": "r", "detail": ""}
    assert table_of([row], REJECT_SCHEMA).num_rows == 1
    row.pop("reason")
    with pytest.raises(pa.ArrowInvalid, match="reason"):
        table_of([row | change], REJECT_SCHEMA)


def test_a_value_of_the_wrong_kind_is_an_error_not_a_guess():
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        table_of([RECORD.row() | {"width": "wide"}], FACT_SCHEMA)


views = st.builds(
    View,
    left=st.integers(0, 9999), top=st.integers(0, 9999), width=st.integers(1, 9999), height=st.integers(1, 9999),
    codec=st.sampled_from(["jpeg", "webp", "png"]), quality=st.integers(1, 100),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    first_quality=st.none() | st.integers(1, 100), first_subsampling=st.none() | st.sampled_from(["4:4:4", "4:2:0"]),
)  # fmt: skip


@given(views)
def test_a_view_goes_through_the_plan_unchanged(view):
    row = {
        "id": "a", "keep": True, "category": "photos", "origin": "real", "generator_or_source": "s", "group": "g",
    } | dataclasses.asdict(view)  # fmt: skip
    (back,) = table_of([row], PLAN_SCHEMA).to_pylist()
    assert view_of(back) == view


@pytest.mark.parametrize(
    "kind", [records.Prompt, records.Order, records.Found, records.Refusal, records.Facts, records.Record, records.View]
)
def test_what_flows_cannot_be_changed_on_its_way(kind):
    assert kind.__dataclass_params__.frozen
    assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)
