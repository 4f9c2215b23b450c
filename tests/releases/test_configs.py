"""What can be loaded by name follows from the files that are there, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_release

from imaginet_build.errors import BuildError
from imaginet_build.releases import configs, release


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_release.make(tmp_path / "r")


def side_table(folder: Path, place: str, features: dict[str, dict[str, Any]], rows: int) -> Path:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: list(range(rows)) if "names" not in f else [0] * rows for name, f in features.items()}
    schema = release.schema_of(features)
    pq.write_table(pa.table({n: pa.array(v).cast(schema.field(n).type) for n, v in columns.items()}, schema=schema), path)
    return path


def test_views_are_configs_in_their_order_and_the_first_is_the_default(folder: Path) -> None:
    found = configs.found(folder)
    assert [(c.name, c.default) for c in found] == [("equalized", True), ("native", False)]
    assert [c.name for c in configs.found(folder, views=("native", "equalized"))] == ["native", "equalized"]
    first = found[0]
    assert first.rows == small_release.ROWS
    assert first.data_files == {s: (f"data/equalized/{s}-*.parquet",) for s in small_release.ROWS}
    for split, paths in first.shards.items():
        assert first.nbytes[split] == sum(p.stat().st_size for p in paths)
    assert first.features == release.features(small_release.NAMES)


def test_a_folder_of_parquet_files_is_a_config_by_itself(folder: Path) -> None:
    features = {"label": {"names": ["real", "synthetic"], "_type": "ClassLabel"}, "n": {"dtype": "int64", "_type": "Value"}}
    side_table(folder, "metadata/test-00000-of-00001.parquet", features, 3)
    side_table(folder, "data/robustness/test-00000-of-00001.parquet", features, 5)
    (folder / "data" / "empty").mkdir()
    found = {c.name: c for c in configs.found(folder)}
    assert list(found) == ["equalized", "native", "metadata", "robustness"]
    assert (found["metadata"].rows, found["robustness"].rows) == ({"test": 3}, {"test": 5})
    assert found["metadata"].data_files == {"test": ("metadata/test-*.parquet",)}
    assert [info["config_name"] for info in configs.dataset_info(tuple(found.values()))] == list(found)


def test_a_tier_names_its_files_unless_a_pattern_finds_just_these(folder: Path) -> None:
    first = [f"data/native/{split}-00000-of-00002.parquet" for split in small_release.ROWS]
    every = [p.relative_to(folder).as_posix() for p in sorted(folder.glob("data/equalized/test-*"))]
    tiny, full = configs.found(folder, {"tiny": dict(zip(small_release.ROWS, ([p] for p in first), strict=True)),
                                        "full": {"test": every}})[2:]  # fmt: skip
    assert (tiny.name, tiny.of, tiny.default) == ("tiny", "native", False)
    assert tiny.data_files == {split: (path,) for split, path in zip(small_release.ROWS, first, strict=True)}
    assert tiny.rows == {"train": 4, "calibration": 2, "test": 2}
    assert (full.of, full.data_files) == ("equalized", {"test": ("data/equalized/test-*.parquet",)})


@pytest.mark.parametrize(
    ("tier", "files", "why"),
    [
        ("tiny", {"test": ["data/native/test-9.parquet"]}, r"has no file data/native/test-9\.parquet"),
        ("tiny", {}, "is empty"),
        ("native", {"test": ["data/native/test-00000-of-00002.parquet"]}, "has the name of a folder"),
    ],
)
def test_a_tier_that_cannot_be_is_named(folder: Path, tier: str, files: dict[str, list[str]], why: str) -> None:
    with pytest.raises(BuildError, match=f"tier '{tier}'.*{why}"):
        configs.found(folder, {tier: files})


def test_names_that_a_later_version_adds_are_those_of_every_config(folder: Path) -> None:
    names = release.Names(("photos",), ("real", "gan", "new"), ("real", "tiny-gan", "new-gan"))
    path = folder / "data/equalized/test-1.1.0-00000-of-00001.parquet"
    table = pq.read_table(folder / "data/equalized/test-00000-of-00002.parquet")
    pq.write_table(table.replace_schema_metadata(release.schema(names).metadata), path)
    found = configs.found(folder, {"tiny": {"test": ["data/native/test-00000-of-00002.parquet"]}})
    assert {tuple(c.features["generator"]["names"]) for c in found} == {("real", "tiny-gan", "new-gan")}


def test_names_that_contradict_each_other_are_refused(folder: Path) -> None:
    swapped = {"label": {"names": ["synthetic", "real"], "_type": "ClassLabel"}}
    side_table(folder, "metadata/test-00000-of-00001.parquet", swapped, 1)
    with pytest.raises(BuildError, match="the class names of 'label' in 'metadata'"):
        configs.found(folder)


def test_a_column_that_the_card_cannot_describe_is_refused(folder: Path) -> None:
    found = configs.found(folder)[:1]
    found[0].features["odd"] = {"_type": "Array2D", "dtype": "int8"}
    with pytest.raises(BuildError, match="'Array2D'"):
        configs.dataset_info(found)


def test_every_column_of_a_release_is_explained() -> None:
    assert list(release.features(small_release.NAMES)) == list(configs.COLUMNS)
