"""What travels, what goes, what stays: decided from lists of files alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import small_release
from hub_server import blob
from hypothesis import given
from hypothesis import strategies as st

from imaginet_build.destinations import pushplan
from imaginet_build.destinations.pushplan import Mine, Theirs, compare, differences, groups, listed_in, whole


def mine(data: bytes) -> Mine:
    return Mine(len(data), hashlib.sha256(data).hexdigest(), blob(data))


def large(data: bytes) -> Theirs:
    return Theirs(len(data), hashlib.sha256(data).hexdigest(), "0" * 40)


def small(data: bytes) -> Theirs:
    return Theirs(len(data), None, blob(data))


def listed(data: bytes) -> dict[str, object]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "nbytes": len(data)}


def test_a_release_is_hashed_as_a_host_will_name_it(tmp_path):
    folder = small_release.make(tmp_path / "release", shards=1)
    assert whole(folder) == {path: mine(data) for path, data in small_release.contents(folder).items()}


def test_same_by_size_and_hash_whichever_way_the_host_keeps_it():
    assert large(b"one").holds(mine(b"one"))
    assert small(b"one").holds(mine(b"one"))
    assert not large(b"two").holds(mine(b"one"))
    assert not small(b"two").holds(mine(b"one"))
    assert not Theirs(4, mine(b"one").sha256, None).holds(mine(b"one"))


NEVER_READ = {"read": lambda path: pytest.fail(f"{path} was read")}


def test_an_empty_place_gets_everything():
    plan = compare({"b": mine(b"1"), "a": mine(b"2")}, {".gitattributes": small(b"x")}, None, **NEVER_READ)
    assert (plan.send, plan.same, plan.delete, plan.kept, plan.blocked) == (("a", "b"), (), (), (), ())


def test_what_the_release_before_left_unchanged_is_ours_and_the_rest_is_not():
    here = {
        "README.md": mine(b"new"),
        "data/v/new.parquet": mine(b"4"),
        "data/v/same.parquet": mine(b"5"),
        "release.json": mine(b"m"),
    }
    there = {
        "README.md": small(b"old"), "data/v/same.parquet": large(b"5"), "data/v/old.parquet": large(b"6"),
        "data/v/changed.parquet": large(b"7"), "metadata/strange.parquet": large(b"8"), "notes.txt": small(b"9"),
        "old.csv": small(b"10"), "release.json": small(b"before"),
    }  # fmt: skip
    published = {"README.md": listed(b"old"), "data/v/same.parquet": listed(b"5"), "data/v/old.parquet": listed(b"6"),
                 "data/v/changed.parquet": listed(b"0"), "old.csv": listed(b"10")}  # fmt: skip
    content = {"README.md": b"old", "old.csv": b"10"}
    plan = compare(here, there, published, content.__getitem__)
    assert plan.send == ("README.md", "data/v/new.parquet", "release.json")
    assert plan.same == ("data/v/same.parquet",)
    assert plan.delete == ("data/v/old.parquet", "old.csv")
    assert plan.kept == ("notes.txt",)
    assert plan.blocked == ("data/v/changed.parquet", "metadata/strange.parquet")
    forced = compare(here, there, published, content.__getitem__, overwrite=True)
    assert forced.delete == ("data/v/changed.parquet", "data/v/old.parquet", "metadata/strange.parquet", "old.csv")
    assert (forced.kept, forced.blocked) == (("notes.txt",), ())
    content["README.md"] = b"OLD"  # of the same size, and somebody's own
    assert "README.md" in compare(here, there, published, content.__getitem__).blocked


def test_a_manifest_that_is_none_of_ours_is_in_the_way():
    plan = compare({"release.json": mine(b"{}")}, {"release.json": small(b"theirs")}, None, **NEVER_READ)
    assert plan.blocked == ("release.json",)
    assert "holds what no release of ours put there" in pushplan.in_the_way("me/set", plan)


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[]", b"{}", b'{"files": []}', b'{"files": {"a": 1}}', b'{"files": {"a": {}}}']
)
def test_what_is_no_manifest_lists_nothing(text):
    assert listed_in(text) is None


def test_a_manifest_lists_its_files():
    assert listed_in(json.dumps({"files": {"a": {"sha256": "1", "nbytes": 2, "more": 3}}}).encode()) == {
        "a": {"sha256": "1", "nbytes": 2}
    }


def test_differences_are_said_file_by_file():
    here = {"a": mine(b"1"), "b": mine(b"2"), "c": mine(b"3")}
    there = {"a": large(b"1"), "b": large(b"x"), "d": large(b"4"), "e": large(b"5")}
    assert differences(here, there, ("d",)) == ["c is missing", "b has other bytes", "d is still there"]
    assert differences({"a": here["a"]}, there) == []


@given(st.lists(st.integers(0, 100), max_size=30), st.integers(1, 200), st.integers(1, 8))
def test_groups_hold_every_file_once_and_no_more_than_they_may(sizes, nbytes, files):
    paths = {f"{n:03}": Mine(size, "", "") for n, size in enumerate(sizes)}
    runs = list(groups(paths, tuple(paths), nbytes, files))
    assert [path for run in runs for path in run] == list(paths)
    assert all(0 < len(run) <= files for run in runs)
    assert all(len(run) == 1 or sum(paths[path].nbytes for path in run) <= nbytes for run in runs)


def test_a_folder_that_is_no_release_is_said(tmp_path: Path):
    with pytest.raises(pushplan.BuildError, match=r"is not a release \(no release.json\)"):
        whole(tmp_path)
