"""Where the bytes of an image lie: found without reading them, for parts of any cut, and never believed without a hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build.records import FACT_SCHEMA, SCHEMA
from imaginet_build.releases.born import Born, Place, _page, _struct
from imaginet_build.store import Store, StoreError


def image(number: int, size: int) -> bytes:
    return hashlib.shake_256(number.to_bytes(4, "big")).digest(size)


def facts(number: int, data: bytes) -> dict[str, object]:
    empty: dict[object, object] = {pa.string(): "", pa.bool_(): False, pa.float32(): 0.0}
    row = {field.name: empty.get(field.type, 0) for field in FACT_SCHEMA}
    return row | {"id": f"id-{number}", "nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def places(made: Store, ids: list[str], scratch: Path) -> list[Place]:
    """Where the images `ids` lie."""
    born = Born(made.parts(), scratch)
    at = {name: (part, row) for part, path in enumerate(made.parts()) for row, name in enumerate(made.names(path))}
    return [born.place(*at[name]) for name in ids]


def store(root: Path, parts: list[list[int]]) -> tuple[Store, dict[str, bytes]]:
    """A work folder with images of these sizes, part by part."""
    held: dict[str, bytes] = {}
    made = Store(root)
    for place, sizes in enumerate(parts):
        drawn = [image(len(held) + i, size) for i, size in enumerate(sizes)]
        rows = [facts(len(held) + i, data) for i, data in enumerate(drawn)]
        held |= {str(row["id"]): data for row, data in zip(rows, drawn, strict=True)}
        made.write_part("collect", f"part-{place}", rows, drawn)
    return made, held


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.lists(st.sampled_from([0, 1, 900, 70_000, 1_100_000]), max_size=40), min_size=1, max_size=3))
def test_every_image_is_found_in_any_order(tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]]) -> None:
    root = tmp_path_factory.mktemp("work")
    made, held = store(root, sizes)
    ids = sorted(held, key=lambda name: hashlib.sha256(name.encode()).digest())
    assert [place.read() for place in places(made, ids, root / "scratch")] == [held[name] for name in ids]
    assert not (root / "scratch").exists()


@pytest.mark.parametrize(
    "settings", [{}, {"compression": "none"}, {"data_page_version": "2.0"}, {"compression": "none", "use_dictionary": False}]
)
def test_parts_that_another_tool_wrote_are_read_too(tmp_path: Path, settings: dict[str, object]) -> None:
    made, held = store(tmp_path, [[10, 70_000, 3], [1_200_000, 5]])
    path = made.parts()[0]
    table = pq.read_table(path)
    pq.write_table(table.cast(pa.schema([field.with_nullable(True) for field in table.schema])), path, **settings)
    assert [place.read() for place in places(made, list(held), tmp_path / "scratch")] == list(held.values())


def test_a_part_that_has_lost_rows_meanwhile_is_named(tmp_path: Path) -> None:
    made, _ = store(tmp_path, [[4, 5]])
    with pytest.raises(StoreError, match=r"part-0\.parquet has changed while it was read: publish again"):
        Born(made.parts(), tmp_path / "scratch").place(0, 2)


def test_a_damaged_or_vanished_part_is_named(tmp_path: Path) -> None:
    made, _ = store(tmp_path, [[4], [5]])
    born = places(made, ["id-0", "id-1"], tmp_path / "scratch")
    first, second = made.parts()
    first.write_bytes(first.read_bytes()[:10])
    with pytest.raises(StoreError, match=r"part-0\.parquet is shorter than it was"):
        born[0].read()
    second.unlink()
    with pytest.raises(StoreError, match=r"part-1\.parquet cannot be read"):
        born[1].read()
    with pytest.raises(StoreError, match=r"part-0\.parquet cannot be read"):
        Born([first], tmp_path / "scratch")


def test_a_length_that_is_wrong_is_noticed_and_the_image_found_all_the_same(tmp_path: Path) -> None:
    made, held = store(tmp_path, [[40, 50, 60]])
    path = made.parts()[0]
    table = pq.read_table(path)
    wrong = table.set_column(table.schema.get_field_index("nbytes"), SCHEMA.field("nbytes"), [[41, 50, 60]])
    pq.write_table(wrong, path, compression="none", use_dictionary=False, write_statistics=False)
    assert [place.read() for place in places(made, list(held), tmp_path / "scratch")] == list(held.values())


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x15\x00", bytes(range(256)), b"\xff" * 64, b"\x1b\x01"])
def test_what_is_no_page_header_is_nothing(data: bytes) -> None:
    assert _page(data) is None


def test_thrift_structs_are_read_by_field_number() -> None:
    # 1: -3, 2: true, 20 (long form): 300, 21: a struct with 1: 7
    data = b"\x15\x05\x11\x05\x28\xd8\x04\x1c\x15\x0e\x00\x00rest"
    assert _struct(data, 0) == ({1: -3, 2: True, 20: 300, 21: {1: 7}}, len(data) - 4)
