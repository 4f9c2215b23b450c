"""The work folder: a part is whole or absent, whatever happens while it is written, and what is damaged names its file."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import png

from imaginet_build import images, store
from imaginet_build.errors import BuildError
from imaginet_build.records import FACT_SCHEMA, PLAN_SCHEMA, REJECT_SCHEMA, SCHEMA, Record, make_id
from imaginet_build.store import Store, written

DATA = png("store", 16, 16)
FACTS = images.measure(DATA)


def row(name: str, data: bytes = DATA, **other) -> dict[str, object]:
    """A row whose facts are those of one small image, with the digest and size of `data`."""
    facts = replace(FACTS, sha256=hashlib.sha256(data).hexdigest(), nbytes=len(data))
    record = Record(
        id=name, origin="real", category="photos", family=None, generator=None, source="s", source_key=name, licence="",
        revision="r", prompt=None, negative=None, seed=None, params="{}", pair_id=None, group=name, extension="", facts=facts,
    )  # fmt: skip
    return record.row() | other


def reject(name: str, reason: str = "truncated", stage: str = "collect") -> dict[str, object]:
    return {"id": name, "stage": stage, "reason": reason, "detail": ""}


def put(work: Store, name: str, ids: list[str], stage: str = "collect") -> Path:
    """A part whose images are their own ids as bytes."""
    data = [i.encode() for i in ids]
    return work.write_part(stage, name, [row(i, d) for i, d in zip(ids, data, strict=True)], data)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@contextmanager
def disk_of(size: int):
    """A disk on which no file can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- whole or absent ---------------------------------------------------------------------------------------------------


def test_what_the_body_writes_appears_whole_and_leaves_nothing_else(tmp_path):
    with written(tmp_path / "a" / "b.txt") as temporary:
        temporary.write_text("half")
        assert not (tmp_path / "a" / "b.txt").exists()
        temporary.write_text("whole")
    assert (tmp_path / "a" / "b.txt").read_text() == "whole"
    assert files(tmp_path) == ["b.txt"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_failure_in_the_body_leaves_nothing(tmp_path, replace):
    def write():
        with written(tmp_path / "b.txt", replace=replace) as temporary:
            temporary.write_text("half")
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="the power went"):
        write()
    assert files(tmp_path) == []


def test_the_first_writer_wins_and_a_later_one_is_thrown_away(tmp_path):
    for text in ("first", "second"):
        with written(tmp_path / "b.txt") as temporary:
            temporary.write_text(text)
    assert (tmp_path / "b.txt").read_text() == "first"
    assert files(tmp_path) == ["b.txt"]


def test_with_replace_the_last_writer_wins(tmp_path):
    for text in ("first", "second"):
        store.write_text(tmp_path / "b.txt", text)
    assert (tmp_path / "b.txt").read_text() == "second"
    assert files(tmp_path) == ["b.txt"]


def test_writers_that_race_leave_one_whole_file(tmp_path):
    """Two writers are both half done; whoever finishes first decides, and the other one's bytes never show."""
    with written(tmp_path / "b") as slow:
        slow.write_bytes(b"slow" * 10)
        with written(tmp_path / "b") as fast:
            fast.write_bytes(b"fast" * 10)
        assert (tmp_path / "b").read_bytes() == b"fast" * 10
    assert (tmp_path / "b").read_bytes() == b"fast" * 10


