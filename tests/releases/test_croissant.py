"""`croissant.json`, read by the reference implementation: every record of every set, since a static check misses much."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published
import pyarrow.parquet as pq
import pytest

from imaginet_build.releases import croissant, release

mlcroissant = pytest.importorskip("mlcroissant")
pytestmark = pytest.mark.filterwarnings("ignore")  # rdflib's own, on every read


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.release(tmp_path_factory.mktemp("croissant")).path


@pytest.fixture(scope="module")
def described(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "croissant.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def read(folder: Path) -> Any:
    return mlcroissant.Dataset(str(folder / "croissant.json"))


def text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def test_it_is_croissant_1_1_without_an_error_or_a_warning(read: Any, described: dict[str, Any]) -> None:
    assert read.metadata.ctx.issues.errors == set()
    assert read.metadata.ctx.issues.warnings == set()
    assert described["conformsTo"] == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
    assert read.metadata.ctx.is_v1_1()
    assert read.metadata.name in (published.ABOUT.title, {"en": published.ABOUT.title})


def test_its_context_is_the_specifications(read: Any) -> None:
    from mlcroissant._src.core.rdf import make_context

    assert make_context(read.metadata.ctx) == croissant.CONTEXT


@pytest.mark.parametrize("config", ["equalized", "native", "full", "metadata"])
def test_every_record_of_a_config_is_its_row_in_the_files(folder: Path, read: Any, config: str) -> None:
    place = {"full": "data/equalized", "metadata": "metadata"}.get(config, f"data/{config}")
    rows = {
        row["id"]: row | {"split": path.name.split("-")[0]}
        for path in folder.glob(f"{place}/*.parquet")
        for row in pq.read_table(path).to_pylist()
    }
    records = list(read.records(config))
    assert len(records) == len(rows) == 23
    for record in records:
        row = rows.pop(text(record[f"{config}/id"]) or "")
        for name, value in row.items():
            said = record[f"{config}/{name}"]
            if name == "image":
                said.fp.seek(0)
                assert said.fp.read() == value["bytes"]
                assert said.size == (row["width"], row["height"])
            else:
                assert (text(said) if isinstance(said, bytes) else said) == value
        assert set(record) == {f"{config}/{name}" for name in row}
    assert not rows


def test_every_other_record_set_can_be_read(read: Any, folder: Path) -> None:
    """Class names in label order; every shard alone, with the bytes whose hash its row states."""
    names = release.names(folder)
    for record_set in (one.uuid for one in read.metadata.record_sets):
        records = list(read.records(record_set))
        if record_set.startswith("names-of-"):
            known = [r[f"{record_set}/name"] for r in sorted(records, key=lambda r: r[f"{record_set}/number"])]
            column = record_set.removeprefix("names-of-")
            assert [text(n) if isinstance(n, bytes) else n for n in known] == {
                "label": ["real", "synthetic"], "content_type": list(names.categories), "family": list(names.families),
                "generator": list(names.generators),
            }[column]  # fmt: skip
        elif record_set.startswith("rows-of-"):
            assert len(records) == pq.read_metadata(folder / record_set.removeprefix("rows-of-")).num_rows
            for record in (r for r in records if f"{record_set}/image" in r):
                image = record[f"{record_set}/image"]
                image.fp.seek(0)
                assert hashlib.sha256(image.fp.read()).hexdigest() == text(record[f"{record_set}/sha256"])


def test_every_parquet_file_is_there_with_its_hash_and_size(folder: Path, described: dict[str, Any]) -> None:
    objects = {node["contentUrl"]: node for node in described["distribution"] if node["@type"] == "cr:FileObject"}
    assert set(objects) == {p.relative_to(folder).as_posix() for p in folder.rglob("*.parquet")}
    for path, node in objects.items():
        assert release.fingerprint(folder / path) == {
            "sha256": node["sha256"], "nbytes": int(node["contentSize"].removesuffix(" B")),
        }  # fmt: skip


def wrong_hash(document: dict[str, Any], shard: str) -> None:
    (node,) = (n for n in document["distribution"] if n["@id"] == shard)
    node["sha256"] = "0" * 64


def wrong_column(document: dict[str, Any], shard: str) -> None:
    (node,) = (n for n in document["recordSet"] if n["@id"] == f"rows-of-{shard}")
    node["field"][0]["source"]["extract"]["column"] = "no such column"


def reason(error: BaseException) -> BaseException:
    """The first cause: the reader wraps an error once for every step."""
    return reason(error.__cause__) if error.__cause__ else error


@pytest.mark.parametrize(("harm", "what"), [(wrong_hash, "Hash of downloaded file"), (wrong_column, "no such column")])
def test_iterating_sees_what_the_static_check_does_not(
    folder: Path, described: dict[str, Any], tmp_path: Path, harm: Callable[..., None], what: str
) -> None:
    shard = "data/equalized/test-00000-of-00002.parquet"
    copy = shutil.copytree(folder, tmp_path / "copy")
    document = json.loads(json.dumps(described))
    harm(document, shard)
    (copy / "croissant.json").write_text(json.dumps(document), encoding="utf-8")
    read = mlcroissant.Dataset(str(copy / "croissant.json"))
    assert read.metadata.ctx.issues.errors == set()
    with pytest.raises(mlcroissant.GenerationError) as caught:
        list(read.records(f"rows-of-{shard}"))
    assert what in str(reason(caught.value))
    assert list(read.records("rows-of-data/native/test-00000-of-00002.parquet"))


def test_a_file_that_changed_is_seen(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    shard = copy / "data/native/test-00000-of-00002.parquet"
    pq.write_table(pq.read_table(shard), shard)
    with pytest.raises(mlcroissant.GenerationError):
        list(mlcroissant.Dataset(str(copy / "croissant.json")).records("rows-of-data/native/test-00000-of-00002.parquet"))


def test_responsible_ai_is_counted_or_said_not_to_be_stated(read: Any, described: dict[str, Any]) -> None:
    metadata = read.metadata
    assert "12 real images come from: album. 11 synthetic images come from: " in metadata.data_collection
    assert metadata.data_collection_type == ["Secondary Data Analysis", "Software Collection"]
    assert "prompt: 12 of 23 rows" in metadata.data_collection_missing_data
    assert "The classes are not equal: 12 real and 11 synthetic images." in metadata.data_limitations
    assert any("verdict" in bias and "undecided" in bias for bias in metadata.data_biases)
    assert "6 real images are of content type photos." in metadata.data_biases
    assert metadata.data_use_cases == ["Not stated (recipe key publish.about.uses)."]
    assert "publish.about.sensitive" in " ".join(metadata.personal_sensitive_information)
    assert "publish.about.maintainer" in metadata.data_release_maintenance_plan
    known = {key.removeprefix("rai:") for key in described if key.startswith("rai:")}
    assert {"dataCollection", "dataBiases", "dataLimitations", "dataUseCases", "personalSensitiveInformation",
            "dataSocialImpact", "dataReleaseMaintenancePlan", "dataAnnotationProtocol"} <= known  # fmt: skip
