"""`publish --from`, `balance --from` and `diff` as a user types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import run
from growth import begun, record

from imaginet_build.errors import UsageError
from imaginet_build.releases import release
from imaginet_build.running import growing
from imaginet_build.running.workspace import open_session

SET = ("--set", "engine.workers=1", "--set", "audit.permutations=5", "--set", "audit.pixels=false", "--set", "root=images")
LAW = ("--set", "equalize.side=[64, 64]", "--set", "equalize.quality=[80, 90]")


def pictures(root: Path, maker: str, numbers: range, real: bool) -> None:
    folder = root / ("real" if real else "fake") / "photos" / maker
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        row, data = record(maker, number, real)
        (folder / f"{number}.{row['extension']}").write_bytes(data)


def test_the_release_of_the_work_folder_is_put_aside_before_it_is_grown_from(tmp_path: Path) -> None:
    store, v1 = begun(tmp_path, rows=8)
    v1.rename(store.root / "release")
    kept = growing._aside(store.root, store.root / "release")
    assert kept == store.root / "releases" / "1.0.0"
    assert release.faults(kept) == []
    assert growing._aside(store.root, store.root / "release") == kept
    assert all((kept / path).samefile(store.root / "release" / path) for path in release.listing(kept))


def test_the_release_without_pixels_needs_the_one_that_has_them(tmp_path: Path) -> None:
    store, v1 = begun(tmp_path, rows=8)
    manifest = release.read_manifest(v1) | {"withheld": 3, "complete": "f" * 64}
    (v1 / "release.json").write_text(json.dumps(manifest))
    sets = ["equalize.side=[64, 64]", "equalize.step=32", "equalize.quality=[80, 90]"]
    session = open_session("folders", store.root, sets)
    with pytest.raises(UsageError, match=r"holds no pixels of 3 images, .*ffff.*build-imaginet rebuild"):
        growing.begin(session, v1)


@pytest.mark.prove
def test_a_release_grows_as_it_is_typed(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "album", range(40), True)
    pictures(tmp_path / "images", "gan-a", range(40), False)
    run("collect", "--recipe", "folders", "--work", "w", *SET, *LAW, cwd=tmp_path)
    run("balance", "--work", "w", cwd=tmp_path)
    first = json.loads(run("publish", "--work", "w", "--out", "v1", "--json", cwd=tmp_path).stdout)
    assert (first["version"], first["rows"]) == ("1.0.0", 80)

    pictures(tmp_path / "images", "album", range(40, 48), True)
    pictures(tmp_path / "images", "gan-b", range(8), False)
    run("collect", "--work", "w", cwd=tmp_path)
    typed = ("publish", "--from", "v1", "--work", "w", "--out", "v2", "--json")
    second = json.loads(run(*typed, cwd=tmp_path).stdout)
    assert [second[k] for k in ("version", "rows", "added", "withdrawn", "rewritten")] == ["1.1.0", 96, 16, 0, 0]
    assert json.loads(run(*typed, cwd=tmp_path).stdout)["unchanged"] is True
    found = json.loads(run("diff", "v1", "v2", "--json", cwd=tmp_path).stdout)
    assert (found["nbytes"]["part"], found["rows"]["same"], found["rows"]["added"]) == (1.0, 80, 16)
    assert "generator: added gan-b" in run("diff", "v1", "v2", cwd=tmp_path).stdout
    assert (tmp_path / "v2" / "provenance" / "recipe.toml").is_file()
    assert not [
        path
        for path in (tmp_path / "v2").rglob("*")
        if path.is_file() and path.suffix != ".parquet" and str(tmp_path) in path.read_text()
    ]

    # The work folder's own release is the second version by now: it grows in place, and a row is withdrawn.
    name = release.rows(tmp_path / "v1", "native")["id"][0].as_py()
    (tmp_path / "w" / "takedown.csv").write_text(f"id,reason\n{name},request\n")
    third = json.loads(run("publish", "--from", "w/release", "--work", "w", "--json", cwd=tmp_path).stdout)
    assert [third[k] for k in ("version", "rows", "added", "withdrawn")] == ["1.2.0", 95, 0, 1]
    assert third["rewritten"] > 0
    again = json.loads(run("publish", "--from", "w/release", "--work", "w", "--json", cwd=tmp_path).stdout)
    assert (again["version"], again["digest"]) == ("1.2.0", third["digest"])
    log = (tmp_path / "w" / "release" / "CHANGELOG.md").read_text()
    assert [log.count(f"## {v}\n") for v in ("1.2.0", "1.1.0", "1.0.0")] == [1, 1, 1]

    said = run("publish", "--from", "v1", "--work", "w", "--out", "v4", "--version", "1.0.0", cwd=tmp_path, code=2)
    assert "does not come after 1.0.0" in said.stderr
    shutil.rmtree(tmp_path / "v1" / "data" / "native")
    said = run("publish", "--from", "v1", "--work", "w", "--out", "v4", cwd=tmp_path, code=2)
    assert "v1 is not as it was published" in said.stderr
    assert not (tmp_path / "v4").exists()
    said = run("publish", "--from", "nowhere", "--work", "w", "--out", "v4", cwd=tmp_path, code=2)
    assert "nowhere is not a release" in said.stderr
    run("balance", "--from", "v2", "--work", "w", cwd=tmp_path)
