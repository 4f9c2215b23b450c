"""TOML written here reads back the same."""

from __future__ import annotations

import tomllib

from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build import toml

SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=12)
)
KEYS = st.text(min_size=1, max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)), max_leaves=12
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_nested_mapping_survives_writing_and_reading(table: dict[str, object]) -> None:
    assert tomllib.loads(toml.write(table)) == table


def test_plain_values_come_before_tables_so_that_none_lands_in_the_wrong_one() -> None:
    table = {"a": {"x": 1}, "b": 2, "c": [{"y": {"z": [1, 2]}}, {"y": {}}]}
    text = toml.write(table)
    assert text.index("b = 2") < text.index("[a]")
    assert tomllib.loads(text) == table
