"""`publish --dry-run` says what `publish` then does, and touches nothing: no file, no network, no pixel."""

from __future__ import annotations

import csv
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from licensed import Built, pictures, work

from imaginet_build import images
from imaginet_build.cli import main
from imaginet_build.errors import UsageError
from imaginet_build.releases import release
from imaginet_build.running import delivery, outlook, stages
from imaginet_build.running.clearance import Asked
from imaginet_build.running.delivery import Where

pytestmark = pytest.mark.usefixtures("no_processes")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return work(tmp_path_factory.mktemp("built"))


def told(built: Built, where: Where = Where(), asked: Asked = Asked(), grow: Path | None = None, **more: Any) -> dict[str, Any]:  # noqa: B008
    return outlook.outlook(built.session, where, more.get("force", False), asked, grow, more.get("version"))


def lying(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}


def test_nothing_is_written_nobody_is_asked_and_no_pixel_is_looked_at(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no(*_: object, **__: object) -> None:
        raise AssertionError("touched")

    for place, name in ((socket, "socket"), (images, "decode"), (images, "render"), (release, "fingerprint")):
        monkeypatch.setattr(place, name, no)
    root = built.session.store.root
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    before = lying(root)
    monkeypatch.chdir(tmp_path)
    for to in ([], ["--repo", "me/set", "--public"], ["--out", "out"], ["--out", "s3://user:word@bucket/set?sign=1"]):
        with pytest.raises(SystemExit) as done:
            main(["publish", "--work", str(root), "--dry-run", *to])
        assert not done.value.code
        said = capsys.readouterr()
        assert "nothing was written, and nobody was asked" in said.out
        assert "secret" not in said.out + said.err
        assert "word" not in said.out + said.err
    assert lying(root) == before
    assert list(tmp_path.iterdir()) == []


def test_what_it_says_is_what_is_done(built: Built, tmp_path: Path) -> None:
    asked = Asked(withhold="unknown")
    where = Where(str(tmp_path / "out"))
    before = told(built, where, asked)
    published, _ = stages.publish(built.session, tmp_path / "out", asked=asked)
    assert before["views"]["native"]["rows"] == published.rows == sum(before["rows"].values()) == 48
    assert before["rows"] == {split: n for split, n in published.views["native"].items() if n}
    assert sum(before["rights"]["fetch_hints"].values()) == published.withheld == 24
    assert before["rights"]["with_pixels"].keys() == {"CC-BY-2.0", "CC-BY-NC-2.0", "MIT", "CC0-1.0"}
    assert (before["version"], before["goes"]) == (published.version, {"kind": "folder", "place": str(tmp_path / "out")})
    files = release.read_manifest(published.path)["files"]
    for view, said in before["views"].items():
        shards = [facts["nbytes"] for path, facts in files.items() if path.startswith(f"data/{view}/")]
        assert said["shards"] == len(shards)
        assert said["pixels"] == 24
    whole = release.read_manifest(built.session.store.root / "release")["files"]
    again = told(built)["views"]
    for view, said in again.items():
        nbytes = sum(facts["nbytes"] for path, facts in whole.items() if path.startswith(f"data/{view}/"))
        assert 0.3 * nbytes < said["nbytes"] < 1.1 * nbytes, (view, said)


def test_what_grows_and_what_is_planned_anew_is_told_as_the_most_there_can_be(tmp_path: Path) -> None:
    built = work(tmp_path)
    stages.publish(built.session, version="1.2.0")
    first = tmp_path / "work" / "release"
    assert told(built)["version"] == "1.2.0", "the same rows keep their number"
    assert told(built, grow=first)["version"] == "1.2.0"
    only = told(built, asked=Asked(only="redistributable"))
    assert (sum(only["rows"].values()), only["only"]) == (24, "redistributable")
    assert only["balanced_anew"] == "with only what is redistributable"
    pictures(built.pictures, 8, start=48)
    stages.collect(built.session)
    unplanned = told(built, grow=first)
    assert (sum(unplanned["rows"].values()), unplanned["at_most"], unplanned["version"]) == (0, 8, "1.3.0")
    assert "0 images more as planned now, 8 more at most: the plan is made anew" in outlook.text(unplanned)
    stages.balance(built.session, grow=first)
    grown = told(built, Where(repo="me/set"), grow=first)
    assert (sum(grown["rows"].values()), grown["grown_from"]["rows"]) == (8, 48)
    assert (grown["version"], grown["goes"]["tag"]) == ("1.3.0", "v1.3.0")
    assert "8 images more at most: the plan is made anew around the rows of" in outlook.text(grown)
    with pytest.raises(UsageError, match=r"does not come after 1\.2\.0"):
        told(built, grow=first, version="1.0.0")
    with (built.session.store.root / "takedown.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["source_key", "reason"], ["real/0.jpg", "request"]])
    assert told(built)["balanced_anew"] == "without what is taken down"
    assert told(built)["taken_down"] == 1
    less = told(built, grow=first)
    assert (less["grown_from"]["withdrawn"], less["grown_from"]["corrected"]) == (1, 0)
    assert "but for those 1 withdrawn and the files they stand in" in outlook.text(less)
    done, _ = stages.publish(built.session, grow=first)
    assert (less["version"], done.version, done.withdrawn) == ("1.3.0", "1.3.0", 1)
    again = told(built, grow=first)
    assert (again["at_most"], again["version"]) == (0, "1.3.0"), "what was withdrawn before is not withdrawn again"


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"gate": null}', '{"gate": {"verdict": "passed"}}'])
def test_an_audit_file_that_is_damaged_is_made_anew(tmp_path: Path, damaged: str, caplog: pytest.LogCaptureFixture) -> None:
    built = work(tmp_path)
    file = built.session.store.root / "audit.json"
    file.write_text(damaged)
    assert told(built)["gate"]["last"] is None
    assert "publish audits anew" in caplog.text
    _, said = stages.publish(built.session)
    assert json.loads(file.read_text())["gate"] == json.loads(json.dumps(said["gate"]))


def test_the_gate_that_it_must_pass_and_the_place_are_told(built: Built) -> None:
    assert told(built)["gate"]["needs"] == ["passed", "undecided", "refused"]
    away = told(built, Where(repo="me/set", private=True))
    assert (away["gate"]["needs"], away["gate"]["limit"]) == (["passed", "undecided"], 0.55)
    assert away["goes"]["visibility"] == "private"
    assert told(built, Where(repo="me/set"), force=True)["gate"]["needs"][-1] == "refused"
    assert told(built, Where(repo="me/set", private=False), Asked(public=True))["rights"]["withhold"] == "unknown"
    assert told(built, Where(repo="me/set"))["rights"]["withhold"] == "forbidden"


def test_the_tag_is_the_version_unless_another_is_asked_for_or_the_branch_is_beside() -> None:
    assert delivery.tag_of(Where(repo="a/b"), "1.4.0") == "v1.4.0"
    assert delivery.tag_of(Where(repo="a/b", tag="spring"), "1.4.0") == "spring"
    assert delivery.tag_of(Where(repo="a/b", branch="draft"), "1.4.0") is None


def test_a_wrong_call_is_refused_as_without_it(built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["--work", tmp_path / "none"], "no plan in"),
        (["--work", built.session.store.root, "--out", "x", "--repo", "a/b"], "two places"),
        (["--work", built.session.store.root, "--from", tmp_path], "is not a release"),
        (["--work", built.session.store.root, "--version", "one"], "write three numbers"),
        (["--check", tmp_path], "leave out --dry-run"),
    ):
        with pytest.raises(SystemExit) as done:
            main(["publish", "--dry-run", *map(str, arguments)])
        assert done.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["publish", "--dry-run", "--json", "--work", str(built.session.store.root)])
    assert json.loads(capsys.readouterr().out)["version"] == "1.0.0"