@pytest.mark.parametrize("call", ["fsync", "link", "unlink"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_step_a_part_is_whole_or_absent(tmp_path, call, when):
    """The process kills itself with SIGKILL before or after each of the system calls that finish a part."""
    code = f"""
import os, signal, sys
from pathlib import Path
from imaginet_build.store import written
real = os.{call}
def dying(*arguments, **keywords):
    if {when == "after"}:
        real(*arguments, **keywords)
    os.kill(os.getpid(), signal.SIGKILL)
os.{call} = dying
with written(Path(sys.argv[1]) / "part.parquet") as temporary:
    temporary.write_bytes(b"whole" * 1000)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    part = tmp_path / "part.parquet"
    assert part.exists() == ((call, when) in {("link", "after"), ("unlink", "before"), ("unlink", "after")})
    if part.exists():
        assert part.read_bytes() == b"whole" * 1000
    with written(part) as temporary:
        temporary.write_bytes(b"whole" * 1000)
    assert part.read_bytes() == b"whole" * 1000


def test_what_a_killed_writer_left_behind_is_never_taken_for_a_part(tmp_path):
    work = Store(tmp_path)
    part = put(work, "p", ["a"])
    (part.parent / f".{part.name}.0123.tmp").write_bytes(part.read_bytes())
    (part.parent / ".hidden.parquet").write_bytes(part.read_bytes())
    assert work.parts() == [part]
    assert work.ids() == {"a"}


def test_a_full_disk_is_said_in_words_and_leaves_nothing(tmp_path):
    work = Store(tmp_path)
    data = os.urandom(200_000)
    with (
        disk_of(50_000),
        pytest.raises(BuildError, match=r"cannot write .*/parts/collect/p\.parquet: File too large\. .*run again"),
    ):
        work.write_part("collect", "p", [row("a", data)], [data])
    assert files(tmp_path) == []
    work.write_part("collect", "p", [row("a", data)], [data])
    assert dict(work.images(["a"])) == {"a": data}


def test_a_folder_that_cannot_be_made_is_said_in_words(tmp_path):
    (tmp_path / "work").write_text("a file stands where the folder should be")
    with pytest.raises(BuildError, match=r"cannot write .*: Not a directory"):
        put(Store(tmp_path / "work"), "p", ["a"])


def test_a_file_system_without_links_is_said_in_words(tmp_path, monkeypatch):
    def unable(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unable)
    with pytest.raises(BuildError, match=r"cannot write .*: Operation not permitted"):
        put(Store(tmp_path), "p", ["a"])
    assert files(tmp_path) == []


# --- parts -------------------------------------------------------------------------------------------------------------


def test_opening_a_work_folder_creates_nothing(tmp_path):
    work = Store(tmp_path / "new")
    assert (work.parts(), work.ids(), work.facts().num_rows, work.rejects().num_rows) == ([], set(), 0, 0)
    assert work.facts().schema == FACT_SCHEMA
    assert not (tmp_path / "new").exists()


def test_a_part_is_plain_parquet_with_the_schema_everybody_relies_on(tmp_path):
    part = put(Store(tmp_path), "p", ["a", "b"])
    assert part == tmp_path / "parts" / "collect" / "p.parquet"
    table = pq.read_table(part)
    assert table.schema == SCHEMA
    assert table["image"].to_pylist() == [b"a", b"b"]


def test_the_same_rows_give_the_same_file(tmp_path):
    assert put(Store(tmp_path / "1"), "p", ["a", "b"]).read_bytes() == put(Store(tmp_path / "2"), "p", ["a", "b"]).read_bytes()


def test_facts_are_all_parts_of_all_stages_sorted_by_id_without_pixels(tmp_path):
    work = Store(tmp_path)
    put(work, "2", ["d", "a"])
    put(work, "1", ["c"], "generate")
    put(work, "3", ["b"])
    assert work.facts()["id"].to_pylist() == ["a", "b", "c", "d"]
    assert work.facts().schema == FACT_SCHEMA
    assert work.facts(["category", "width"]).schema.names == ["id", "category", "width"]
    assert [path.name for path in work.parts("generate")] == ["1.parquet"]
    assert work.names(work.parts("generate")[0]) == ["c"]


def test_an_id_that_stands_in_two_parts_is_found_and_named(tmp_path):
    work = Store(tmp_path)
    put(work, "1", ["a", "b"])
    put(work, "2", ["b", "c"])
    with pytest.raises(BuildError, match=r"id b stands in two parts of .*delete"):
        work.facts()


def test_done_is_what_has_an_image_or_a_reason(tmp_path):
    work = Store(tmp_path)
    put(work, "1", ["a"])
    put(work, "2", ["g"], "generate")
    work.write_rejects("collect", "1", [reject("x")])
    work.write_rejects("generate", "2", [reject("y", stage="generate")])
    assert work.ids() == {"a", "g", "x", "y"}
    assert work.ids("collect") == {"a", "x"}
    assert work.ids("generate") == {"g", "y"}
    assert work.ids("never") == set()


def test_rejects_are_sorted_and_one_row_an_id(tmp_path):
    work = Store(tmp_path)
    work.write_rejects("generate", "1", [reject("b", "blank", "generate"), reject("a", "blank", "generate")])
    work.write_rejects("collect", "1", [reject("z"), reject("c")])
    work.write_rejects("collect", "2", [reject("c")])
    assert work.rejects().schema == REJECT_SCHEMA
    assert work.rejects()["id"].to_pylist() == ["c", "z", "a", "b"]


# --- reading images back -----------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 99), max_size=40))
def test_images_come_in_the_order_asked_for_also_twice(tmp_path_factory, numbers):
    work = _hundred(tmp_path_factory)
    asked = [f"{number:03}" for number in numbers]
    assert list(work.images(iter(asked))) == [(name, name.encode()) for name in asked]


_made: list[Store] = []


def _hundred(tmp_path_factory) -> Store:
    """Three parts of 100 images together, one larger than a row group."""
    if not _made:
        work = Store(tmp_path_factory.mktemp("hundred"))
        names = [f"{number:03}" for number in range(100)]
        put(work, "a", names[60:])
        put(work, "b", names[:50])
        put(work, "c", names[50:60], "generate")
        _made.append(work)
    return _made[0]


def test_in_part_order_every_row_group_is_read_once(tmp_path_factory, monkeypatch):
    work = _hundred(tmp_path_factory)
    names = [f"{number:03}" for number in range(100)]
    reads = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *a, **k: reads.append(a[1]) or read(*a, **k))
    assert sorted(dict(work.images(work.in_part_order(names)))) == names
    assert len(reads) == 2 + 2 + 1


def test_a_part_written_meanwhile_is_found(tmp_path):
    work = Store(tmp_path)
    put(work, "1", ["a"])
    assert dict(work.images(["a"])) == {"a": b"a"}
    put(Store(tmp_path), "2", ["b"])
    assert dict(work.images(["b", "a"])) == {"b": b"b", "a": b"a"}


def test_an_image_that_no_part_holds_says_what_to_do(tmp_path):
    put(Store(tmp_path), "1", ["a"])
    with pytest.raises(BuildError, match=r"no part of .* holds image zz: .*run collect and generate again"):
        list(Store(tmp_path).images(["a", "zz"]))


# --- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0, 3, 500, 0.5, 0.99])
@pytest.mark.parametrize("how", ["facts", "ids", "images"])
def test_a_truncated_part_names_itself_and_the_way_out(tmp_path, left, how):
    work = Store(tmp_path)
    part = put(work, "broken", ["a", "b"])
    data = part.read_bytes()
    part.write_bytes(data[: int(left * len(data)) if isinstance(left, float) else left])
    read = {"facts": work.facts, "ids": work.ids, "images": lambda: list(work.images(["a"]))}[how]
    with pytest.raises(BuildError, match=r"parts/collect/broken\.parquet cannot be read \(.*\): delete it and run the same"):
        read()


def test_a_part_of_another_programme_names_itself(tmp_path):
    import pyarrow as pa

    (tmp_path / "parts" / "collect").mkdir(parents=True)
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "parts" / "collect" / "foreign.parquet")
    with pytest.raises(BuildError, match=r"foreign\.parquet"):
        Store(tmp_path).ids()


def test_bytes_that_rotted_on_the_disk_are_never_handed_out(tmp_path):
    work = Store(tmp_path)
    name = make_id("rot")
    data = os.urandom(5000)
    part = work.write_part("collect", "rotten", [row(name, data)], [data])
    content = bytearray(part.read_bytes())
    content[bytes(content).index(data) + 2500] ^= 1
    part.write_bytes(content)
    with pytest.raises(BuildError, match=r"rotten\.parquet"):
        list(work.images([name]))


# --- the plan ----------------------------------------------------------------------------------------------------------


def test_the_plan_is_replaced_whole_and_sorted(tmp_path):
    work = Store(tmp_path)
    with pytest.raises(BuildError, match="run build-imaginet balance first"):
        work.plan()
    base = {"keep": False, "category": "photos", "origin": "real", "generator_or_source": "s", "group": "g"}
    work.write_plan([base | {"id": "b"}, base | {"id": "a"}])
    work.write_plan([base | {"id": "d"}, base | {"id": "c"}])
    assert work.plan().schema == PLAN_SCHEMA
    assert work.plan()["id"].to_pylist() == ["c", "d"]


def test_asking_for_images_that_are_known_lists_no_part_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker asks once a batch: were every part listed each time, a run would grow with the square of its images."""
    store = Store(tmp_path)
    store.write_part("collect", "one", [row("a"), row("b")], [b"1", b"2"])
    assert dict(store.images(["a"])) == {"a": b"1"}

    def refuse(*_: object) -> list[Path]:
        raise AssertionError("the parts were listed again")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "parts", refuse)
        assert dict(store.images([])) == {}
        assert dict(store.images(["b", "a"])) == {"b": b"2", "a": b"1"}
        assert dict(Store(tmp_path).images([])) == {}
    store.write_part("collect", "two", [row("c")], [b"3"])
    assert dict(store.images(["c"])) == {"c": b"3"}
