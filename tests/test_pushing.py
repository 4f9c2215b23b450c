"""A push: all or nothing, at most once, nobody else's work touched, and a name only for what was read back byte for byte.

Through the true clients, against a Hub on this machine that fails in every way that a Hub can fail.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest
import small_release
from hub_client import turn_to

from imaginet_build import pushing
from imaginet_build.destinations import hubpush, readback
from imaginet_build.destinations.hubpush import Repository
from imaginet_build.errors import BuildError, MissingExtra, UsageError
from imaginet_build.releases import release

pytest.importorskip("datasets")

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""The Hub's client warns of itself."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_release.make(tmp_path_factory.mktemp("made") / "release")


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of one view, a file a split."""
    return small_release.make(tmp_path_factory.mktemp("lean") / "release", shards=1, views=("equalized",))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    with hub_server.running() as hub:
        hub.pauses = turn_to(hub, tmp_path / "home", monkeypatch)  # type: ignore[attr-defined]
        yield hub


def push(
    folder: Path, name: str = "me/set", branch: str = "main", audit: pushing.Audit = lambda *_: "", **how
) -> pushing.Pushed:
    repository = Repository(name, branch)
    repository.login()
    return pushing.push(folder, repository, audit=audit, **how)


def holds(hub: hub_server.Hub, folder: Path, revision: str = "main", name: str = "me/set", more: tuple[str, ...] = ()) -> bool:
    there = hub.repos[name].files(revision)
    return {path: data for path, data in there.items() if path not in more} == small_release.contents(folder)


def titles(hub: hub_server.Hub, name: str = "me/set", branch: str = "main") -> list[str]:
    return [commit.title for commit in hub.repos[name].history(branch)]


# --- a push ------------------------------------------------------------------------------------------------------------


def test_a_release_goes_in_one_commit_to_a_private_repository_is_read_back_and_then_named(hub, made):
    judged = []

    def audit(sample: Path, whole: bool) -> str:
        assert hub.repos["me/set"].tags == {}, "the name comes after everything was looked at"
        judged.append((release.rows(sample, "equalized").num_rows, whole))
        return ""

    done = push(made, "set", tag="v1.0.0", audit=audit)
    assert holds(hub, made)
    assert titles(hub) == ["initial commit", "Publish Small set v1.0.0"]
    assert hub.repos["me/set"].tags == {"v1.0.0": done.commit} == {"v1.0.0": hub.repos["me/set"].branches["main"]}
    assert hub.repos["me/set"].private
    assert judged == [(16, True)]
    assert (done.repo, done.sent, done.same, done.private) == ("me/set", 14, 0, True)
    assert done.read == readback.Read(32, 32, done.read.nbytes, True, 16, True)
    assert json.loads(json.dumps(done.to_json()))["read_back"] == {"rows": 32, "images": 32, "whole": True}


def test_the_same_push_again_sends_nothing_commits_nothing_and_looks_at_everything(hub, made):
    first = push(made, tag="v1")
    hub.sent.clear()
    hub.calls.clear()
    again = push(made, tag="v1")
    assert (again.commit, again.sent, again.same, again.read) == (first.commit, 0, 14, first.read)
    assert hub.sent == []
    assert not {"put", "commit", "tag", "preupload"} & set(hub.calls)


def test_large_files_in_parts_small_ones_in_git_and_a_tree_of_many_pages(hub, made, monkeypatch):
    hub.chunk, hub.page = 4000, 3
    hub.large = hub_server.re.compile(r"(train|test)-.*\.parquet$")
    monkeypatch.setattr(hubpush, "GROUP_FILES", 3)
    assert push(made, tag="v1").sent == 14
    assert holds(hub, made)
    assert hub.calls.count("complete") == 8 == len(set(hub.sent))
    assert hub.calls.count("preupload") == 5, "in explicit groups"


def test_the_token_is_nowhere_to_be_seen(hub, lean, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG, "imaginet_build")
    hub.fault("put", 500)
    hub.fault("commit", 500)
    done = push(shutil.copytree(lean, tmp_path / "release"), tag="v1")
    hub.fault("commit", 401, times=9)
    small_release.seal(tmp_path / "release", title="Another title")
    with pytest.raises(BuildError) as refused:
        push(tmp_path / "release")
    out, err = capfd.readouterr()
    seen = [caplog.text, out, err, str(refused.value), json.dumps(done.to_json())]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    files += [data for commit in hub.repos["me/set"].commits.values() for data in commit.files.values()]
    assert len(files) > 5
    assert not any(hub.token in text for text in seen)
    assert not any(hub.token.encode() in data for data in files)
    assert hubpush.first_line(f"for {hub.token} at https://x/y?X-Amz-Signature=abc: no\nmore") == "for hf_… at https://x/y no"


