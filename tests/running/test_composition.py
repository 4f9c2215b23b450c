"""The paper's recipe asks for the paper's data set: the same numbers, cell by cell, and the dry run prints them."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from pathlib import Path

import pytest
from command import run

from imaginet_build import catalog, recipe
from imaginet_build.running import summaries
from imaginet_build.running.composition import composition

PAPER: dict[tuple[str, str], dict[str, int]] = {
    ("photos", "real"): {"coco": 15_000, "imagenet": 7_500, "lsun": 7_500},
    ("photos", "synthetic"): {"progan": 7_500, "stylegan-xl": 7_500, "sd21": 7_605, "sdxl": 7_395},
    ("paintings", "real"): {"wikiart": 11_250, "danbooru": 11_250},
    ("paintings", "synthetic"): {"stylegan3": 11_250, "sd21": 2_740, "sdxl": 2_885, "animagine-xl-3.1": 5_625},
    ("faces", "real"): {"ffhq": 22_500},
    ("faces", "synthetic"): {"stylegan-xl": 11_250, "sd21": 5_640, "sdxl": 5_610},
    ("uncategorized", "real"): {"photozilla": 25_000},
    ("uncategorized", "synthetic"): {"midjourney": 12_500, "dalle3": 12_500},
}
"""arXiv 2407.20020, table 1."""


@pytest.fixture(scope="module")
def table() -> dict:
    return composition(recipe.load(catalog.pipeline("imaginet"), check=catalog.check))


def cells(table: dict) -> dict[tuple[str, str], dict[str, int]]:
    found: dict[tuple[str, str], dict[str, int]] = {}
    for row in table["rows"]:
        found.setdefault((row["category"], row["origin"]), {})[row["generator_or_source"]] = row["images"]
    return found


def test_every_cell_has_the_papers_number(table):
    assert cells(table) == PAPER


def test_the_sums_are_the_papers(table):
    assert (table["real"], table["synthetic"], table["images"]) == (100_000, 100_000, 200_000)
    assert table["sums"] == [
        {"category": "photos", "real": 30_000, "synthetic": 30_000},
        {"category": "paintings", "real": 22_500, "synthetic": 22_500},
        {"category": "faces", "real": 22_500, "synthetic": 22_500},
        {"category": "uncategorized", "real": 25_000, "synthetic": 25_000},
    ]
    assert table["equal"] is True


def test_it_agrees_with_the_facts_and_with_the_published_test_list(table, shared):
    """The table of ../shared/facts/imaginet.md, number for number; and the test list, which is a fifth of it."""
    text = (shared / "facts" / "imaginet.md").read_text(encoding="utf-8")
    for category in ("photos", "paintings", "faces", "uncategorized"):
        line = next(line for line in text.splitlines() if line.startswith(f"| {category} |"))
        for cell, origin in zip(line.split("|")[2:4], ("real", "synthetic"), strict=True):
            stated = sorted(int(n.replace(",", "")) for n in re.findall(r"\b\d{1,2},\d{3}\b", cell))
            assert stated == sorted(cells(table)[category, origin].values())
    listed: Counter[tuple[str, str]] = Counter()
    for line in (shared / "reference" / "imaginet-test-annotations.txt").read_text(encoding="utf-8").splitlines():
        *_, origin, category, _, _ = line.rsplit(",", 4)
        listed[("photos", "paintings", "faces", "uncategorized")[int(category)], ("real", "synthetic")[int(origin)]] += 1
    assert {cell: 5 * count for cell, count in listed.items()} == {cell: sum(by.values()) for cell, by in cells(table).items()}


def test_the_text_shows_every_row_and_the_check(table):
    text = summaries.composition_text(table)
    for (category, origin), by in PAPER.items():
        for name, images in by.items():
            assert re.search(rf"^{category} +{origin} +{re.escape(name)} +{images:,} ", text, re.M)
    assert "200,000 images: 100,000 real, 100,000 synthetic; every content type has as many of one as of the other" in text


@pytest.mark.parametrize(
    "command", [("run", "imaginet"), ("collect", "--recipe", "imaginet"), ("generate", "--recipe", "imaginet")]
)
def test_the_dry_run_prints_it_and_touches_nothing(command, tmp_path):
    done = run(*command, "--dry-run", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    verbs = {"run": ("collect", "generate")}.get(command[0], (command[0],))
    asked = composition(recipe.load(catalog.pipeline("imaginet")), verbs)
    assert document["composition"] == asked
    assert (document["composition"]["equal"] is True) == (command[0] == "run")
    assert list(tmp_path.iterdir()) == []


def test_the_dry_run_of_collect_keeps_to_the_source_and_the_limit_asked_for(tmp_path):
    asked = ("collect", "--recipe", "imaginet", "--dry-run", "--json")
    whole = json.loads(run(*asked, cwd=tmp_path).stdout)
    document = json.loads(run(*asked, "--source", "coco", "--limit", "7", cwd=tmp_path).stdout)
    assert {entry["source"] for entry in document["collect"]} == {"coco"} != {entry["source"] for entry in whole["collect"]}
    assert [entry["images"] for entry in document["collect"]] == [7] * len(document["collect"])
    assert document["composition"]["images"] == 7 * len(document["collect"])
    assert {row["generator_or_source"] for row in document["composition"]["rows"]} == {"coco"}
    limited = json.loads(run(*asked, "--limit", "7", cwd=tmp_path).stdout)
    assert [entry["images"] for entry in limited["collect"]] == [min(7, entry["images"]) for entry in whole["collect"]]
    said = run("collect", "--recipe", "imaginet", "--dry-run", "--source", "coca", cwd=tmp_path, code=2).stderr
    assert "no source 'coca'" in said


def test_it_needs_no_network(monkeypatch, tmp_path):
    def refuse(*words: object, **more: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert composition(recipe.load(catalog.pipeline("imaginet")))["images"] == 200_000


def test_what_is_not_known_is_not_summed_up(tmp_path):
    loaded = recipe.parse(
        {"name": "x", "collect": [{"source": "folder", "options": {"root": str(tmp_path)}}, {"source": "coco", "count": 5}]}
    )
    table = composition(loaded)
    assert [(r["category"], r["origin"], r["images"]) for r in table["rows"]] == [("photos", "real", 5), ("any", "any", None)]
    assert (table["equal"], table["real"]) == (None, 5)
    assert "all there are" in summaries.composition_text(table)


def test_halves_that_differ_are_said(tmp_path):
    loaded = recipe.parse({"name": "x", "collect": [{"source": "coco", "count": 5}],
                           "generate": [{"generator": "sdxl", "category": "photos", "count": 4}]})  # fmt: skip
    assert composition(loaded)["equal"] is False
    assert "the halves are not equal" in summaries.composition_text(composition(loaded))


def test_the_laws_of_the_paper_stand_in_it():
    loaded = recipe.load(catalog.pipeline("imaginet"))
    assert loaded.equalize.side == (256, 1024)
    images = {split: round(200_000 * share) for split, share in loaded.balance.splits.items()}
    assert (images["calibration"], images["test"]) == (80, 40_000)
    assert Path(catalog.pipeline("imaginet")).name == "imaginet.toml"
