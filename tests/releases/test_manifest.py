"""A release that somebody damaged, or made up, is refused in a sentence by everything that reads it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import published
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from command import run

from imaginet_build import audit, rebuild
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.releases import cardfacts, cardlint, living, manifest, notices, release, releasecheck, releasediff

WRONG: list[Any] = [None, -1, 3.5, "x", "", [], {}, [1], {"a": {"b": 1}}, True, ["../x"], {"../x": {"train": 1}}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.release(tmp_path_factory.mktemp("whole"), audited={"permutations": 2, "pixels": False}).path


@pytest.fixture
def here(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "here")


def readers(folder: Path, whole: Path) -> dict[str, Callable[[], object]]:
    return {
        "publish --check": lambda: releasecheck.check(folder),
        "rebuild --verify": lambda: rebuild.rebuild(folder, folder.with_name("x"), verify=True),
        "diff": lambda: releasediff.text(releasediff.compare(whole, folder)),
        "publish --from": lambda: living.refuse(living.read(folder), ["equalized", "native"], {}),
        "audit": lambda: audit.audit(folder, permutations=0),
    }


def refusal(call: Callable[[], object]) -> str:
    """What an expected failure says, '' where there is none; a traceback fails the test."""
    try:
        call()
    except BuildError as error:
        return str(error)
    return ""


def told(folder: Path, whole: Path, *but: str) -> list[str]:
    """What each reader says of a folder."""
    said = []
    for name, read in readers(folder, whole).items():
        found: list[Any] = []
        if name not in but:
            said.append(refusal(partial(lambda found, read: found.append(read()), found, read)))
        said += [line for one in found if isinstance(one, dict) for line in one["faults"]]
    return said


def sealed(folder: Path) -> None:
    """The manifest agrees with whatever lies there: what is wrong was wrong before."""
    held = json.loads((folder / "release.json").read_text())
    held["files"] = release.inventory(folder)
    held["digest"] = release.digest(held["files"])
    (folder / "release.json").write_text(json.dumps(held))


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key of a document; of a list its first entry."""
    for key, value in node.items() if isinstance(node, dict) else list(enumerate(node))[:1] if isinstance(node, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """With another value at `path`; without it, where that is `...`."""
    document = copy.deepcopy(document)
    node: Any = document
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return document


def test_a_release_without_order_gate_or_probes_says_which_is_missing_and_what_to_do(here: Path, tmp_path: Path) -> None:
    held = json.loads((here / "release.json").read_text())
    for key in ("order", "probes", "about", "files", "gate"):
        (here / "release.json").write_text(json.dumps(changed(held, (key,), ...)))
        with pytest.raises(UsageError, match=f"release.json .*'{key}'.*(publish it once more|publish again)"):
            releasecheck.check(here)
    done = run("publish", "--check", here, cwd=tmp_path, code=2)
    assert done.stderr.startswith(f"build-imaginet: {here / 'release.json'} does not say 'gate': it was damaged, or")


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "{", "[" * 99_999, '{"files": []}', '{"files": {"../x": {}}}'])
def test_what_is_no_manifest_at_all_is_refused(here: Path, text: str) -> None:
    (here / "release.json").write_text(text)
    with pytest.raises(UsageError, match="is not a release manifest"):
        manifest.read(here)
    (here / "release.json").unlink()
    (here / "release.json").mkdir()
    with pytest.raises(UsageError, match="is not a release manifest"):
        manifest.read(here)


@pytest.mark.parametrize("key", ["redistribute", "commercial"])
def test_terms_of_a_source_that_are_neither_yes_nor_no_are_refused(here: Path, key: str) -> None:
    held = json.loads((here / "release.json").read_text())
    for value in (True, False, None, "x"):
        source = {"name": "album", "licence": "MIT", "licence_url": "", "title": "", "url": "", "terms": "", key: value}
        (here / "release.json").write_text(json.dumps(changed(held, ("about", "sources"), [source])))
        assert bool(refusal(lambda: manifest.read(here))) is (value == "x")


def test_no_key_of_the_manifest_can_be_gone_or_of_another_kind_and_end_in_a_traceback(here: Path, whole: Path) -> None:
    """Every key in turn. What is refused on reading is refused everywhere; what is read is given to the card."""
    held = json.loads((here / "release.json").read_text())
    told = cardfacts.measure(here, held["order"], pq.read_table(here / "rejects.parquet"), "").pixels
    refused = 0
    for path in places(held):
        for value in (..., *WRONG):
            if path[0] in ("files", "versions", "likeness", "views", "tiers") and len(path) > 1 and value not in (..., None):
                continue
            (here / "release.json").write_text(json.dumps(changed(held, path, value)))
            if said := refusal(lambda: manifest.read(here)):
                refused += 1
                assert said.startswith(f"{here / 'release.json'} is not a release manifest ("), said
            elif path[0] in ("about", "gate", "probes", "order") and value in (..., None, "x", -1):
                found = manifest.read(here)
                said = refusal(lambda found=found: cardlint.expected(here, found, found["files"], told))
                assert not said or "release.json" in said
    assert refused > 300