@pytest.mark.parametrize(
    ("before", "told", "after"),
    [(None, None, True), (None, False, False), (True, False, False), (False, None, False), (False, True, True)],
)
def test_it_is_private_unless_told_and_what_is_there_stays_as_it_is(hub, tmp_path, before, told, after):
    folder = small_release.make(tmp_path / "release", shards=1, views=("equalized",))
    if before is not None:
        hub.repos["me/set"] = hub_server.Repo("me/set", before)
        hub.repos["me/set"].add("initial commit", {".gitattributes": b""})
    assert push(folder, private=told).private is after
    assert hub.repos["me/set"].private is after


def test_what_is_to_be_private_is_so_before_anything_of_it_is_there(hub, lean, monkeypatch):
    hub.repos["me/set"] = repo = hub_server.Repo("me/set", False)
    repo.add("initial commit", {".gitattributes": b""})
    seen = []
    monkeypatch.setattr(Repository, "send", lambda *_: seen.append(repo.private) or (_ for _ in ()).throw(BuildError("no")))
    with pytest.raises(BuildError, match="no"):
        push(lean, private=True)
    assert seen == [True]
    assert repo.private


def test_a_release_with_what_not_everybody_may_see_does_not_go_where_everybody_sees_it(hub, lean):
    hub.repos["me/set"] = hub_server.Repo("me/set", False)
    hub.repos["me/set"].add("initial commit", {".gitattributes": b""})
    with pytest.raises(UsageError, match="me/set has become public while the release was made"):
        push(lean, public=False)
    assert titles(hub) == ["initial commit"]
    assert push(lean, public=False, private=True).private


def test_another_branch_is_made_where_there_is_none(hub, lean):
    push(lean, branch="next", tag="v2-rc")
    assert holds(hub, lean, "next")
    assert hub.repos["me/set"].files("main") == {}
    assert holds(hub, lean, "v2-rc")


# --- faults ------------------------------------------------------------------------------------------------------------

WRITING = ("create", "validate", "preupload", "batch", "put", "verify", "commit", "tag")
READING = ("whoami", "info", "tree", "resolve", "get")


@pytest.mark.parametrize("what", ["500", "lost", *(pytest.param(w, marks=pytest.mark.prove) for w in ("429", "drop", "late"))])
def test_every_call_may_fail_once_and_the_push_is_made_once(hub, lean, what):
    for call in (*WRITING, *READING):
        hub.fault(call, what, after=1 if call in ("put", "info", "tree", "resolve") else 0)
    done = push(lean, tag="v1")
    assert [fault.call for fault in hub.faults if fault.times] == [], "every fault was met"
    assert holds(hub, lean)
    assert titles(hub) == ["initial commit", "Publish Small set v1"]
    assert hub.repos["me/set"].tags == {"v1": done.commit}


LONG = [pytest.param(call, marks=pytest.mark.prove) for call in ("info", "tree", "preupload", "resolve")]


@pytest.mark.parametrize("call", ["commit", "get", *LONG])
def test_answers_that_break_off_are_asked_for_again(hub, lean, call):
    hub.fault(call, "cut", times=1 if call == "commit" else 2, after=1 if call in ("info", "get") else 0)
    done = push(lean, tag="v1")
    assert hub.faults[0].times == 0
    assert holds(hub, lean)
    assert titles(hub) == ["initial commit", "Publish Small set v1"]
    assert hub.repos["me/set"].tags == {"v1": done.commit}


def test_a_commit_that_never_goes_through_leaves_nothing_and_what_was_sent_does_not_travel_again(hub, lean):
    hub.fault("commit", 503, times=8)
    with pytest.raises(
        BuildError, match=r"^me/set: committing: the Hub answers 503 .*what was sent is kept, and the same command"
    ):
        push(lean, tag="v1")
    assert hub.calls.count("commit") == 8
    assert hub.pauses[-7:] == [1, 2, 4, 8, 16, 32, 64]
    assert (titles(hub), hub.repos["me/set"].tags) == (["initial commit"], {})
    sent = list(hub.sent)
    assert len(sent) == len(set(sent)) == 3
    push(lean, tag="v1")
    assert hub.sent == sent
    assert holds(hub, lean, "v1")


