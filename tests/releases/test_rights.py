"""Each image's terms, a release under a constraint, and one without the pixels that may not travel."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from licensed import Built, equal, images_of, pictures, rows, session
from pictures import jpeg, png

from imaginet_build.balancing import planfile
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.releases import release, rights
from imaginet_build.releases.licences import Rights
from imaginet_build.running import clearance, stages
from imaginet_build.running.clearance import Asked

pytestmark = pytest.mark.usefixtures("no_processes")


# --- terms ------------------------------------------------------------------------------------------------------------


def card(folder: Path, name: str, **keys: object) -> None:
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    (folder / "manifests" / "sources").mkdir(parents=True, exist_ok=True)
    adapter = 'adapter = "imaginet_build.collectors.folder:Folder"\n'
    (folder / "manifests" / "sources" / f"{name}.toml").write_text(adapter + text)


def test_the_cards_word_binds_and_an_images_own_licence_decides_where_it_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    terms = {"licence": "LicenseRef-agreement", "revision": "local", "origin": "real"}
    card(tmp_path, "closed", **terms, redistribute=False, commercial=False)
    card(tmp_path, "open", **terms, redistribute=True)
    card(tmp_path, "silent", **terms)
    for name in ("closed", "open", "silent"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "plain.jpg").write_bytes(jpeg(f"{name} plain", 96, 96))
        (folder / "own.jpg").write_bytes(jpeg(f"{name} own", 96, 96))
        (folder / "index.csv").write_text("path,origin,licence\nplain.jpg,real,\nown.jpg,real,CC BY-NC 4.0\n")
    made = session(tmp_path / "work", *({"source": n, "options": {"root": n}} for n in ("closed", "open", "silent")))
    stages.collect(made)
    known = rights.claims(made.store, made.recipe)
    keys = {row["id"]: (row["source_key"], row["group"]) for row in made.store.facts().to_pylist()}
    said = {(claim.card.name if claim.card else "", keys[name][0]): claim for name, claim in known.items()}
    assert {place: claim.rights for place, claim in said.items()} == {
        ("closed", "plain.jpg"): Rights(False, False),
        ("closed", "own.jpg"): Rights(False, False),
        ("open", "plain.jpg"): Rights(True, None),
        ("open", "own.jpg"): Rights(True, False),
        ("silent", "plain.jpg"): Rights(None, None),
        ("silent", "own.jpg"): Rights(True, False),
    }
    assert {claim.licence for claim in said.values()} == {"LicenseRef-agreement", "CC-BY-NC-4.0"}


def test_a_picture_made_from_a_photograph_is_bound_by_the_photographs_licence_too(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg("aligned", 96, 96))
    (folder / "index.csv").write_text("path,origin,licence\na.jpg,real,CC BY-NC 4.0\n")
    made = session(tmp_path / "work", {"source": "folder", "options": {"root": str(folder)}})
    stages.collect(made)
    real = made.store.facts().to_pylist()[0]
    drawn = real | {"id": "f" * 32, "origin": "synthetic", "generator": "tiny-vae", "source": None, "source_key": None}
    made.store.write_part("generate", "one", [drawn | {"licence": "Apache-2.0", "pair_id": real["id"]}], [png("aligned")])
    claim = rights.claims(made.store, made.recipe)["f" * 32]
    assert (claim.licence, claim.rights) == ("Apache-2.0 AND CC-BY-NC-4.0", Rights(True, False))
    lost = rights.claims(made.store, session(tmp_path / "other").recipe)["f" * 32]
    assert lost.licence == "Apache-2.0 AND CC-BY-NC-4.0"


def test_an_entry_of_a_recipe_may_state_the_licence_of_images_that_state_none(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 8)
    made = session(tmp_path / "work", {"source": "folder", "licence": "cc0-1.0", "options": {"root": str(folder)}})
    stages.collect(made)
    counts = Counter(claim.licence for claim in rights.claims(made.store, made.recipe).values())
    assert counts["CC0-1.0"] == 4
    assert "LicenseRef-not-stated" not in counts


# --- a constraint -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("only", "licences"), [
    ("redistributable", {"CC-BY-2.0", "CC-BY-NC-2.0", "MIT", "CC0-1.0"}), ("commercial", {"CC-BY-2.0", "MIT", "CC0-1.0"}),
])  # fmt: skip
def test_only_what_is_allowed_is_in_the_release_balanced_anew_and_what_it_costs_is_said(
    built: Built, only: Any, licences: set[str]
) -> None:
    published, _ = stages.publish(built.session, asked=Asked(only=only))
    held = rows(published.path)
    assert {row["licence"] for row in held} <= licences
    assert {row["licence"] for row in held if row["label"] == "real"} == licences - {"MIT", "CC0-1.0"}
    equal(published.path)
    lost = published.lost
    assert lost is not None
    assert (lost["before"], lost["after"]) == (48, len(held))
    assert sum(cell["before"] - cell["after"] for cell in lost["cells"]) == 48 - len(held)
    left_out = Counter(row["reason"] for row in pq.read_table(published.path / "rejects.parquet").to_pylist())
    assert left_out["not-redistributable"] == 24
    assert left_out["not-commercial"] == (6 if only == "commercial" else 0)
    assert release.read_manifest(published.path)["only"] == only


@pytest.mark.prove
def test_the_same_constraint_again_changes_nothing_and_without_it_everything_is_back(built: Built) -> None:
    first, _ = stages.publish(built.session)
    under, _ = stages.publish(built.session, asked=Asked(only="redistributable"))
    again, _ = stages.publish(built.session, asked=Asked(only="redistributable"))
    assert again.unchanged
    assert again.lost == under.lost
    after, _ = stages.publish(built.session)
    assert after.digest == first.digest
    assert planfile.made_from(built.session.store.plan_path)["balance"]  # type: ignore[index]


@pytest.mark.prove
def test_a_recipe_may_ask_for_the_constraint_and_then_balance_keeps_to_it(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p")
    made = session(
        tmp_path / "work", {"source": "folder", "options": {"root": str(folder)}}, publish={"only": "redistributable"}
    )
    stages.collect(made)
    assert stages.balance(made).rejected["not-redistributable"] == 24
    assert {row["licence"] for row in rows(stages.publish(made)[0].path)} == {"CC-BY-2.0", "CC-BY-NC-2.0", "MIT", "CC0-1.0"}


# --- pixels that stay --------------------------------------------------------------------------------------------------


def test_rows_whose_pixels_may_not_travel_say_where_these_are_to_be_had(
    built: Built, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = stages.publish(built.session)
    sent, _ = stages.publish(built.session, tmp_path / "sent", asked=Asked(withhold="unknown"))
    assert (whole.withheld, sent.withheld) == (0, 24)
    assert "24 of 48 images may not be passed on" in caplog.text
    manifest = release.read_manifest(sent.path)
    assert (manifest["withheld"], manifest["complete"]) == (24, whole.digest)
    complete = {row["id"]: row for row in rows(whole.path)}
    born = {row["id"]: row for row in built.session.store.facts().to_pylist()}
    for view in release.VIEWS:
        pixels = images_of(sent.path, view)
        for row in rows(sent.path, view):
            if row["licence"] in ("LicenseRef-not-stated", "LicenseRef-all-rights-reserved"):
                assert pixels[row["id"]] is None
                hint = json.loads(row["fetch"])
                assert hint["card"] == "folder"
                assert hint["adapter"] == "imaginet_build.collectors.folder:Folder"
                assert hint["source_key"] == row["source_key"]
                assert (hint["sha256"], hint["nbytes"]) == (row["source_sha256"], born[row["id"]]["nbytes"])
                assert hint["view"]["width"] == 64
            else:
                assert row["fetch"] is None
                assert pixels[row["id"]]["bytes"]
            if view == "equalized":
                assert row | {"fetch": None} == complete[row["id"]]
    assert str(built.pictures) not in json.dumps([row["fetch"] for row in rows(sent.path)])


def test_only_what_is_forbidden_stays_where_the_call_says_nothing_and_what_is_unknown_is_told(
    built: Built, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sent, _ = stages.publish(built.session, tmp_path / "sent")
    assert sent.withheld == 0
    assert "of 24 of 48 images nothing says that they may be passed on" in caplog.text
    assert Asked(public=True).holding(built.session.recipe, True) == "unknown"
    assert Asked().holding(built.session.recipe, False) == "nothing"


@pytest.mark.prove
def test_a_release_that_lacks_pixels_leaves_the_work_folder_by_a_folder_of_its_own(built: Built) -> None:
    sent, _ = stages.publish(built.session, to="me/it", asked=Asked(withhold="unknown"))
    assert sent.path == built.session.store.root / "outgoing"
    kept = release.read_manifest(built.session.store.root / "release")
    assert kept["withheld"] == 0


def test_it_loads_and_is_audited_and_learned_from_by_what_it_holds(
    built: Built, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import datasets

    from imaginet_build import audit
    from imaginet_build.baseline import data

    sent, _ = stages.publish(built.session, tmp_path / "sent", asked=Asked(withhold="unknown"))
    for streaming in (False, True):
        loaded = datasets.load_dataset(str(sent.path), split="train", streaming=streaming, cache_dir=str(tmp_path / "cache"))
        seen = list(loaded)
        assert {row["image"] is None for row in seen} == {True, False}
        assert all((row["image"] is None) == (row["fetch"] is not None) for row in seen)
    result = audit.audit(sent.path, pixels=False, permutations=0)
    assert not result.unreadable
    assert "48 of 96 rows" in caplog.text
    assert "hold no pixels" in caplog.text
    splits = data.splits(sent.path)
    assert sum(map(len, splits.values())) == 24
    assert splits["train"].read(0)
    assert "24 rows of" in caplog.text


# --- taken down, put right --------------------------------------------------------------------------------------------


def test_what_is_taken_down_is_gone_from_this_and_every_later_release_and_both_classes_stay_equal(
    built: Built, caplog: pytest.LogCaptureFixture
) -> None:
    store = built.session.store
    first, _ = stages.publish(built.session)
    victim, other = rows(first.path)[:2]
    (store.root / "takedown.csv").write_text(
        f"id,source_key,sha256,reason,note\n{victim['id']},,,privacy,Jane Doe wrote\n,,{other['sha256']},,\n0123typo,,,,\n"
    )
    second, _ = stages.publish(built.session)
    assert stages.publish(built.session)[0].digest == second.digest
    assert {line.partition(" names")[0] for line in caplog.messages if "names no image" in line} == {"takedown.csv, line 4"}
    assert "0123typo" not in pq.read_table(second.path / "rejects.parquet")["id"].to_pylist()
    gone = {victim["id"], other["id"]}
    assert gone.isdisjoint(row["id"] for row in rows(second.path))
    equal(second.path)
    told = [row for row in pq.read_table(second.path / "rejects.parquet").to_pylist() if row["id"] in gone]
    assert [row["reason"] for row in told] == ["taken-down"] * 2
    assert {row["source_key"] for row in told} == {None}
    for path in second.path.rglob("*"):
        if path.is_file():
            assert b"Jane Doe" not in path.read_bytes()
    assert victim["source_key"] not in (second.path / "takedown.csv").read_text()
    (store.root / "takedown.csv").unlink()
    third, _ = stages.publish(built.session)
    assert third.digest == second.digest
    assert release.faults(third.path) == []


def test_an_erratum_puts_a_row_right_and_its_rights_with_it(built: Built) -> None:
    store = built.session.store
    free = next(row for row in rows(stages.publish(built.session)[0].path) if row["licence"] == "CC-BY-2.0")
    (store.root / "errata.csv").write_text(f"id,column,value,note\n{free['id']},licence,CC BY-ND 2.0,asked its author\n")
    known = clearance.cleared(built.session)
    assert known.claims[free["id"]].rights.redistribute is False
    published, _ = stages.publish(built.session)
    held = {row["id"]: row for row in rows(published.path)}
    assert held[free["id"]]["licence"] == "CC-BY-ND-2.0"
    assert "asked its author" in (published.path / "errata.csv").read_text()
    (store.root / "errata.csv").unlink()
    assert {row["id"]: row for row in rows(stages.publish(built.session)[0].path)} == held


def test_a_forbidden_source_travels_as_hints_by_itself_and_a_constraint_that_leaves_nothing_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the card alone, without an option: a closed source of photographs beside synthetic images under CC0."""
    monkeypatch.chdir(tmp_path)
    card(tmp_path, "closed", licence="LicenseRef-agreement", revision="local", origin="real", redistribute=False)
    folder = pictures(tmp_path / "p", 24)
    (folder / "index.csv").unlink()
    made = session(
        tmp_path / "work",
        {"source": "closed", "category": "photos", "options": {"root": "p/real"}},
        {"source": "folder", "category": "photos", "licence": "cc0", "options": {"root": "p/synthetic", "origin": "synthetic"}},
    )
    stages.collect(made)
    stages.balance(made)
    whole, _ = stages.publish(made)
    sent, _ = stages.publish(made, tmp_path / "sent")
    assert (whole.withheld, sent.withheld) == (0, 12)
    assert release.read_manifest(whole.path)["must_not_travel"] == 12
    assert all((row["fetch"] is None) == (row["label"] == "synthetic") for row in rows(sent.path))
    assert sent.likeness["equalized"]["ks"]["quality"] is None
    assert "| LicenseRef-agreement | not known | no | not known | 12 | 0 |" in (sent.path / "LICENSE.md").read_text()
    with pytest.raises(UsageError, match=r"but of no real ones; 24 rows hold none.*build-imaginet rebuild"):
        stages.audit(str(sent.path), made)
    with pytest.raises(BuildError, match=r"only what is redistributable: .*12 LicenseRef-agreement"):
        stages.publish(made, asked=Asked(only="redistributable"))
    assert stages.publish(made)[0].digest == whole.digest
