"""`publish` as typed: past the gate or not at all, to the Hub, to an address, to a folder; each wrong call in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import hub_server
import pytest
import small_release
from hub_client import turn_to
from pictures import jpeg

from imaginet_build import images
from imaginet_build import recipe as recipes
from imaginet_build.cli import main
from imaginet_build.records import Record, make_id
from imaginet_build.running import delivery
from imaginet_build.store import Store, write_text

pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROWS = 30
"""Fewer than what is worth a process."""


def work_folder(root: Path, told_apart: bool) -> Path:
    """Half real, half synthetic JPEGs and a plan that keeps them all; `told_apart`: the synthetic ones are wider."""
    made = []
    for n in range(ROWS):
        real = n % 2 == 0
        data = jpeg(f"delivery {n}", 96 if real or not told_apart else 112, 80)
        origin, maker = ("real", None) if real else ("synthetic", "tiny-gan")
        record = Record(
            id=make_id("delivery", n), origin=origin, category="photos", family=maker and "gan", generator=maker,
            source=None if maker else "album", source_key=f"{n}.jpg", licence="CC0-1.0", revision="1", prompt=None,
            negative=None, seed=None, params="{}", pair_id=None, group=f"g{n}", extension="jpg", facts=images.measure(data),
        )  # fmt: skip
        made.append((record.row(), data))
    store = Store(root)
    store.write_part("collect", "part-0", [row for row, _ in made], [data for _, data in made])
    law = {"left": 8, "top": 8, "height": 64, "codec": "jpeg", "quality": 85, "subsampling": "4:2:0"}
    plan = [
        {key: row[key] for key in ("id", "category", "origin", "group")}
        | law | {"keep": True, "generator_or_source": row["generator"] or row["source"], "reason": None, "detail": None}
        | {"split": ("train", "calibration", "test")[n // 2 % 3], "width": 64 if row["width"] == 96 else 80}
        | {"first_quality": None, "first_subsampling": None}
        for n, (row, _) in enumerate(made)
    ]  # fmt: skip
    store.write_plan(plan)
    recipe = recipes.parse({"name": "delivery", "audit": {"permutations": 40, "pixels": False}, "engine": {"workers": 1}})
    write_text(store.recipe_path, recipes.to_toml(recipe))
    return root


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    with hub_server.running() as hub:
        turn_to(hub, tmp_path / "home", monkeypatch)
        yield hub


@pytest.fixture(scope="module")
def fair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return work_folder(tmp_path_factory.mktemp("fair") / "work", told_apart=False)


@pytest.fixture(scope="module")
def unfair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return work_folder(tmp_path_factory.mktemp("unfair") / "work", told_apart=True)


def publish(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as done:
        main(["publish", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(done.value.code or 0), out, err


def test_a_release_is_pushed_read_back_audited_again_and_named(hub, fair, capsys):
    code, out, err = publish(capsys, "--work", fair, "--repo", "fair", "--tag", "v1.0.0", "--json")
    assert code == 0, err
    pushed = json.loads(out)["pushed"]
    repo = hub.repos["me/fair"]
    assert repo.files() == small_release.contents(fair / "release")
    assert repo.tags == {"v1.0.0": pushed["commit"]}
    assert (pushed["repo"], pushed["private"], pushed["read_back"]["whole"]) == ("me/fair", True, True)
    assert pushed["read_back"]["images"] == 2 * ROWS
    assert b'load_dataset("me/fair"' in repo.files()["README.md"]
    assert sorted(path.name for path in fair.iterdir() if "read-back" in path.name) == []
    code, out, err = publish(capsys, "--work", fair, "--repo", "me/fair")
    assert code == 0
    assert f"{hub.address}/datasets/me/fair: 0 files sent (0.0 MB), {len(repo.files())} there already" in out
    assert f"commit {pushed['commit']}, tagged v1.0.0, private; all {2 * ROWS} rows read back, {2 * ROWS} images hashed" in out
    assert hub.token not in out + err


def test_without_a_tag_a_release_gets_its_version_and_another_release_never_takes_it(hub, fair, capsys):
    code, out, err = publish(capsys, "--work", fair, "--repo", "me/numbered")
    assert code == 0, err
    repo = hub.repos["me/numbered"]
    assert repo.tags == {"v1.0.0": repo.branches["main"]}
    repo.tags["v1.1.0"] = repo.add("theirs", {"data/equalized/train-x.parquet": b"x"}).oid
    repo.branches["main"] = repo.tags["v1.0.0"]
    code, out, err = publish(capsys, "--work", fair, "--repo", "me/numbered", "--version", "1.1.0")
    assert (code, out) == (2, "")
    assert "has another release called v1.1.0" in err
    assert "give this one a number of its own" in err
    assert "release --version NUMBER), or choose another --tag" in err
    assert publish(capsys, "--work", fair, "--repo", "me/numbered", "--revision", "draft")[0] == 0
    assert sorted(repo.tags) == ["v1.0.0", "v1.1.0"], "a branch beside is for trying"


def test_where_everybody_sees_it_already_pixels_that_nobody_cleared_stay_here_unless_it_is_made_private(
    hub, fair, capsys, caplog, monkeypatch
):
    hub.repos["me/seen"] = hub_server.Repo("me/seen", False)
    hub.repos["me/seen"].add("initial commit", {".gitattributes": b""})
    held = []
    keep = delivery.stages.publish
    monkeypatch.setattr(delivery.stages, "publish", lambda *a, **k: held.append(k["asked"].public) or keep(*a, **k))
    assert publish(capsys, "--work", fair, "--repo", "me/seen")[0] == 0
    assert "me/seen is public: pixels of which nobody says that they may be passed on stay here" in caplog.text
    assert publish(capsys, "--work", fair, "--repo", "me/seen", "--private")[0] == 0
    assert held == [True, False]
    assert hub.repos["me/seen"].private


def test_what_the_gate_refuses_does_not_leave_unless_it_is_forced_and_then_the_card_says_so(hub, unfair, tmp_path, capsys):
    for place in (("--repo", "me/unfair"), ("--out", "memory://unfair"), ("--out", tmp_path / "out")):
        code, out, err = publish(capsys, "--work", unfair, *place)
        assert (code, out) == (3, "")
        assert "the audit refuses: " in err
        assert f"{place[1]} was not written" in err
        assert len(err.strip().splitlines()) == 1
    assert hub.repos == {}
    assert not (tmp_path / "out").exists()
    code, _, err = publish(capsys, "--work", unfair, "--repo", "me/unfair", "--force")
    assert code == 0, err
    files = hub.repos["me/unfair"].files()
    assert json.loads(files["release.json"])["gate"]["forced"] is True


def test_an_address_that_fsspec_knows(fair, capsys):
    code, out, _ = publish(capsys, "--work", fair, "--out", "memory://sets/fair", "--json")
    assert code == 0
    store = fsspec.filesystem("memory")
    there = {path.removeprefix("/sets/fair/"): store.cat_file(path) for path in store.find("/sets/fair")}
    assert there == small_release.contents(fair / "release")
    assert json.loads(out)["placed"]["sent"] == len(there)
    store.rm("/sets", recursive=True)


def test_a_file_address_is_written_as_a_folder_is(fair, tmp_path, capsys):
    assert publish(capsys, "--work", fair, "--out", f"file://{tmp_path}/out")[0] == 0
    assert small_release.contents(tmp_path / "out") == small_release.contents(fair / "release")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tag", "v1"], "--tag, --revision, --public and --private belong to the Hub: say where with --repo OWNER/NAME"),
        (["--public"], "say where with --repo"),
        (["--out", "x", "--repo", "a/b"], "--out and --repo are two places"),
        (["--repo", "a/b", "--tag", "main"], "--tag main is the name of the branch"),
        (["--repo", "a/b", "--tag", "version one"], "--tag 'version one': write a version such as v1.0.0"),
        (["--repo", "a/b", "--tag", "v1..2"], "--tag 'v1..2': write a version"),
        (["--repo", "a b"], "--repo a b: write it as owner/name"),
        (["--out", "."], "--out .: a release takes the place of a whole folder, and this one is stood in: name another"),
        (["--out", "nowhere://x"], "--out nowhere://x: Protocol not known"),
    ],
)
def test_wrong_calls_are_said_before_anything_is_built(arguments, words, tmp_path, capsys):
    code, out, err = publish(capsys, "--work", tmp_path / "work", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert not (tmp_path / "work").exists()


def test_without_a_token_nothing_is_built(hub, fair, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    code, _, err = publish(capsys, "--work", tmp_path / "work", "--repo", "me/set")
    assert code == 2
    assert err.strip().endswith("nobody is logged in at the Hub: run hf auth login, or set HF_TOKEN to a token that may write")
    assert not (tmp_path / "work").exists()