@pytest.mark.parametrize(
    "key", ["order", "digest", "views", "rows", "tiers", "withheld", "audit", "version", "previous", "title"]
)
def test_every_reader_takes_a_manifest_without_a_key_or_says_so(here: Path, whole: Path, key: str) -> None:
    held = json.loads((here / "release.json").read_text())
    (here / "release.json").write_text(json.dumps(changed(held, (key,), ...)))
    assert len(told(here, whole)) >= 5


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table], features: str | None = None) -> None:
    table = change(pq.read_table(path))
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": features})
    pq.write_table(table, path)


def shard(folder: Path) -> Path:
    return sorted((folder / "data" / "equalized").glob("train-*.parquet"))[0]


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


SHARDS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "no licence": lambda t: t.drop_columns(["licence"]),
    "no id": lambda t: t.drop_columns(["id"]),
    "a class beyond the names": lambda t: replaced(t, "generator", pa.array([99] * t.num_rows, pa.int64())),
    "a class below them": lambda t: replaced(t, "label", pa.array([-1] * t.num_rows, pa.int64())),
    "no width": lambda t: replaced(t, "width", pa.nulls(t.num_rows, pa.int32())),
    "words for numbers": lambda t: replaced(t, "width", pc.cast(t["width"], pa.string())),
    "pictures as words": lambda t: replaced(t, "image", pa.array(["x"] * t.num_rows)),
    "no rows": lambda t: t.slice(0, 0),
}


@pytest.mark.parametrize("what", SHARDS)
def test_a_shard_of_other_columns_is_named(here: Path, whole: Path, what: str) -> None:
    rewritten(shard(here), SHARDS[what])
    sealed(here)
    said = told(here, whole)
    if what != "no rows":
        assert any(shard(here).name in line for line in said), said


@pytest.mark.parametrize(
    "features", ["", "{", "[]", '{"info": 3}', '{"info": {"features": {"id": 1}}}', '{"info": {"features": []}}']
)
def test_a_shard_that_says_nonsense_of_its_columns_is_named(here: Path, whole: Path, features: str) -> None:
    rewritten(shard(here), lambda table: table, features)
    sealed(here)
    assert any(shard(here).name in line for line in told(here, whole))


@pytest.mark.parametrize("name", ["rejects.parquet", living.PLAN, "metadata/test-00000-of-00001.parquet"])
def test_a_side_table_that_is_none_is_named(here: Path, whole: Path, name: str) -> None:
    path = next(here.glob(name.replace("00001", "*")))
    good = path.read_bytes()
    for bad in (good[: len(good) // 2], b"", b"no parquet"):
        path.write_bytes(bad)
        sealed(here)
        told(here, whole)
    pq.write_table(pa.table({"x": [1]}), path)
    sealed(here)
    assert told(here, whole)
    if name == living.PLAN:
        path.write_bytes(good)
        table = pq.read_table(path)
        for said in (b"{", b"3", b'{"laws": {"photos": {}}}', b'{"laws": 3}', b'{"equalize": {"side": "x"}}'):
            pq.write_table(table.replace_schema_metadata({b"imaginet-build": said}), path)
            sealed(here)
            with pytest.raises(UsageError, match=r"plan\.parquet .*(take an intact copy|anew)"):
                living.read(here)


LISTS = ["id,reason\nx", "\x00", "id\n" + "x" * 200_000, '"', "id,reason\n,\n", "no such column\n1", "id,reason\nx,because"]


@pytest.mark.parametrize("text", LISTS)
def test_a_list_of_what_was_taken_down_that_is_none_is_refused(here: Path, text: str) -> None:
    for name in (notices.TAKEDOWN, notices.ERRATA):
        (here / name).write_text(text)
        said = refusal(lambda: notices.read(here))
        assert not said or str(here / name) in said
        (here / name).unlink()
    (here / notices.TAKEDOWN).write_bytes(b"id,reason\n\xff\xfe,request\n")
    with pytest.raises(UsageError, match="cannot be read"):
        notices.read(here)


def test_the_texts_may_hold_any_bytes(here: Path, whole: Path) -> None:
    for name in ("README.md", "LICENSE.md", "DATASHEET.md", "croissant.json", "composition.csv", "CHANGELOG.md"):
        (here / name).write_bytes(bytes(range(256)) * 40)
    sealed(here)
    assert len(releasecheck.check(here)["faults"]) > 5
