"""The config `metadata`: every column but the pixels, in the order of the shards, small, and left alone by later versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from imaginet_build.releases import metadatatable, release
from imaginet_build.releases.shardwriter import ShardWriter

KINDS = {
    "image": {"_type": "Image"},
    "label": {"names": ["real", "synthetic"], "_type": "ClassLabel"},
    "generator": {"names": ["real", "tiny-gan"], "_type": "ClassLabel"},
    "id": {"dtype": "string", "_type": "Value"},
    "width": {"dtype": "int32", "_type": "Value"},
}


def shard(folder: Path, name: str, start: int, count: int, kinds: dict[str, dict[str, Any]] = KINDS) -> None:
    with ShardWriter(folder / "data" / "native" / name, release.schema_of(kinds)) as writer:
        for number in range(start, start + count):
            image = (number.to_bytes(2, "big") * 5000, f"{number}.jpg")
            writer.add({"image": image, "label": number % 2, "generator": number % 2, "id": f"{number:04d}", "width": number})
        writer.commit()


def small(folder: Path) -> Path:
    shard(folder, "train-00000-of-00002.parquet", 0, 40)
    shard(folder, "train-00001-of-00002.parquet", 40, 30)
    shard(folder, "test-00000-of-00001.parquet", 70, 10)
    return folder


def test_every_column_but_the_image_in_the_order_of_the_shards(tmp_path: Path) -> None:
    folder = small(tmp_path)
    assert metadatatable.write(folder, "native") == [
        "metadata/train-00000-of-00001.parquet",
        "metadata/test-00000-of-00001.parquet",
    ]
    table = pq.read_table(folder / "metadata" / "train-00000-of-00001.parquet")
    assert table.column_names == [name for name in KINDS if name != "image"]
    assert table["id"].to_pylist() == [f"{number:04d}" for number in range(70)]
    assert release.features_of(folder / "metadata" / "train-00000-of-00001.parquet") == {
        name: kind for name, kind in KINDS.items() if name != "image"
    }
    sizes = [sum(p.stat().st_size for p in (folder / place).rglob("*.parquet")) for place in ("metadata", "data")]
    assert sizes[0] < sizes[1] / 20
    assert sorted(p.name for p in (folder / "metadata").iterdir()) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]


def test_it_is_the_same_bytes_every_time_and_in_no_digest(tmp_path: Path) -> None:
    folder = small(tmp_path)
    before = release.digest(release.inventory(folder))
    first = [(folder / path).read_bytes() for path in metadatatable.write(folder, "native")]
    assert [(folder / path).read_bytes() for path in metadatatable.write(folder, "native")] == first
    assert release.digest(release.inventory(folder)) == before


def test_a_later_version_has_files_of_its_own(tmp_path: Path) -> None:
    folder = small(tmp_path)
    old = {path: (folder / path).read_bytes() for path in metadatatable.write(folder, "native")}
    more = KINDS | {"generator": {"names": ["real", "tiny-gan", "another"], "_type": "ClassLabel"}}
    shard(folder, "train-1.1.0-00000-of-00001.parquet", 100, 5, more)
    now = metadatatable.write(folder, "native")
    assert set(now) - set(old) == {"metadata/train-1.1.0-00000-of-00001.parquet"}
    assert {path: (folder / path).read_bytes() for path in old} == old


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_datasets_loads_it_with_its_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    metadatatable.write(small(tmp_path), "native")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: metadata\n  data_files:\n"
        "  - {split: train, path: 'metadata/train-*.parquet'}\n  - {split: test, path: 'metadata/test-*.parquet'}\n---\n"
    )
    loaded = datasets.load_dataset(str(tmp_path), "metadata", cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 70, "test": 10}
    assert loaded["train"].features["generator"].names == ["real", "tiny-gan"]
    assert "image" not in loaded["train"].column_names