def test_the_hub_says_how_long_to_wait(hub, lean):
    hub.retry_after = "37"
    hub.fault("commit", 429)
    push(lean)
    assert 37.0 in hub.pauses


def test_a_new_repository_that_is_not_seen_everywhere_at_once_is_waited_for(hub, lean):
    hub.fault("info", "unseen", times=2)
    assert push(lean, tag="v1").commit == hub.repos["me/set"].branches["main"]


def test_somebody_elses_commit_in_the_meantime_stands_and_the_next_call_builds_on_it(hub, lean):
    hub.fault("commit", "stale")
    with pytest.raises(
        BuildError, match=r"somebody else committed to me/set in the meantime .*nothing of it was overwritten"
    ) as error:
        push(lean, tag="v1")
    assert "\n" not in str(error.value)
    assert titles(hub) == ["initial commit", "somebody else"]
    assert hub.repos["me/set"].files() == {"notes.txt": b"not of the release"}
    assert hub.repos["me/set"].tags == {}
    sent = list(hub.sent)
    assert push(lean, tag="v1").kept == ("notes.txt",)
    assert hub.sent == sent
    assert titles(hub) == ["initial commit", "somebody else", "Publish Small set v1"]
    assert holds(hub, lean, "v1", more=("notes.txt",))


def test_a_token_that_expires_on_the_way_is_said_and_the_same_call_goes_on_with_another(hub, lean):
    hub.fault("commit", 401, times=1)
    with pytest.raises(BuildError, match="the Hub refuses the token, which may have expired: run hf auth login") as error:
        push(lean, tag="v1")
    assert error.value.exit_code == 1
    assert hub.calls.count("commit") == 1, "no use in asking again"
    assert push(lean, tag="v1").commit == hub.repos["me/set"].branches["main"]


# --- calls that cannot work --------------------------------------------------------------------------------------------


