"""Two plans side by side: what was added, removed, moved to another split, or is seen in another view."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import run
from pictures import png

from imaginet_build import images
from imaginet_build.balancing import plandiff, planfile
from imaginet_build.cli import main
from imaginet_build.errors import UsageError
from imaginet_build.records import ORIGINS, PLAN_SCHEMA
from imaginet_build.store import Store


def plan(path: Path, rows: list[dict[str, object]], **made_from: object) -> Path:
    """A plan of rows that say only what matters here."""
    plain = {
        "keep": True, "category": "photos", "origin": "real", "generator_or_source": "camera", "split": "train", "group": "g",
        "left": 0, "top": 0, "width": 64, "height": 64, "codec": "jpeg", "quality": 80, "subsampling": "4:2:0",
    }  # fmt: skip
    full = [dict.fromkeys(PLAN_SCHEMA.names) | plain | row for row in rows]
    metadata = {planfile.KEY: json.dumps(made_from).encode()} if made_from else None
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(full, schema=PLAN_SCHEMA).replace_schema_metadata(metadata), path)
    return path


def cell(origin: str, maker: str, **counts: int) -> dict[str, object]:
    return {"category": "photos", "origin": origin, "generator_or_source": maker, **counts}


def test_every_kind_of_difference_is_counted_in_its_cell(tmp_path: Path) -> None:
    old = plan(tmp_path / "old.parquet", [{"id": name} for name in "abcde"] + [{"id": "x", "keep": False}])
    new = plan(
        tmp_path / "new.parquet",
        [
            {"id": "a"},
            {"id": "b", "split": "test"},
            {"id": "c", "left": 8},
            {"id": "d", "split": "test", "first_quality": 90},
            {"id": "e", "keep": False},
            {"id": "x", "origin": "synthetic", "generator_or_source": "sdxl"},
        ],
    )
    found = plandiff.compare(plandiff.read(new), plandiff.read(old)).to_json()
    assert {kind: found[kind] for kind in plandiff.KINDS} == {"added": 1, "removed": 1, "moved": 2, "changed_view": 2}
    assert found["same"] is False
    assert found["cells"] == [
        cell("real", "camera", added=0, removed=1, moved=2, changed_view=2),
        cell("synthetic", "sdxl", added=1, removed=0, moved=0, changed_view=0),
    ]
    back = plandiff.compare(plandiff.read(old), plandiff.read(new)).rows
    assert (back["added"], back["removed"]) == (1, 1)


def test_settings_and_facts_that_differ_are_named(tmp_path: Path) -> None:
    said = {"seed": 0, "balance": {"per_cell": "max", "splits": {"train": 1.0}}, "equalize": {}, "facts": "f"}
    one = plandiff.read(plan(tmp_path / "one.parquet", [{"id": "a"}], **said))
    two = plandiff.read(
        plan(tmp_path / "two.parquet", [{"id": "a"}], **(said | {"seed": 7, "balance": {"per_cell": 30}, "facts": "g"}))
    )
    found = plandiff.compare(two, one)
    assert found.settings == ('balance.per_cell: "max" -> 30', "balance.splits.train: 1.0 -> (not set)", "seed: 0 -> 7")
    assert found.facts == "changed"
    assert plandiff.compare(one, one).to_json() | {"other": ""} == {
        "other": "", "same": True, "settings": [], "facts": "same", "cells": [],
        "added": 0, "removed": 0, "moved": 0, "changed_view": 0,
    }  # fmt: skip


def test_what_is_no_plan_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no plan in .*nowhere"):
        plandiff.read(tmp_path / "nowhere")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(UsageError, match="cannot be read as a plan"):
        plandiff.read(tmp_path / "text.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match="is no plan: it has no column category"):
        plandiff.read(tmp_path / "other.parquet")


def test_a_work_folder_its_plan_and_its_release_hold_the_same_decisions(quickstart: Path) -> None:
    work = quickstart / "work/quickstart"
    by_file, by_folder, by_release = (plandiff.read(place) for place in (work / "plan.parquet", work, work / "release"))
    for one in (by_folder, by_release):
        assert not any(plandiff.compare(by_file, one).rows.values())
        assert not any(plandiff.compare(one, by_file).rows.values())
    assert by_release.known == ["width", "height"]
    assert by_file.table.num_rows == by_release.table.num_rows > 100


def test_the_command_compares_with_what_was_before(quickstart: Path, tmp_path: Path) -> None:
    work = quickstart / "work/quickstart"
    same = json.loads(run("balance", "--work", work, "--diff", work, "--json", cwd=tmp_path).stdout)
    assert (same["same"], same["facts"], same["cells"]) == (True, "same", [])
    assert "the same plan" in run("balance", "--work", work, "--diff", work / "release", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("option", "code", "said"),
    [
        (("--reject-contaminated",), 2, "--reject-contaminated needs something to compare with"),
        (("--sketch", "nowhere.sketch"), 2, "nowhere.sketch"),
        (("--verify",), 1, "facts of image"),
    ],
)
def test_a_comparison_takes_the_options_of_balance(
    option: tuple[str, ...], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of them refuses here, which it cannot where it is not heard."""
    store, facts = Store(tmp_path), asdict(images.measure(png("a")))
    known = dict.fromkeys(("licence", "revision", "params", "extension"), "") | {"category": "photos"}
    rows = [facts | known | {"id": o, "group": o, "origin": o, "metadata": ""} | {"width": 121} for o in ORIGINS]
    store.write_part("collect", "one", rows, [png("a")] * 2)
    store.write_plan([])
    with pytest.raises(SystemExit) as ended:
        main(["balance", "--work", str(tmp_path), "--diff", str(store.plan_path), *option])
    told = capsys.readouterr().err
    assert (ended.value.code, said in told) == (code, True), told
