"""A shard: row groups neither tiny nor huge, files that loaders like, a hash that is the file's own, whole or absent."""

from __future__ import annotations

import hashlib
import io
import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peakmemory import CODE

from imaginet_build.releases import release
from imaginet_build.releases.born import _struct
from imaginet_build.releases.shardwriter import GROUP_BYTES, GROUP_ROWS, LEAST_ROWS, ShardWriter, next_group

SCHEMA = release.schema_of({"image": {"_type": "Image"}, "id": {"dtype": "string", "_type": "Value"}})


def row(number: int, data: bytes | None = b"pixels") -> dict[str, Any]:
    return {"image": (None, None) if data is None else (data, f"{number}.jpg"), "id": f"{number}"}


def groups(sizes: list[int], most: int = GROUP_BYTES) -> list[list[int]]:
    """The images' sizes by row group, as a writer settles them row by row."""
    ahead: list[int] = []
    found = []
    for size in sizes:
        ahead.append(size)
        while count := next_group(ahead, False, most=most):
            found.append(ahead[:count])
            ahead = ahead[count:]
    while ahead:
        count = next_group(ahead, True, most=most)
        found.append(ahead[:count])
        ahead = ahead[count:]
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 10), st.integers(0, 300)), max_size=260))
@example([1] * 260)
@example([20] * 50 + [3] * 24)
@example([21] * 49 + [1] * 10)
@example([40] * 26)
def test_groups_have_25_to_100_rows_and_at_most_their_bytes_unless_bytes_forbid(sizes: list[int]) -> None:
    most = 1000
    found = groups(sizes, most)
    assert [size for group in found for size in group] == sizes
    for group in found:
        assert 1 <= len(group) <= 100
        assert sum(group) <= most or len(group) == 1
    for before, after in pairwise(found):
        # No row of the next one fits, or it is long enough as it is.
        assert len(before) >= LEAST_ROWS or sum(before) + after[0] > most
    if len(found) > 1 and len(found[-1]) < LEAST_ROWS and len(found[-2]) >= LEAST_ROWS:
        both = found[-2] + found[-1]
        assert sum(both) > most, "they could have been one"
        cuts = range(LEAST_ROWS, len(both) - LEAST_ROWS + 1)
        assert not any(sum(both[:cut]) <= most and sum(both[cut:]) <= most for cut in cuts), "they could have been evened out"


def test_what_is_left_joins_the_group_before_it() -> None:
    assert (GROUP_ROWS, LEAST_ROWS, GROUP_BYTES) == (50, 25, 50_000_000)
    assert [len(group) for group in groups([200_000] * 120)] == [50, 70]
    assert [len(group) for group in groups([200_000] * 130)] == [50, 50, 30]
    assert [len(group) for group in groups([1_000_000] * 60)] == [35, 25]
    assert [len(group) for group in groups([4_000_000] * 30)] == [12, 12, 6]
    assert [len(group) for group in groups([7])] == [1]


@pytest.mark.parametrize("count", [1, 24, 74, 75, 120, 201])
def test_every_row_comes_back_and_the_hash_is_that_of_the_file(tmp_path: Path, count: int) -> None:
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    images = [None if i % 7 == 3 else bytes([i]) * (3 * i) for i in range(count)]
    with ShardWriter(path, SCHEMA) as writer:
        for number, data in enumerate(images):
            writer.add(row(number, data))
        said = writer.commit()
    assert said == release.fingerprint(path)
    read = pq.read_table(path)
    assert read.schema.metadata == SCHEMA.metadata
    assert read.to_pylist() == [
        {"image": None if data is None else {"bytes": data, "path": f"{number}.jpg"}, "id": f"{number}"}
        for number, data in enumerate(images)
    ]


def test_files_have_a_page_index_and_neither_dictionary_nor_statistics_on_image_bytes(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.parquet", SCHEMA) as writer:
        for number in range(60):
            writer.add(row(number))
        writer.commit()
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    columns = {metadata.row_group(0).column(i).path_in_schema: metadata.row_group(0).column(i) for i in range(3)}
    image = columns["image.bytes"]
    assert (image.statistics, image.has_dictionary_page, image.compression) == (None, False, "UNCOMPRESSED")
    assert image.has_offset_index
    assert columns["id"].has_column_index
    assert columns["id"].statistics.max == "9"
    assert b'"min_chunk_size": 262144' in metadata.metadata[b"content_defined_chunking"]


def test_a_row_more_at_the_front_leaves_most_of_the_file_as_it_was(tmp_path: Path) -> None:
    """Content-defined chunking: pages end where the content says so, so that a store of chunks sends only what is new."""
    noise = [hashlib.shake_256(bytes([i])).digest(100_000) for i in range(40)]
    pages = []
    for name, images in (("old", noise), ("new", [b"something else", *noise])):
        with ShardWriter(tmp_path / name, SCHEMA) as writer:
            for number, data in enumerate(images):
                writer.add(row(number, data))
            writer.commit()
        content = (tmp_path / name).read_bytes()
        pages.append({hashlib.sha256(data).digest() for data in _pages(content)})
    assert len(pages[0] & pages[1]) >= len(pages[0]) - 2


def _pages(content: bytes) -> list[bytes]:
    """What lies between the beginnings of the images' pages, headers aside (their numbers differ)."""
    column = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(0)
    body = content[column.data_page_offset : column.data_page_offset + column.total_compressed_size]
    found, at = [], 0
    while at < len(body):
        header, length = _struct(body[at : at + 400], 0)
        # The first bytes of a page are its levels: how many rows are there, not what they are.
        found.append(body[at + length + 16 : at + length + header[3]])
        at += length + header[3]
    return found


def test_without_a_commit_nothing_is_left(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.parquet", SCHEMA) as writer:
        writer.add(row(0))
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, signal, sys
from pathlib import Path
from imaginet_build.releases import release
from imaginet_build.errors import BuildError
from imaginet_build.releases.shardwriter import ShardWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
schema = release.schema_of({"image": {"_type": "Image"}})
try:
    with ShardWriter(Path(sys.argv[1]), schema) as writer:
        for number in range(200):
            writer.add({"image": (bytes(10_000), "a")})
        writer.commit()
except BuildError as error:
    print(error)
"""


def test_a_disk_without_room_is_said_in_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "a.parquet"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        f"cannot write {tmp_path}/a.parquet: File too large. What was finished is kept; publish again to go on"
    )
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


PEAK = (
    CODE
    + """
import sys
from pathlib import Path
from imaginet_build.releases import release
from imaginet_build.releases.shardwriter import ShardWriter
schema = release.schema_of({"image": {"_type": "Image"}})
with ShardWriter(Path(sys.argv[1]), schema) as writer:
    for number in range(int(sys.argv[2])):
        writer.add({"image": (number.to_bytes(4, "big") * 125_000, "a")})
    before = peak()
    writer.commit()
print(peak())
"""
)


def test_memory_does_not_grow_with_the_shard(tmp_path: Path) -> None:
    """Images of half a megabyte, 50 to a group: 40 and 110 MB."""
    peaks = []
    for count in (75, 225):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, tmp_path / "a", str(count)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) / 1e6)
        (tmp_path / "a").unlink()
    assert peaks[1] < peaks[0] + 30
    assert peaks[1] < 300
