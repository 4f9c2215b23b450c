"""A release that is published once more keeps its version and its past, whether its pixels travel or not."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from licensed import Built, images_of, pictures, rows, session

from imaginet_build.errors import UsageError
from imaginet_build.releases import notices, release, releasecheck
from imaginet_build.running import stages
from imaginet_build.running.clearance import Asked

pytestmark = pytest.mark.usefixtures("no_processes")

HOLD = Asked(withhold="unknown")


def versions(folder: Path) -> list[str]:
    lines = (folder / "CHANGELOG.md").read_text().splitlines()
    return [line[3:] for line in lines if line.startswith("## ")]


def test_a_notice_rewrites_files_in_which_pixels_are_withheld(built: Built, tmp_path: Path) -> None:
    root = built.session.store.root
    stages.publish(built.session, tmp_path / "v1", asked=HOLD)
    held = {name for name, image in images_of(tmp_path / "v1", "native").items() if image is None}
    here = sorted(row["id"] for row in rows(tmp_path / "v1") if row["id"] not in held)
    assert held
    assert here
    with (root / "takedown.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "reason"], [here[0], "request"], [min(held), "request"]])
    with (root / "errata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "column", "value", "note"], [here[1], "licence", "CC0-1.0", ""], [max(held), "prompt", "a cat", ""]]
        )
    said, _ = stages.publish(built.session, tmp_path / "v2", asked=HOLD, grow=tmp_path / "v1")
    assert (said.version, said.withdrawn) == ("1.1.0", 2)
    told = {row["id"]: row for row in rows(tmp_path / "v2")}
    assert not {here[0], min(held)} & told.keys()
    assert (told[here[1]]["licence"], told[max(held)]["prompt"]) == ("CC0-1.0", "a cat")
    before, after = (images_of(folder, "native") for folder in (tmp_path / "v1", tmp_path / "v2"))
    assert all(before[name] == image for name, image in after.items())
    assert release.read_manifest(tmp_path / "v2")["withheld"] == len(held) - 1
    assert releasecheck.check(tmp_path / "v2")["faults"] == []


def test_a_grown_release_is_grown_again_and_never_numbered_anew(built: Built, tmp_path: Path) -> None:
    root = built.session.store.root
    stages.publish(built.session)
    pictures(built.pictures, 8, start=48)
    stages.collect(built.session)
    grown, _ = stages.publish(built.session, grow=root / "release", version="2.0.0")
    assert (grown.version, grown.added, versions(grown.path)) == ("2.0.0", 8, ["2.0.0", "1.0.0"])
    stages.balance(built.session)  # as `run` does, which knows of no earlier version
    again, _ = stages.publish(built.session)
    assert (again.version, again.digest, again.unchanged) == ("2.0.0", grown.digest, True)
    out, _ = stages.publish(built.session, tmp_path / "out")
    assert (out.version, versions(out.path)) == ("2.0.0", ["2.0.0", "1.0.0"])
    shutil.rmtree(root / "releases")
    with pytest.raises(UsageError, match=r"is 2\.0\.0, grown from 1\.0\.0 .*--from, or move this one away"):
        stages.publish(built.session)
    (root / "release").rename(root / "release.old")
    with pytest.raises(UsageError, match=r"out is 2\.0\.0, grown from 1\.0\.0"):
        stages.publish(built.session, tmp_path / "out")
    fresh, _ = stages.publish(built.session)
    assert (fresh.version, fresh.rows) == ("1.0.0", 56)
    assert release.faults(root / "release.old") == []


def test_a_version_that_was_asked_for_once_stays_wherever_it_goes(built: Built, tmp_path: Path) -> None:
    stages.publish(built.session, version="2.0.0")
    again, _ = stages.publish(built.session)
    held, _ = stages.publish(built.session, tmp_path / "held", asked=HOLD)
    whole, _ = stages.publish(built.session, tmp_path / "whole")
    assert held.withheld > whole.withheld == 0
    for one in (again, whole, held):
        assert (one.version, release.read_manifest(one.path)["version"], versions(one.path)) == ("2.0.0", "2.0.0", ["2.0.0"])


def test_both_lists_hold_in_every_later_version_though_nobody_hands_them_on(built: Built, tmp_path: Path) -> None:
    """Deleted from the work folder, or in another one that never had them: what was taken down stays out, what was put right
    stays right."""
    root = built.session.store.root
    first, _ = stages.publish(built.session, tmp_path / "v1")
    names = sorted(row["id"] for row in rows(first.path))
    gone, wrong = names[0], names[-1]
    (root / "takedown.csv").write_text(f"id,reason,note\n{gone},privacy,of whom it is\n")
    (root / "errata.csv").write_text(f"id,column,value\n{wrong},prompt,a dog\n")
    stages.publish(built.session, tmp_path / "v2", grow=tmp_path / "v1")
    for name in ("takedown.csv", "errata.csv"):
        (root / name).unlink()
    pictures(built.pictures, 56)
    stages.collect(built.session)
    third, _ = stages.publish(built.session, tmp_path / "v3", grow=tmp_path / "v2")
    assert (third.version, third.added, third.withdrawn) == ("1.2.0", 8, 0)
    other = session(tmp_path / "other", {"source": "folder", "options": {"root": str(built.pictures)}})
    stages.collect(other)
    fourth, _ = stages.publish(other, tmp_path / "v4", grow=tmp_path / "v2")
    for folder in (third.path, fourth.path):
        held = {row["id"]: row for row in rows(folder)}
        assert gone not in held
        assert held[wrong]["prompt"] == "a dog"
        lists = notices.read(folder)
        assert {(one.id, one.reason) for one in lists.taken} == {(gone, "privacy")}
        assert [(one.id, one.value) for one in lists.errata] == [(wrong, "a dog")]
        assert "of whom it is" not in (folder / "takedown.csv").read_text()
        assert releasecheck.check(folder)["faults"] == []
