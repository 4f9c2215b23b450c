"""A release at an address that cannot be swapped as a whole: whole or not a release, whatever happens on the way."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
import small_release
from fsspec.implementations.memory import MemoryFileSystem

from imaginet_build.destinations import urlpush
from imaginet_build.destinations.urlpush import NOTE, Place
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.releases import release

URL = "flaky://bucket/sets/small"
MOST = 14
"""Files of the small release."""


class Flaky(MemoryFileSystem):
    """A store that fails when it is told to, before or after it has done what was asked, or stores other bytes."""

    protocol = "flaky"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    sent: ClassVar[list[str]] = []
    fails: ClassVar[dict[int, str]] = {}
    steps = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("flaky://", "memory://", 1))

    def put_file(self, local: str, path: str, *args, **kwargs) -> None:
        self.step("before")
        super().put_file(local, path, *args, **kwargs)
        type(self).sent.append(path)
        if self.step("spoil", go=False):
            self.store[self._strip_protocol(path)].seek(3)
            self.store[self._strip_protocol(path)].write(b"!")
        self.step("after")

    def rm_file(self, path: str) -> None:
        self.step("before")
        super().rm_file(path)

    def step(self, when: str, go: bool = True) -> bool:
        kind = type(self)
        kind.steps += when == "before"
        if kind.fails.get(kind.steps) != when and kind.fails.get(kind.steps) != f"die {when}":
            return False
        died = kind.fails.pop(kind.steps).startswith("die")
        if go:
            raise KeyboardInterrupt if died else OSError("the store hung up")
        return True


@pytest.fixture(autouse=True)
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Flaky]]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    Flaky.store.clear()
    Flaky.sent.clear()
    Flaky.fails.clear()
    Flaky.steps = 0
    yield Flaky
    Flaky.clear_instance_cache()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_release.make(tmp_path_factory.mktemp("made") / "release")


def there() -> dict[str, bytes]:
    return {path.removeprefix("/bucket/sets/small/"): file.getvalue() for path, file in Flaky.store.items()}


def write(path: str, data: bytes) -> None:
    fsspec.filesystem("flaky").pipe_file(f"{URL}/{path}", data)


def test_a_release_lies_there_byte_for_byte_its_manifest_last_and_once(made):
    done = Place(URL).put(made)
    assert there() == small_release.contents(made)
    assert Flaky.sent[-1].endswith("/release.json")
    assert (done.url, done.sent, done.same) == (URL, MOST, 0)
    Flaky.sent.clear()
    assert (Place(URL).put(made).sent, Flaky.sent) == (0, [])


@pytest.mark.parametrize("when", ["before", "after", "spoil"])
def test_a_store_that_fails_once_in_a_while_is_asked_again(made, when):
    Flaky.fails.update(dict.fromkeys((2, 5, MOST), when))
    Place(URL).put(made)
    assert Flaky.fails == {}
    assert there() == small_release.contents(made)


def test_a_store_that_stays_broken_holds_no_release_and_the_same_call_goes_on(made):
    Flaky.fails.update(dict.fromkeys(range(5, 50), "before"))
    with pytest.raises(
        BuildError, match=r"flaky://bucket/sets/small: writing data/.*OSError: the store hung up. What was sent"
    ):
        Place(URL).put(made)
    assert release.MANIFEST not in there()
    Flaky.fails.clear()
    sent = len(Flaky.sent)
    Place(URL).put(made)
    assert len(Flaky.sent) == MOST > sent > 0
    assert there() == small_release.contents(made)


@pytest.mark.parametrize("when", ["die before", "die after"])
@pytest.mark.parametrize("step", range(1, 6 + MOST, 3))
def test_killed_anywhere_on_the_way_to_the_next_version_it_is_the_old_one_the_new_one_or_none(made, tmp_path, step, when):
    Place(URL).put(made)
    folder = small_release.make(tmp_path / "release", seed="two")
    (folder / "data/native/train-00001-of-00002.parquet").unlink()
    small_release.seal(folder)
    Flaky.steps = 0
    Flaky.fails[step] = when
    old, new = small_release.contents(made), small_release.contents(folder)
    try:
        Place(URL).put(folder)
    except KeyboardInterrupt:
        left = {path: data for path, data in there().items() if path != NOTE}
        assert release.MANIFEST not in left or left in (old, new)
    Place(URL).put(folder)
    assert there() == new


def test_files_of_somebody_else_stay_or_stop_it(made, tmp_path, caplog):
    caplog.set_level(logging.INFO, "imaginet_build")
    write("notes.txt", b"mine")
    assert Place(URL).put(made).kept == ("notes.txt",)
    assert "notes.txt is not of a release and stays as it is" in caplog.text
    write("data/native/train-extra.parquet", b"?")
    write("README.md", b"changed")
    before = there()
    with pytest.raises(
        UsageError, match=r"holds what no release of ours put there.*README.md, data/native/train-extra.parquet"
    ):
        Place(URL).put(made)
    assert there() == before
    done = Place(URL).put(made, overwrite=True)
    assert done.deleted == ("data/native/train-extra.parquet",)
    assert there() == small_release.contents(made) | {"notes.txt": b"mine"}


def test_a_damaged_release_stays_here(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "release")
    (folder / "README.md").write_text("?")
    with pytest.raises(BuildError, match=r"is damaged \(README.md is not as published\) and stays here"):
        Place(URL).put(folder)
    assert there() == {}


@pytest.mark.parametrize(
    ("url", "words"),
    [("nowhere://x/y", "--out nowhere://x/y: Protocol not known: nowhere. Give a folder, or an address"),
     ("abfs://user:secret@x/y?sig=1", "--out abfs://x/y: .*nstall adlfs"),
     ("ftp://user:secret@127.0.0.1:1/x", "--out ftp://127.0.0.1:1/x: cannot be opened .ConnectionRefusedError: "),
     ("reference://secret@x", "--out reference://x: cannot be opened .TypeError: .*Give the whole address"),
     ("zip://x.zip", "--out zip://x.zip: cannot be opened .IsADirectoryError")],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_said_in_one_sentence_without_its_secrets(url, words):
    with pytest.raises(UsageError, match=words) as error:
        Place(url)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_address_is_a_folder(tmp_path):
    assert urlpush.local(f"file://{tmp_path}/x") == tmp_path / "x"
    assert urlpush.local("some/where") == Path("some/where")
    assert urlpush.local("memory://x") is None
    for stood_in in (".", "..", "/", str(Path.cwd())):
        with pytest.raises(UsageError, match="takes the place of a whole folder"):
            urlpush.local(stood_in)
    assert urlpush.local("simplecache::memory://x") is None


def test_a_store_with_real_directories_takes_it_into_a_fresh_one(made, tmp_path):
    place = f"file://{tmp_path}/deep/down"
    assert (Place(place).put(made).sent, Place(place).put(made).sent) == (MOST, 0)
    assert small_release.contents(tmp_path / "deep" / "down") == small_release.contents(made)


def test_at_the_root_of_a_store_what_is_not_of_the_release_has_its_own_name(made):
    fsspec.filesystem("flaky").pipe_file("flaky://elsewhere/x", b"?")
    assert Place("flaky://").put(made).kept == ("elsewhere/x",)


def test_a_store_that_cannot_be_written_is_asked_once(made, monkeypatch):
    monkeypatch.setattr(Flaky, "put_file", lambda *_: (_ for _ in ()).throw(NotImplementedError))
    with pytest.raises(BuildError, match=r"writing .*: NotImplementedError: NotImplementedError. This store refuses"):
        Place(URL, attempts=9, pause=1e9).put(made)
