"""No number of a release's texts can be wrong without being named, line by line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import run
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build import audit
from imaginet_build import publish as publishing
from imaginet_build.cli import proving
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.releases import cardlint, datasetcard, release, releasecheck, rightstable
from imaginet_build.running import summaries

NUMBERED = list(datasetcard.TEXTS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.release(tmp_path_factory.mktemp("whole")).path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def change(folder: Path, name: str, edit: Callable[[str], str]) -> None:
    path = folder / name
    text = path.read_text(encoding="utf-8")
    path.write_text(edit(text), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text


def manifest(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    held = json.loads((folder / release.MANIFEST).read_text(encoding="utf-8"))
    edit(held)
    (folder / release.MANIFEST).write_text(json.dumps(held), encoding="utf-8")


def test_what_was_published_has_no_fault(whole: Path) -> None:
    assert cardlint.faults(whole) == []


@pytest.mark.parametrize("name", NUMBERED)
def test_every_single_digit_that_changes_is_found_on_its_line(whole: Path, name: str) -> None:
    """Every number of every text, one digit at a time: exactly that line is named, no other. Hashes have too many digits for
    that in croissant.json: there it is the first of each line."""
    held = release.read_manifest(whole)
    text = cardlint.expected(whole, held, release.inventory(whole))[1][name]
    assert (whole / name).read_text(encoding="utf-8") == text
    digits = [match.end() - 1 for match in re.finditer("^[^0-9\n]*[0-9]" if name == "croissant.json" else "[0-9]", text, re.M)]
    assert len(digits) >= 9
    for place in digits:
        wrong = f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}"
        assert [number for number, _ in cardlint.differences(wrong, text)] == [text.count("\n", 0, place) + 1]


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_the_whole_lint_names_the_line_too(whole: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NUMBERED))
    path = whole / name
    text = path.read_text(encoding="utf-8")
    found = data.draw(st.sampled_from(list(re.finditer("[0-9]", text))))
    other = data.draw(st.sampled_from(sorted(set("0123456789") - {found[0]})))
    try:
        path.write_text(text[: found.start()] + other + text[found.end() :], encoding="utf-8")
        (fault,) = cardlint.faults(whole)
    finally:
        path.write_text(text, encoding="utf-8")
    assert fault.startswith(f"{name}:{text.count(chr(10), 0, found.start()) + 1}: says ")


def test_every_number_of_the_card_that_changes_is_found_by_the_whole_lint(copy: Path) -> None:
    """All of them at once, and each is named on its own line."""
    path = copy / "README.md"
    lines = path.read_text(encoding="utf-8").split("\n")
    wrong = [re.sub(r"\d+", lambda number: str(int(number[0]) + 1), line) for line in lines]
    assert len(re.findall(r"\d+", "\n".join(lines))) > 250
    path.write_text("\n".join(wrong), encoding="utf-8")
    named = [fault.split(": says ")[0] for fault in cardlint.faults(copy)]
    assert named == [f"README.md:{n}" for n, (a, b) in enumerate(zip(lines, wrong, strict=True), start=1) if a != b]


def test_what_may_be_passed_on_is_counted_from_the_rows_though_the_manifest_and_the_card_agree(
    copy: Path, tmp_path: Path
) -> None:
    """The table of rights says it row by row; a manifest that says otherwise takes nobody in."""
    table = pq.read_table(copy / rightstable.FILE)
    manifest(copy, lambda held: held.update(must_not_travel=3))
    told = "**The pixels of 3 images here may not be passed on.**\nEvery row names its own"
    change(copy, "README.md", lambda text: text.replace("Every row names its own", told))
    assert cardlint.faults(copy) == ["release.json: 'must_not_travel' is 3, the files say 0"]
    said = [False, False, *table["redistribute"].to_pylist()[2:]]
    pq.write_table(table.set_column(1, "redistribute", pa.array(said, pa.bool_())), copy / rightstable.FILE)
    assert "release.json: 'must_not_travel' is 3, the files say 2" in cardlint.faults(copy)
    manifest(copy, lambda held: held.update(only="redistributable"))
    assert "release.json: only what is redistributable, it says, and 2 rows are not" in cardlint.faults(copy)
    pq.write_table(table.slice(1), copy / rightstable.FILE)
    with pytest.raises(BuildError, match=r"rights\.parquet is not of the rows of 'equalized'"):
        cardlint.faults(copy)
    (copy / rightstable.FILE).unlink()
    with pytest.raises(BuildError, match=r"rights\.parquet is missing"):
        cardlint.faults(copy)


def test_lines_that_come_or_go_are_named_where_they_do(copy: Path) -> None:
    change(copy, "README.md", lambda text: text.replace("| twin | 1 |\n", ""))
    change(copy, "LICENSE.md", lambda text: text + "| MIT-0 | 7 | 7 |\n")
    faults = cardlint.faults(copy)
    assert [fault.partition(":")[0] for fault in faults] == ["README.md", "LICENSE.md"]
    assert "says nothing, the files say '| twin | 1 |'" in faults[0]
    assert "'| MIT-0 | 7 | 7 |" in faults[1]


def test_a_text_that_is_gone_is_named(copy: Path) -> None:
    (copy / "DATASHEET.md").unlink()
    assert cardlint.faults(copy) == ["DATASHEET.md: missing"]


def test_data_that_changed_under_the_card_is_found(copy: Path) -> None:
    """A row less, a licence more: the card is as it was, and is wrong."""
    path = sorted(copy.glob("data/*/train-*.parquet"))[0]
    table = pq.read_table(path)
    licences = pa.array(["AGPL-3.0-only", *table["licence"].to_pylist()[1:]], pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("licence"), "licence", licences), path)
    faults = "\n".join(cardlint.faults(copy))
    assert re.search(r"README\.md:\d+: says .*the files say .*AGPL-3\.0-only", faults)
    assert re.search(r"croissant\.json:\d+: says .*sha256", faults)
    pq.write_table(pq.read_table(copy / "rejects.parquet").slice(0, 0), copy / "rejects.parquet")
    assert "Nothing was refused." in "\n".join(cardlint.faults(copy))


def test_pixels_that_changed_under_the_card_are_found(copy: Path) -> None:
    path = sorted(copy.glob("data/equalized/train-*.parquet"))[0]
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    images[0]["bytes"] += bytes(5000)
    pq.write_table(table.set_column(0, "image", pa.array(images, table.schema.field(0).type)), path)
    faults = "\n".join(cardlint.faults(copy))
    assert re.search(r"README\.md:\d+: says '\| `equalized` \| 0\.\d+ ", faults)
    assert "release.json: 'likeness' is " in faults


def test_the_numbers_of_the_manifest_are_counted_too(copy: Path) -> None:
    manifest(copy, lambda held: held.update(rows=24))
    assert cardlint.faults(copy) == ["release.json: 'rows' is 24, the files say 23"]


def test_what_nobody_wrote_the_facts_of_cannot_be_counted(copy: Path, tmp_path: Path) -> None:
    manifest(copy, lambda held: held.pop("about"))
    with pytest.raises(BuildError, match=r"release\.json does not say 'about'.*older version.*publish it once more"):
        cardlint.faults(copy)
    with pytest.raises(UsageError, match="is not a release"):
        cardlint.faults(tmp_path)


def test_publish_lints_what_it_wrote_and_leaves_no_release_with_a_wrong_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = publishing._write

    def careless(folder: Path, texts: dict[str, str]) -> None:
        write(folder, {name: text.replace("12 real", "13 real") for name, text in texts.items()})

    monkeypatch.setattr(publishing, "_write", careless)
    with pytest.raises(BuildError, match=r"the card does not say what the files say.*README\.md:\d+: says .*13 real"):
        published.release(tmp_path)
    assert not (tmp_path / "release").exists()


def test_publishing_again_mends_a_card_that_was_changed_by_hand(tmp_path: Path) -> None:
    made = published.release(tmp_path)
    change(made.path, "README.md", lambda text: text.replace("| twin | 1 |", "| twin | 2 |"))
    (made.path / "LICENSE.md").unlink()
    assert not published.release(tmp_path).unchanged
    assert releasecheck.check(made.path)["faults"] == []
    assert published.release(tmp_path).unchanged


def test_the_audit_is_made_again(tmp_path: Path) -> None:
    made = published.release(tmp_path).path
    said = json.loads(json.dumps(audit.audit(made, permutations=2).to_json()))
    done = published.release(tmp_path, gate=said["gate"], probes=said["probes"], audited={"permutations": 2, "pixels": False})
    proved = releasecheck.check(done.path)
    assert proved == {"release": str(made), "rows": 23, "files": len(release.listing(made)), "counted": True, "audited": True,
                      "faults": []}  # fmt: skip

    def lie(held: dict[str, Any]) -> None:
        held["gate"]["groups"] += 1
        held["probes"][0]["auc"] = 0.123

    manifest(made, lie)
    faults = "\n".join(releasecheck.check(made)["faults"])
    assert re.search(r"release\.json: the audit's 'groups' is 21, an audit of these files says 20", faults)
    assert re.search(r"release\.json: probe '.*' of equalized is .*0\.123", faults)


def test_publish_check_proves_a_release_or_names_what_is_wrong(copy: Path, tmp_path: Path) -> None:
    held = f"23 rows, {len(release.listing(copy))} files in {copy}"
    said = summaries.checked_text(releasecheck.check(copy))
    assert said == f"{held}: every hash and every number is right, no audit to compare"
    change(copy, "README.md", lambda text: text.replace("| twin | 1 |", "| twin | 2 |"))
    manifest(copy, lambda held: held["files"].update({"README.md": release.fingerprint(copy / "README.md")}))
    done = json.loads(run("publish", "--check", copy, "--json", cwd=tmp_path, code=1).stdout)
    line = (copy / "README.md").read_text(encoding="utf-8").splitlines().index("| twin | 2 |") + 1
    assert done["faults"] == [f"README.md:{line}: says '| twin | 2 |', the files say '| twin | 1 |'"]
    with pytest.raises(UsageError, match="--check writes nothing"):
        proving.publish(check=copy, repo="me/x")
    for told in ({"push": True}, {"grow": copy}, {"tag": "v1"}, {"version": "2.0.0"}, {"only": "commercial"}, {"force": True},
                 {"withhold": "nothing"}, {"public": False}, {"recipe": "folders"}, {"overwrite": True}):  # fmt: skip
        with pytest.raises(UsageError, match="leave out --"):
            proving.publish(check=copy, **told)


def test_damage_is_named_and_never_a_traceback(copy: Path, tmp_path: Path) -> None:
    (copy / "README.md").write_bytes((copy / "README.md").read_bytes().replace(b"Known limits", b"Known \xff limits"))
    said = releasecheck.check(copy)
    assert said["counted"]
    assert said["faults"][0] == "README.md: its bytes are not those published"
    assert any(fault.startswith("README.md:") and "\ufffd" in fault for fault in said["faults"][1:])
    shard = next((copy / "data" / "native").glob("test-*"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    place = shard.relative_to(copy).as_posix()
    done = run("publish", "--check", copy, cwd=tmp_path, code=1)
    assert f"{place}: its bytes are not those published" in done.stdout
    assert "its numbers not counted" in done.stdout

    def hide(held: dict[str, Any]) -> None:
        held["files"][place] = release.fingerprint(shard)
        held["digest"] = release.digest(held["files"])

    manifest(copy, hide)
    said = releasecheck.check(copy)
    assert not said["counted"]
    assert f"{place}: it is no readable Parquet file" in said["faults"][-1]


def test_a_false_count_of_withheld_rows_and_a_changelog_of_another_version_are_faults(copy: Path) -> None:
    manifest(copy, lambda held: held.update(withheld=4))
    assert "release.json: 'withheld' is 4, the files say 0" in cardlint.faults(copy)
    manifest(copy, lambda held: held.update(withheld=0))
    change(copy, "CHANGELOG.md", lambda text: text.replace("## 1.0.0", "## 1.2.0"))
    assert cardlint.faults(copy) == ["CHANGELOG.md:5: its newest version is 1.2.0, release.json is of 1.0.0"]
    change(copy, "CHANGELOG.md", lambda text: text.replace("## 1.2.0", "## 1.0.0").replace(": 23 images", ": 24 images"))
    assert cardlint.faults(copy) == ["CHANGELOG.md:7: says '24 images.', the files hold 23 rows"]
    change(copy, "CHANGELOG.md", lambda text: text.replace(": 24 images", ": 23 images"))
    manifest(copy, lambda held: held.update(previous={"version": "0.9.0", "digest": "a" * 64}))
    told = "release.json says from 0.9.0, digest aaaaaaaaaaaa"
    assert cardlint.faults(copy) == [f"CHANGELOG.md: its newest version is grown from none, {told}"]
    grown = f"## 1.0.0\n\nGrown from 0.9.0 (data digest {'a' * 64}): 23 in all.\n"
    change(copy, "CHANGELOG.md", lambda text: text.partition("## ")[0] + grown)
    assert cardlint.faults(copy) == []
    manifest(copy, lambda held: held.update(previous={"version": "0.9.0", "digest": "b" * 64}))
    assert len(cardlint.faults(copy)) == 1


def test_the_card_says_that_there_are_no_sidecars(whole: Path) -> None:
    said = "This release carries no C2PA sidecars, for either class; `native` keeps what the born bytes hold."
    assert f"- {said}\n" in (whole / "README.md").read_text(encoding="utf-8")
