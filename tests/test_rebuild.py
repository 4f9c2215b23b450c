"""`rebuild`: the pixels that may not travel come back byte for byte, or it is said why not; and every hash is proved."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import run
from licensed import Built, images_of, rows, session, work
from pictures import jpeg

from imaginet_build import catalog, rebuild
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.releases import release, releasefolder, restoring, rights
from imaginet_build.releases.restoring import Others
from imaginet_build.running import rebuilding, stages
from imaginet_build.running.clearance import Asked

pytestmark = pytest.mark.usefixtures("no_processes")


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Path, Path]:
    """A work folder, its whole release, and the one that left it without half of the pixels."""
    root = tmp_path_factory.mktemp("sent")
    built = work(root)
    whole, _ = stages.publish(built.session)
    out, _ = stages.publish(built.session, root / "sent", asked=Asked(withhold="unknown"))
    return built, whole.path, out.path


Sent = tuple[Built, Path, Path]


def made(folder: Path, out: Path | None, *given: str, verify: bool = True) -> rebuild.Rebuilt:
    return rebuilding.rebuild(folder, out, verify=verify, given=given, trust=False)


def test_what_comes_back_is_the_first_release_byte_for_byte_and_every_hash_is_proved(sent: Sent, tmp_path: Path) -> None:
    built, whole, out = sent
    done = made(out, tmp_path / "back", f"folder={built.pictures}")
    assert (done.withheld, done.restored, done.missing, done.faults, done.images) == (24, 24, (), (), 96)
    assert done.identical
    assert not done.failed
    mine, first = (release.read_manifest(place)["files"] for place in (tmp_path / "back", whole))
    assert {p: f for p, f in mine.items() if p.startswith(("data/", "metadata/"))} == {
        p: f for p, f in first.items() if p.startswith(("data/", "metadata/"))
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back"]
    again = made(out, tmp_path / "back")
    assert (again.restored, again.failed, again.identical) == (24, False, True)
    looked = made(tmp_path / "back", tmp_path / "no")
    assert (looked.withheld, looked.images, looked.faults) == (0, 96, ())


@pytest.mark.prove
def test_a_work_folder_and_files_by_other_names_serve_as_well(sent: Sent, tmp_path: Path) -> None:
    built, _, out = sent
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, path in enumerate(sorted(built.pictures.rglob("*.jpg"))):
        shutil.copyfile(path, renamed / f"{number}.bin")
    for name, place in (("work", built.session.store.root), ("other", renamed)):
        assert made(out, tmp_path / name, f"folder={place}", verify=False).identical


@pytest.mark.prove
def test_the_collector_of_a_card_reads_only_what_is_wanted_out_of_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        for number in range(24):
            file.writestr(f"{('real', 'fake/gan-a')[number % 2]}/{number}.jpg", jpeg(f"zip {number}", 96, 96))
    it = session(tmp_path / "work", {"source": "archive", "options": {"root": str(tmp_path / "p.zip")}})
    stages.collect(it)
    stages.balance(it)
    stages.publish(it)
    out, _ = stages.publish(it, tmp_path / "sent", asked=Asked(withhold="unknown"))
    assert out.withheld == 24
    hint = json.loads(rows(out.path)[0]["fetch"])
    assert hint["source_key"].startswith("p.zip/")
    done = made(out.path, tmp_path / "back", f"archive={tmp_path / 'p.zip'}")
    assert (done.restored, done.identical, done.faults) == (24, True, ())


def test_what_cannot_be_had_is_told_image_by_image_and_what_was_found_is_not_fetched_twice(
    sent: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, _, out = sent
    nothing = made(out, tmp_path / "back")
    assert (nothing.restored, len(nothing.missing)) == (0, 24)
    assert nothing.failed
    assert {one["reason"] for one in nothing.missing} == {"say where it lies: --source folder=PATH"}
    assert not (tmp_path / "back").exists()

    half = tmp_path / "half"
    shutil.copytree(built.pictures / "real", half / "real")
    some = made(out, tmp_path / "back", f"folder={half}")
    assert 0 < some.restored < 24
    assert all(one["source_key"].startswith("synthetic/") for one in some.missing)
    assert all("has its bytes" in one["reason"] or "has no" in one["reason"] for one in some.missing)

    asked: list[str] = []
    keep = restoring._keep
    monkeypatch.setattr(restoring, "_keep", lambda d, w, s: asked.append(hashlib.sha256(d).hexdigest()) or keep(d, w, s))
    done = made(out, tmp_path / "back", f"folder={built.pictures}")
    assert done.identical
    assert len(asked) == len(some.missing)


def test_a_source_that_changed_is_refused_with_both_hashes(sent: Sent, tmp_path: Path) -> None:
    built, _, out = sent
    changed = shutil.copytree(built.pictures, tmp_path / "changed")
    victim = next(row for row in rows(out) if row["fetch"])
    (changed / victim["source_key"]).write_bytes(jpeg("another picture", 96, 96))
    done = made(out, tmp_path / "back", f"folder={changed}")
    assert [one["id"] for one in done.missing] == [victim["id"]]
    assert "is no longer what was collected: its SHA-256 is" in done.missing[0]["reason"]


def test_killed_before_the_last_step_it_goes_on_without_asking_anybody(
    sent: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, _, out = sent
    with monkeypatch.context() as patch:
        patch.setattr(releasefolder, "put", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made(out, tmp_path / "back", f"folder={built.pictures}")
    assert not (tmp_path / "back").exists()
    assert made(out, tmp_path / "back").identical


def test_proving_finds_a_changed_file_a_changed_row_and_a_file_too_many(sent: Sent, tmp_path: Path) -> None:
    _, whole, _ = sent
    folder = shutil.copytree(whole, tmp_path / "whole")
    (folder / "data" / "stray.parquet").write_bytes((next((folder / "data" / "native").iterdir())).read_bytes())
    path = sorted((folder / "data" / "equalized").glob("train-*.parquet"))[0]
    table = pq.read_table(path)
    other = [{**row, "sha256": "0" * 64} if n == 0 else row for n, row in enumerate(table.to_pylist())]
    pq.write_table(pa.Table.from_pylist(other, schema=table.schema), path)
    count, wrong = rebuild.prove(folder)
    assert count > 96
    place = path.relative_to(folder).as_posix()
    assert f"{place}: its bytes are not those published" in wrong
    assert f"{place}, row 0 ({other[0]['id']}): its bytes have not the SHA-256 of its row" in wrong
    assert any(line.startswith("data/stray.parquet: not in release.json") for line in wrong)


def test_a_shard_that_cannot_be_read_is_said_and_nothing_is_said_to_be_proved_that_was_not(sent: Sent, tmp_path: Path) -> None:
    _, whole, out = sent
    text = rebuilding.rebuilt_text(made(whole, tmp_path / "x", verify=False).to_json())
    assert "nothing was proved: --verify does that" in text
    text = rebuilding.rebuilt_text(made(out, tmp_path / "x").to_json())
    assert "no image was proved: --verify does that once nothing is missing" in text

    cut = shutil.copytree(whole, tmp_path / "cut")
    victim = sorted((cut / "data" / "native").glob("train-*.parquet"))[0]
    data = bytearray(victim.read_bytes())
    data[8:4000] = bytes(3992)
    victim.write_bytes(data)  # its footer is whole
    done = made(cut, tmp_path / "x")
    assert done.failed
    place = victim.relative_to(cut).as_posix()
    assert any(line.startswith((f"{place}: cannot be read after row 0", f"{place}, row")) for line in done.faults)
    victim.write_bytes(data[: len(data) // 2])
    with pytest.raises(BuildError, match=r"train-.*parquet is damaged .*take an intact copy"):
        made(cut, tmp_path / "x")
    count, wrong = rebuild.prove(cut)
    assert count > 48
    assert any(line.startswith(f"{place}: cannot be read after row 0") for line in wrong)


def test_a_folder_without_a_name_is_the_one_that_is_meant(sent: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, _, out = sent
    folder = shutil.copytree(out, tmp_path / "sent")
    monkeypatch.chdir(folder)
    assert made(Path(), None, f"folder={built.pictures}", verify=False).path == tmp_path / "sent-complete"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UsageError, match=r"--out \.: a release takes the place of a whole folder"):
        made(out, Path(), f"folder={built.pictures}")


WRONG: dict[str, Any] = {
    "card": None, "nbytes": "x", "view": None, "kind": [], "options": [], "source_key": 3, "revision": {}, "seed": "?",
}  # fmt: skip


def test_a_hint_that_is_none_is_refused_with_the_words_that_are_wrong() -> None:
    view = {"left": 0, "top": 0, "width": 8, "height": 8, "codec": "jpeg", "quality": 9, "subsampling": "4:2:0"}
    good = {"kind": "source", "card": "c", "nbytes": 1, "view": view}
    assert restoring.hint_of("i", json.dumps(good), Path("p")) == good
    told = ["{", "[]", "3", "null", "[" * 9000, *(json.dumps(good | {key: wrong}) for key, wrong in WRONG.items())]
    for key, wrong in {"left": -1, "codec": "gif", "first_quality": "x", "width": None, "subsampling": ["4:2:0"]}.items():
        told.append(json.dumps(good | {"view": view | {key: wrong}}))
    for cell in told:
        with pytest.raises(BuildError, match=r"^p: the cell 'fetch' of i is no hint \(.+\): take an intact copy$"):
            restoring.hint_of("i", cell, Path("p"))


def test_a_hint_that_renders_to_other_bytes_ends_the_rebuilding(sent: Sent, tmp_path: Path) -> None:
    built, _, out = sent
    folder = shutil.copytree(out, tmp_path / "sent")
    path = next(
        p for p in sorted((folder / "data" / "equalized").glob("*.parquet")) if any(pq.read_table(p)["fetch"].is_valid())
    )
    table = pq.read_table(path)
    cells = [told and json.dumps(json.loads(told) | {"view": json.loads(told)["view"] | {"left": 0, "top": 0, "quality": 50}})
             for told in table["fetch"].to_pylist()]  # fmt: skip
    table = table.set_column(table.schema.get_field_index("fetch"), table.schema.field("fetch"), pa.array(cells, pa.string()))
    pq.write_table(table, path)
    manifest = release.read_manifest(folder)
    manifest["files"] = release.inventory(folder)
    manifest["digest"] = release.digest(manifest["files"])
    (folder / "release.json").write_text(json.dumps(manifest))
    with pytest.raises(BuildError, match=r"in 'equalized': its SHA-256 is .* now, and not"):
        made(folder, tmp_path / "back", f"folder={built.pictures}")


def test_a_wrong_call_or_a_damaged_release_begins_nothing(sent: Sent, tmp_path: Path) -> None:
    built, whole, out = sent
    calls: list[tuple[Path, Path, str, str]] = [
        (out, out, "folder=.", "is the release itself"),
        (out, tmp_path / "x", "foldr=.", "did you mean 'folder'"),
        (out, tmp_path / "x", "folder=nowhere", "there is no such file or folder"),
        (out, tmp_path / "x", "folder", "write it as NAME=PATH"),
        (out, built.pictures, f"folder={built.pictures}", "holds something that is not a release"),
        (built.pictures, tmp_path / "x", "folder=.", "is not a release"),
    ]
    for folder, to, given, said in calls:
        with pytest.raises(UsageError, match=said):
            made(folder, to, given)
    broken = shutil.copytree(out, tmp_path / "broken")
    (broken / "README.md").write_text("no")
    with pytest.raises(BuildError, match=r"is damaged \(README.md"):
        made(broken, tmp_path / "x", f"folder={built.pictures}")
    assert not (tmp_path / "x").exists()
    assert whole.is_dir()


def test_addresses_are_listed_for_the_collector_under_the_names_they_had(tmp_path: Path) -> None:
    card = catalog.card("sources", "urls")
    options: dict[str, Any] = {"key": "id", "licence_column": "licence", "categories": {}}
    listed = restoring._list_of(card, ["https://a.org/1.jpg", "https://a.org/2.jpg?x=1,2"], options, tmp_path, False)
    assert listed is not None
    assert options == {"categories": {}, "origin": "real"}
    collector = catalog.build(card, root=str(listed), **options)
    want = restoring.Want("urls", None, 0, Others(frozenset({"https://a.org/2.jpg?x=1,2"})))
    assert [row.found.source_key for row in collector.list.rows(want)] == ["https://a.org/2.jpg?x=1,2"]
    assert restoring._list_of(card, ["no address"], {}, tmp_path, False) is None


def test_a_hint_says_which_images_and_never_how_to_go_about_it(
    sent: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release is somebody else's file: it must not open this machine's own network, nor name files here."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(catalog, "build", lambda card, **keys: asked.update(keys) or (_ for _ in ()).throw(BuildError("no")))
    hint = {"kind": "source", "card": "urls", "source_key": "https://a.org/1.jpg", "nbytes": 1, "seed": 0}
    hint["options"] = {"allow_loopback": ["127.0.0.1:80"], "robots": False, "root": "/etc", "key": "id"}
    one = restoring.Missing("i", "0" * 64, hint)
    assert "broke off: no" in restoring.restore([one], {}, restoring.Shelf(tmp_path))["i"]
    assert not {"allow_loopback", "robots"} & asked.keys()
    assert asked["root"] != "/etc"
    folder = shutil.copytree(sent[2], tmp_path / "sent")
    path = sorted((folder / "data" / "native").glob("train-*.parquet"))[0]
    table = pq.read_table(path)
    names = pa.array(["../../etc/passwd"] * table.num_rows)
    pq.write_table(table.set_column(table.schema.get_field_index("source_sha256"), "source_sha256", names), path)
    with pytest.raises(BuildError, match="is no SHA-256"):
        made(folder, tmp_path / "x")


def test_others_are_all_keys_but_some() -> None:
    others = Others(frozenset({"a"}))
    assert "a" not in others
    assert "b" in others
    assert list(others) == []


def test_the_command_says_what_is_missing_with_exit_code_1_and_proves_a_whole_release_with_0(
    sent: Sent, tmp_path: Path
) -> None:
    built, whole, out = sent
    said = json.loads(run("rebuild", out, "--out", tmp_path / "b", "--json", cwd=tmp_path, code=1).stdout)
    assert (said["withheld"], said["restored"], len(said["missing"])) == (24, 0, 24)
    text = run("rebuild", out, "--out", tmp_path / "b", "--verify", "--source", f"folder={built.pictures}", cwd=tmp_path).stdout
    assert "24 of 24 images without pixels are had" in text
    assert "the bytes of 96 rows held against their SHA-256: 0 faults" in text
    assert "the data is that of the first release, byte for byte" in text
    assert images_of(tmp_path / "b", "native") == images_of(whole, "native")
    assert {row[rights.FETCH] for row in rows(tmp_path / "b")} == {None}