def test_one_sentence_for_each_way_of_not_getting_in(hub, lean, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_expired")
        with pytest.raises(UsageError, match="the Hub refuses the token, which may have expired: run hf auth login"):
            push(lean)
        patch.setenv("HF_TOKEN", "hf_geh\u00e4im")
        with pytest.raises(UsageError, match=r"the token is malformed: .* run hf auth login") as said:
            push(lean)
        assert "\u00e4" not in str(said.value)
        patch.delenv("HF_TOKEN")
        with pytest.raises(UsageError, match="nobody is logged in at the Hub: run hf auth login, or set HF_TOKEN"):
            push(lean)
    with pytest.raises(UsageError, match=r"them/set: creating it: this token may not write there: take one that may"):
        push(lean, "them/set")
    with pytest.raises(UsageError, match="--repo a/b/c: write it as owner/name"):
        push(lean, "a/b/c")
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
            push(lean)
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(UsageError, match=r"asking who we are: http://127.0.0.1:9 cannot be reached, or broke off") as error:
            push(lean)
        assert "\n" not in str(error.value)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(
            MissingExtra, match=r"publishing to the Hub needs huggingface_hub: pip install 'imaginet-build\[hub\]'"
        ):
            push(lean)
    assert hub.repos == {}


def test_a_damaged_release_stays_here(hub, made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "release")
    shard = next(folder.glob("data/native/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    (folder / "more.txt").write_text("?")
    with pytest.raises(
        BuildError, match=r"is damaged \(more.txt is not in release.json; .*is not as published\) and stays here"
    ):
        push(folder)
    assert hub.repos == {}


# --- what is there already ---------------------------------------------------------------------------------------------


def test_the_next_version_takes_the_place_of_the_last_and_sends_only_what_is_new(hub, made, tmp_path):
    push(made, tag="v1")
    repo = hub.repos["me/set"]
    repo.add("a note", repo.files() | {"notes.txt": b"mine", ".gitattributes": b""})
    folder = shutil.copytree(made, tmp_path / "release")
    (folder / "data/native/train-00001-of-00002.parquet").unlink()
    small_release.seal(folder)
    hub.sent.clear()
    done = push(folder, tag="v2")
    assert done.deleted == ("data/native/train-00001-of-00002.parquet",)
    assert (done.sent, hub.sent, done.kept) == (1, [], ("notes.txt",))  # the manifest; the card says the same
    assert holds(hub, folder, "v2", more=("notes.txt",))
    assert holds(hub, made, "v1")


@pytest.mark.parametrize(
    ("path", "overwritten"),
    [("README.md", True), ("data/equalized/train-00000-of-00002.parquet", True), ("data/equalized/train-extra.parquet", False)],
)
def test_what_somebody_changed_or_added_stops_the_push_unless_told_otherwise(hub, made, tmp_path, path, overwritten):
    push(made)
    repo = hub.repos["me/set"]
    repo.add("by hand", repo.files() | {path: b"changed by hand"})
    hub.calls.clear()
    with pytest.raises(
        UsageError, match=f"me/set holds what no release of ours put there, .*{path}. Nothing was sent.*--overwrite"
    ):
        push(made)
    assert not {"put", "commit"} & set(hub.calls)
    assert repo.files()[path] == b"changed by hand"
    done = push(made, overwrite=True)
    assert holds(hub, made)
    assert done.deleted == (() if overwritten else (path,))


def test_a_name_that_another_release_has_is_refused_before_anything_is_sent(hub, lean, tmp_path):
    first = push(lean, tag="v1")
    folder = small_release.seal(shutil.copytree(lean, tmp_path / "release"), title="Another")
    hub.calls.clear()
    with pytest.raises(UsageError, match=r"me/set has another release called v1 .*nothing was sent.*choose another --tag"):
        push(folder, tag="v1")
    assert not {"preupload", "commit", "tag"} & set(hub.calls)
    assert hub.repos["me/set"].tags == {"v1": first.commit}


def test_a_name_that_somebody_else_gives_away_during_the_push_ends_it_at_once(hub, lean):
    def audit(*_: object) -> str:
        hub.repos["me/set"].tags["v1"] = hub.repos["me/set"].add("theirs", {}).oid
        return ""

    with pytest.raises(BuildError, match=r"somebody else gave the name v1 to [0-9a-f]{12} in the meantime"):
        push(lean, tag="v1", audit=audit)
    assert hub.calls.count("tag") == 1


def test_a_file_that_the_client_leaves_out_in_silence_is_missed_and_nothing_is_named(hub, lean):
    hub.ignored = "test-00000"
    with pytest.raises(BuildError, match=r"is not the release of .*: data/equalized/test-00000-of-00001.parquet is missing"):
        push(lean, tag="v1")
    assert hub.repos["me/set"].tags == {}
    hub.ignored = ""
    push(lean, tag="v1")
    assert holds(hub, lean, "v1")


# --- reading back ------------------------------------------------------------------------------------------------------


def test_an_image_that_comes_back_otherwise_is_found_and_nothing_is_named(hub, made):
    row = small_release._row("one", "native", "test", 1)
    hub.spoiled = row["image"]["bytes"][-60:-10]  # type: ignore[index]
    with pytest.raises(
        BuildError, match=rf"data/native/test-.*: an image read back is not the one of its row \({row['sha256']}\)"
    ):
        push(made, tag="v1")
    assert hub.repos["me/set"].tags == {}


def test_what_the_audit_says_of_the_sample_decides(hub, lean):
    with pytest.raises(BuildError, match=r"me/set at [0-9a-f]{12}: guessed with 0.9; nothing was tagged"):
        push(lean, tag="v1", audit=lambda sample, whole: "guessed with 0.9")
    assert hub.repos["me/set"].tags == {}


def test_a_card_that_loads_something_else_is_found(hub, made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "release")
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("data/native/test-*", "data/native/tset-*"))
    manifest = release.read_manifest(folder)
    manifest["files"]["README.md"] = release.fingerprint(folder / "README.md")
    (folder / release.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BuildError, match=r"loading it with the datasets library|load_dataset finds"):
        push(folder, tag="v1")
    assert hub.repos["me/set"].tags == {}


def test_of_a_large_release_a_sample_of_every_view_and_split_is_read_back(made, tmp_path):
    files = {path: len(data) for path, data in small_release.contents(made).items()}
    opened = []

    def open(path: str):
        opened.append(path)
        return (made / path).open("rb")

    read = readback.read_back(
        files, open, lambda what, call: call(), "d", tmp_path, "equalized", 16, budget=1, sample_rows=4,
    )  # fmt: skip
    assert {path.split("/")[1] + path.rpartition("/")[2].partition("-")[0] for path in opened} == {
        view + split for view in release.VIEWS for split in small_release.ROWS
    }
    assert not read.whole
    assert not read.complete
    assert 0 < read.sampled <= 6
    assert read.rows == read.images < 32
    assert release.rows(tmp_path, "equalized").num_rows == read.sampled
