"""A release that grows keeps every id, split, name and byte of what was there."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from growth import LAW, SETTINGS, add, begun, grown, record

from imaginet_build.balance import balance
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.publish import publish
from imaginet_build.records import make_id
from imaginet_build.releases import living, release, releasediff, robustness
from imaginet_build.releases.notices import Bars, Erratum, Notices
from imaginet_build.releases.rights import Clearance
from imaginet_build.store import Store


def decided(folder: Path) -> dict[str, str]:
    rows = release.rows(folder, "equalized")
    return dict(zip(rows["id"].to_pylist(), rows["split"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path, Path]:
    """Version 1.0.0, and 1.1.0 with a generator and a content type more."""
    root = tmp_path_factory.mktemp("living")
    store, v1 = begun(root)
    add(store, "b", ("album", range(40, 46), True), ("a-new-gan", range(6), False))
    add(store, "c", ("museum", range(4), True), ("gan-a", range(100, 104), False), category="art")
    grown(store, v1, root / "v2")
    return store, v1, root / "v2"


def test_what_was_there_is_the_same_file_and_what_is_new_has_files_of_its_own(two: tuple[Store, Path, Path]) -> None:
    _, v1, v2 = two
    old, new = (release.read_manifest(folder) for folder in (v1, v2))
    assert (old["version"], new["version"], new["previous"]) == (
        "1.0.0",
        "1.1.0",
        {"version": "1.0.0", "digest": old["digest"]},
    )
    data = {path for path in old["files"] if path.startswith("data/")}
    assert all(new["files"][path] == old["files"][path] for path in data)
    assert all((v1 / path).samefile(v2 / path) for path in data)
    added = {Path(path).name for path in new["files"] if path.startswith("data/")} - {Path(path).name for path in data}
    assert added == {f"{split}-1.1.0-00000-of-00001.parquet" for split in ("train", "test")}
    assert release.faults(v2) == []
    assert len(decided(v2)) == len(decided(v1)) + 20
    assert decided(v1).items() <= decided(v2).items()


def test_under_five_per_cent_of_the_old_bytes_are_written_again(two: tuple[Store, Path, Path]) -> None:
    found = releasediff.compare(two[1], two[2])
    assert found.nbytes["part"] >= 0.95
    assert found.nbytes["shared"] == found.before.nbytes
    assert found.rows == {"added": 20, "removed": 0, "changed": 0, "moved": 0, "same": 80}


def test_old_class_numbers_keep_their_meaning(two: tuple[Store, Path, Path]) -> None:
    old, new = (release.names(folder) for folder in two[1:])
    assert old.generators == ("real", "gan-a")
    assert new.generators == ("real", "gan-a", "a-new-gan")
    assert new.categories == ("photos", "art")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("streaming", [False, pytest.param(True, marks=pytest.mark.prove)])
def test_datasets_loads_old_and_new_files_as_one(
    two: tuple[Store, Path, Path], streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    _, _, folder = two
    for config in ("equalized", "native", "full"):
        loaded = datasets.load_dataset(str(folder), config, streaming=streaming, cache_dir=str(tmp_path))
        names = loaded["train"].features["generator"].names
        assert names == ["real", "gan-a", "a-new-gan"]
        rows = [row for split in loaded.values() for row in split]
        assert Counter(names[row["generator"]] for row in rows) == {"real": 50, "gan-a": 44, "a-new-gan": 6}
        assert all(row["image"].size >= (64, 64) for row in rows)


def test_new_rows_are_even_in_every_split_and_of_the_old_law(two: tuple[Store, Path, Path]) -> None:
    store, v1, v2 = two
    before, after = (living.read(folder) for folder in (v1, v2))
    assert before.laws["photos"] == after.laws["photos"]
    new = releasediff.without(after.rows, before.rows)
    counts = Counter(zip(*(new[name].to_pylist() for name in ("split", "content_type", "label")), strict=True))
    assert all(counts[s, c, "real"] == counts[s, c, "synthetic"] for s, c, _ in counts)
    assert before.plan.equals(after.plan.filter(pc.is_in(after.plan["id"], value_set=before.plan["id"].combine_chunks())))
    assert store.plan().filter(store.plan()["keep"]).num_rows == after.plan.num_rows


def test_the_changelog_counts_what_came(two: tuple[Store, Path, Path]) -> None:
    text = (two[2] / "CHANGELOG.md").read_text()
    assert text.index("## 1.1.0") < text.index("## 1.0.0")
    assert "20 images added, 0 withdrawn, 0 put right (errata.csv), 100 in all" in text
    assert "| photos | synthetic | a-new-gan | 6 | 0 |" in text
    assert "New in `generator`, numbered after the older ones: a-new-gan." in text


def test_a_third_version_grows_from_the_second_and_a_version_without_news_is_the_same(
    two: tuple[Store, Path, Path], tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(two[0].root, root / "w")
    store = Store(root / "w")
    same = grown(store, two[2], root / "same")
    assert (same.version, same.added, same.digest) == ("1.1.0", 0, release.read_manifest(two[2])["digest"])
    assert (root / "same" / "CHANGELOG.md").read_bytes() == (two[2] / "CHANGELOG.md").read_bytes()
    add(store, "d", ("album", range(50, 53), True), ("gan-a", range(50, 53), False))
    said = grown(store, two[2], root / "v3", version="2.0.0")
    assert (said.version, said.added, said.rewritten) == ("2.0.0", 6, 0)
    names = {path.name for path in (root / "v3" / "data" / "native").glob("train-*")}
    assert {"train-1.1.0-00000-of-00001.parquet", "train-2.0.0-00000-of-00001.parquet"} <= names
    assert (root / "v3" / "CHANGELOG.md").read_text().count("\n## ") == 3


def test_a_newcomer_that_ties_two_splits_together_stays_out(tmp_path: Path) -> None:
    store, v1 = begun(tmp_path)
    where = decided(v1)
    photo = next(n for n in range(40) if where[make_id("album", n)] == "train")
    fake = next(n for n in range(40) if where[make_id("gan-a", n)] == "test")
    rows = [
        record("gan-b", 0, False, group=f"album {photo}", prompt=f"photos by gan-a {fake}"),
        record("album", 90, True),
        record("gan-b", 1, False),
    ]
    store.write_part("collect", "b", [row for row, _ in rows], [data for _, data in rows])
    grown(store, v1, tmp_path / "v2")
    torn = next(row for row in store.plan().to_pylist() if row["id"] == make_id("gan-b", 0))
    assert (torn["reason"], torn["detail"]) == ("split-conflict", "images of its group stand in test and train since 1.0.0")
    assert where.items() <= decided(tmp_path / "v2").items()
    assert len(decided(tmp_path / "v2")) == 82


def test_a_newcomer_follows_its_group(tmp_path: Path) -> None:
    store, v1 = begun(tmp_path)
    where = decided(v1)
    rows = []
    for split in ("train", "test"):
        n = next(n for n in range(40) if where[make_id("album", n)] == split)
        rows += [record("gan-b", n, False, group=f"album {n}"), record("album", 100 + n, True, group=f"album {n}")]
    store.write_part("collect", "b", [row for row, _ in rows], [data for _, data in rows])
    grown(store, v1, tmp_path / "v2")
    table = release.rows(tmp_path / "v2", "native")
    new = table.filter(
        pc.invert(pc.is_in(table["id"], value_set=release.rows(v1, "native")["id"].combine_chunks()))
    ).to_pylist()
    assert len(new) == 4
    groups = dict(zip(table["group"].to_pylist(), table["split"].to_pylist(), strict=True))
    assert all(groups[row["group"]] == row["split"] for row in new)
    assert Counter(row["split"] for row in new) == {"train": 2, "test": 2}


def test_a_twin_of_what_is_published_stays_out_whoever_is_larger(tmp_path: Path) -> None:
    store, v1 = begun(tmp_path)
    row, data = record("album", 3, True)
    store.write_part("collect", "b", [row | {"id": make_id("0", 0), "group": "other"}], [data])
    grown(store, v1, tmp_path / "v2")
    plan = {row["id"]: row for row in store.plan().to_pylist()}
    assert (plan[make_id("album", 3)]["keep"], plan[make_id("0", 0)]["reason"]) == (True, "twin")


def test_a_target_counts_what_is_in_already(tmp_path: Path) -> None:
    store, v1 = begun(tmp_path)
    add(store, "b", ("album", range(40, 80), True), ("gan-b", range(40), False))
    balance(store, SETTINGS.model_copy(update={"per_cell": 45}), LAW, 0, previous=living.read(v1))
    assert store.plan().filter(store.plan()["keep"]).num_rows == 90


def test_a_withdrawn_row_goes_from_its_own_files_alone(tmp_path: Path) -> None:
    store, v1 = begun(tmp_path)
    name = make_id("gan-a", 7)
    bars = Bars({name: ("taken-down", "on request")})
    before = living.read(v1)
    balance(store, SETTINGS, LAW, 0, bars, before)
    said = publish(store, tmp_path / "v2", previous=before.without({name}), rows_per_file=10)
    assert (said.version, said.withdrawn, said.rows) == ("1.1.0", 1, 79)
    found = releasediff.compare(v1, tmp_path / "v2")
    assert (found.files["rewritten"], found.files["new"], found.files["gone"]) == (2, 0, 0)
    assert found.rows == {"added": 0, "removed": 1, "changed": 0, "moved": 0, "same": 79}
    assert name.encode() not in b"".join(
        p.read_bytes() for p in (tmp_path / "v2").rglob("*") if p.is_file() and "rejects" not in p.name
    )
    assert release.faults(tmp_path / "v2") == []


def test_one_withdrawn_row_costs_less_than_five_per_cent_of_the_old_bytes(tmp_path: Path) -> None:
    """One file of each view, of as many as a release of some size has: here three rows, usually thousands."""
    store, v1 = begun(tmp_path, rows=40, rows_per_file=3)
    name = make_id("gan-a", 7)
    before = living.read(v1)
    balance(store, SETTINGS, LAW, 0, Bars({name: ("taken-down", "on request")}), before)
    said = publish(store, tmp_path / "v2", previous=before.without({name}), rows_per_file=3)
    found = releasediff.compare(v1, tmp_path / "v2")
    assert (said.withdrawn, found.files["rewritten"], found.files["gone"]) == (1, 2, 0)
    assert 0.95 < found.nbytes["part"] < 1
    assert 0 < said.rewritten < 0.05 * found.before.nbytes


def test_an_erratum_puts_an_older_row_right_in_its_own_files(tmp_path: Path) -> None:
    store, v1 = begun(tmp_path, rows=12)
    name = make_id("gan-a", 3)
    errata = (Erratum(name, "licence", "CC BY 4.0"), Erratum(make_id("gan-a", 4), "licence", "CC0-1.0"))
    before = living.read(v1)
    balance(store, SETTINGS, LAW, 0, previous=before)
    cleared = Clearance(notices=Notices((), errata))
    said = publish(store, tmp_path / "v2", previous=before, cleared=cleared, rows_per_file=4)
    assert (said.version, said.added, said.withdrawn) == ("1.1.0", 0, 0)
    found = releasediff.compare(v1, tmp_path / "v2")
    assert (found.columns, found.rows["changed"], found.files["rewritten"]) == ({"licence": 1}, 1, 2)
    rows = {row["id"]: row["licence"] for row in release.rows(tmp_path / "v2", "equalized").to_pylist()}
    assert rows[name] == "CC-BY-4.0"
    assert "1 put right (errata.csv)" in (tmp_path / "v2" / "CHANGELOG.md").read_text()


def test_the_robustness_set_is_frozen_but_for_what_is_withdrawn(tmp_path: Path) -> None:
    wanted = robustness.Wanted("social")
    store, v1 = begun(tmp_path, rows=8, perturbed=wanted)
    files = [p for p in release.read_manifest(v1)["files"] if p.startswith("data/robustness/")]
    add(store, "b", ("album", range(40, 44), True), ("gan-b", range(4), False))
    grown(store, v1, tmp_path / "v2", perturbed=wanted)
    assert files
    assert all((v1 / path).samefile(tmp_path / "v2" / path) for path in files)
    name = next(row["id"] for row in release.rows(v1, "native").to_pylist() if row["split"] == "test")
    before = living.read(v1)
    balance(store, SETTINGS, LAW, 0, Bars({name: ("taken-down", "on request")}), before)
    publish(store, tmp_path / "v3", previous=before.without({name}), perturbed=wanted, rows_per_file=10)
    parents = [n for path in files for n in pq.read_table(tmp_path / "v3" / path)["parent_id"].to_pylist()]
    older = [n for path in files for n in pq.read_table(v1 / path)["parent_id"].to_pylist()]
    assert parents == [n for n in older if n != name] != older


def test_what_cannot_be_kept_is_refused_in_words(two: tuple[Store, Path, Path], tmp_path: Path) -> None:
    store, v1, v2 = two
    before = living.read(v1)
    with pytest.raises(UsageError, match=r"has the views equalized, native, and publish.views asks for native"):
        living.refuse(before, ["native"], LAW.model_dump(mode="json"))
    with pytest.raises(UsageError, match=r"equalize\.step: 32 -> 16"):
        living.refuse(before, before.views, LAW.model_copy(update={"step": 16}).model_dump(mode="json", exclude_none=True))
    living.refuse(before, before.views, LAW.model_dump(mode="json", exclude_none=True))
    for wrong, said in (
        ("1.0.0", "does not come after 1.0.0"),
        ("0.9.0", "does not come after"),
        ("v2", "write three numbers"),
    ):
        with pytest.raises(UsageError, match=said):
            living.next_version(before, True, wrong)
    shutil.copytree(v1, tmp_path / "bad")
    shard = next((tmp_path / "bad" / "data" / "native").glob("test-*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match="not as it was published"):
        living.read(tmp_path / "bad")
    with pytest.raises(UsageError, match="is not a release"):
        living.read(tmp_path)
    balance(store, SETTINGS, LAW, 1)
    with pytest.raises(BuildError, match=r"the plan decides otherwise than .*balance --from"):
        publish(store, tmp_path / "r", previous=living.read(v2))
    balance(store, SETTINGS, LAW, 0, previous=before)


def test_an_older_row_that_is_said_to_be_something_else_stays_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, v1 = begun(tmp_path, rows=12)
    before, name = living.read(v1), make_id("album", 3)
    balance(store, SETTINGS, LAW, 0, previous=before)
    rows = store.plan().to_pylist()
    next(row for row in rows if row["id"] == name)["category"] = "art"
    store.write_plan(rows)
    said = publish(store, tmp_path / "v2", previous=before, rows_per_file=10)
    assert (said.digest, said.added) == (before.manifest["digest"], 0)
    assert f"1 rows of {v1} are of another category by now, such as {name} (art, published as photos)" in caplog.text


def test_a_grown_release_is_not_written_anew_by_itself(two: tuple[Store, Path, Path]) -> None:
    held = release.read_manifest(two[2])
    with pytest.raises(UsageError, match=r"is 1\.1\.0, grown from 1\.0\.0"):
        publish(two[0], two[2], rows_per_file=10)
    assert release.read_manifest(two[2]) == held


def test_images_that_changed_under_a_published_name_are_refused(tmp_path: Path) -> None:
    store, v1 = begun(tmp_path, rows=12)
    part = next((store.root / "parts").rglob("*.parquet"))
    rows = pq.read_table(part).to_pylist()
    images = [row.pop("image") for row in rows]
    part.unlink()
    rows[0]["sha256"] = "0" * 64
    store.write_part("collect", "z", rows, images)
    with pytest.raises(UsageError, match=r"1 images are not those that .* was made of"):
        balance(store, SETTINGS, LAW, 0, previous=living.read(v1))


def test_a_release_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    _, v1 = begun(tmp_path, rows=12)
    plan = pq.read_table(v1 / living.PLAN)
    split = ["test" if name == "train" else "train" for name in plan["split"].to_pylist()]
    pq.write_table(plan.set_column(plan.schema.get_field_index("split"), plan.schema.field("split"), [split]), v1 / living.PLAN)
    manifest = release.read_manifest(v1)
    manifest["files"][living.PLAN] = release.fingerprint(v1 / living.PLAN)
    (v1 / "release.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="contradicts itself: 24 rows"):
        living.read(v1)


def test_old_rows_whose_images_are_gone_stay_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, v1 = begun(tmp_path, rows=12)
    fresh = Store(tmp_path / "fresh")
    add(fresh, "b", ("album", range(40, 46), True), ("gan-b", range(6), False))
    said = grown(fresh, v1, tmp_path / "v2")
    assert (said.rows, said.added) == (36, 12)
    assert "24 of 24 rows" in caplog.text
    assert decided(v1).items() <= decided(tmp_path / "v2").items()


def grow_in_process(root: Path) -> None:
    publish(Store(root / "w"), root / "v2", previous=living.read(root / "v1"), rows_per_file=1)


@pytest.mark.prove
def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    store, v1 = begun(tmp_path, rows=12)
    add(store, "b", ("album", range(40, 52), True), ("gan-b", range(12), False))
    before = living.read(v1)
    balance(store, SETTINGS, LAW, 0, previous=before)
    publish(store, tmp_path / "whole", previous=before, rows_per_file=1)
    context = multiprocessing.get_context("spawn")
    for wait in (0.0, 0.05):
        process = context.Process(target=grow_in_process, args=(tmp_path,))
        process.start()
        end = time.monotonic() + 60
        while not list(tmp_path.glob("v2.partial/data/**/*-1.1.0-*")) and process.is_alive() and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(wait)
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert release.faults(v1) == []
    publish(store, tmp_path / "v2", previous=before, rows_per_file=1)
    assert release.read_manifest(tmp_path / "v2") == release.read_manifest(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v1", "v2", "w", "whole"]
