"""A release on disk: the cut into shards, the schema that loaders read, and proof against damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build.errors import UsageError
from imaginet_build.records import SPLITS
from imaginet_build.releases import release
from imaginet_build.releases.shardwriter import GROUP_BYTES, GROUP_ROWS, ShardWriter
from imaginet_build.releases.spill import Spill

NAMES = release.Names.of(["photos", "faces", "photos"], [None, "gan"], [None, "tiny-gan", "a-gan"])


def row(i: int, data: bytes = b"pixels") -> dict[str, Any]:
    strings = dict.fromkeys(("pair_id", "source", "source_key", "prompt", "seed", "fetch"))
    numbers = {"label": 1, "content_type": 0, "family": 1, "generator": 2, "width": 64, "height": 48}
    hashes = {"sha256": "a" * 64, "source_sha256": "b" * 64, "phash": "0" * 16}
    return {"id": f"{i:032x}", "group": "g", "licence": "MIT", "image": (data, f"{i:032x}.jpg")} | strings | numbers | hashes


def shard(path: Path, rows: list[dict[str, Any]], **limits: int) -> pq.FileMetaData:
    with ShardWriter(path, release.schema(NAMES), **limits) as writer:
        for one in rows:
            writer.add(one)
        writer.commit()
    return pq.read_metadata(path)


def test_names_are_sorted_without_repeats_and_real_comes_first() -> None:
    assert release.Names(("faces", "photos"), ("real", "gan"), ("real", "a-gan", "tiny-gan")) == NAMES


def test_a_generator_may_not_be_called_real() -> None:
    with pytest.raises(UsageError, match="a generator is called 'real'"):
        release.Names.of(["photos"], [None], ["real"])


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=40), min_size=1, max_size=3),
    rows_per_file=st.integers(1, 15),
    bytes_per_file=st.integers(1, 5000),
)
def test_shards_cover_every_row_once_in_order_and_none_is_empty_or_too_long(
    sizes: list[list[int]], rows_per_file: int, bytes_per_file: int
) -> None:
    splits = [split for split, members in zip(SPLITS, sizes, strict=False) for _ in members]
    runs = [release.Run(split, 0, len(members), sum(members)) for split, members in zip(SPLITS, sizes, strict=False)]
    found = release.layout(runs, rows_per_file, bytes_per_file)
    assert [i for s in found for i in s.rows] == list(range(len(splits)))
    assert all(0 < len(s.rows) <= rows_per_file for s in found)
    assert all({splits[i] for i in s.rows} == {s.split} for s in found)
    for split, members in zip(SPLITS, sizes, strict=False):
        own = [s for s in found if s.split == split]
        assert [(s.index, s.count) for s in own] == [(i, len(own)) for i in range(len(own))]
        least = max(-(-len(members) // rows_per_file), -(-sum(members) // bytes_per_file))
        assert len(own) == min(len(members), least)


def test_the_name_of_a_shard_says_which_of_how_many() -> None:
    assert release.Shard("train", 2, 11, range(3)).path("native") == "data/native/train-00002-of-00011.parquet"


def test_row_groups_hold_few_rows_and_few_bytes(tmp_path: Path) -> None:
    assert (25 <= GROUP_ROWS <= 100, GROUP_BYTES) == (True, 50_000_000)
    metadata = shard(tmp_path / "a.parquet", [row(i) for i in range(120)])
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [50, 70]
    metadata = shard(tmp_path / "b.parquet", [row(i, bytes(400)) for i in range(5)], group_bytes=900)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 2, 1]


def test_an_image_larger_than_a_row_group_has_one_of_its_own(tmp_path: Path) -> None:
    metadata = shard(tmp_path / "a.parquet", [row(0), row(1, bytes(5000)), row(2)], group_bytes=100)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [1, 1, 1]


def test_a_shard_that_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.parquet", release.schema(NAMES)) as writer:
        writer.add(row(0))
    assert list(tmp_path.iterdir()) == []


def test_the_schema_is_the_one_datasets_would_write() -> None:
    datasets = pytest.importorskip("datasets")
    schema = release.schema(NAMES)
    read = datasets.Features.from_arrow_schema(schema)
    assert read.to_dict() == release.features(NAMES)
    assert read.arrow_schema.equals(schema)
    assert read["generator"].int2str([0, 1, 2]) == ["real", "a-gan", "tiny-gan"]


def test_rows_come_back_with_names_and_splits_and_no_pixels(tmp_path: Path) -> None:
    for split in ("test", "train"):
        shard(tmp_path / release.Shard(split, 0, 1, range(1)).path("native"), [row(1)])
    table = release.rows(tmp_path, "native")
    assert "image" not in table.column_names
    assert table.select(["split", "label", "generator", "content_type"]).to_pylist() == [
        {"split": split, "label": "synthetic", "generator": "tiny-gan", "content_type": "faces"} for split in ("train", "test")
    ]


def published(folder: Path) -> None:
    shard(folder / "data" / "native" / "train-00000-of-00001.parquet", [row(0)])
    (folder / "README.md").write_text("card")
    files = release.inventory(folder)
    (folder / "release.json").write_text(json.dumps({"files": files, "digest": release.digest(files)}))


def test_damage_loss_and_additions_are_each_named(tmp_path: Path) -> None:
    published(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("hidden files are not of the release")
    assert release.faults(tmp_path) == []
    data = tmp_path / "data" / "native" / "train-00000-of-00001.parquet"
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    (tmp_path / "README.md").unlink()
    (tmp_path / "more.txt").write_text("")
    assert release.faults(tmp_path) == [
        "README.md: missing",
        "more.txt: not in release.json",
        "data/native/train-00000-of-00001.parquet: its bytes are not those published",
    ]


def test_the_digest_follows_the_data_and_nothing_else(tmp_path: Path) -> None:
    published(tmp_path)
    files = release.read_manifest(tmp_path)["files"]
    assert release.digest(files | {"README.md": {"sha256": "0"}}) == release.digest(files)
    assert release.digest(dict(reversed(files.items()))) == release.digest(files)
    changed = {p: f | {"sha256": "0"} if p.startswith("data/") else f for p, f in files.items()}
    assert release.digest(changed) != release.digest(files)


@pytest.mark.parametrize("text", ["{", "[]", '{"files": 3}'])
def test_a_manifest_that_cannot_be_read_is_a_usage_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "release.json").write_text(text)
    with pytest.raises(UsageError, match="is not a release manifest"):
        release.read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_not_a_release(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a release"):
        release.read_manifest(tmp_path)


def test_spilled_bytes_come_back_in_any_order_and_the_file_goes(tmp_path: Path) -> None:
    with Spill(tmp_path / "s") as spill:
        for name, data in (("a", b"first"), ("b", b""), ("c", b"third")):
            spill.put(name, data)
        assert [spill.take(name) for name in "cab"] == [b"third", b"first", b""]
    assert list(tmp_path.iterdir()) == []
