"""A prompt never lands in two splits, whichever generators drew it, from a shared list or from one set of templates."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest
from inline import Inline
from pictures import png, write

from imaginet_build import engine
from imaginet_build.balance import balance
from imaginet_build.collect import collect
from imaginet_build.engine import Pool
from imaginet_build.generate import generate
from imaginet_build.prompts import expand
from imaginet_build.prompts import write as write_list
from imaginet_build.recipe import Balance, Collect, Equalize, Generate
from imaginet_build.store import Store

CARD = 'adapter = "painter:Painter"\nlicence = "CC0-1.0"\nrevision = "1"\nfamily = "{family}"\nwidth = 64\nheight = 64\n'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three generators of two families and a folder of real images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(engine, "run", Inline())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, family in (("one", "sd"), ("two", "sd"), ("three", "gan")):
        write(tmp_path / "manifests" / "generators" / f"{name}.toml", CARD.format(family=family))
    for number in range(72):
        write(tmp_path / "images" / f"{number:02}.png", png(number, 64, 64))
    return tmp_path


def splits_of_prompts(place: Path, prompts: str, others: str = "") -> dict[str, set[str]]:
    """Prompt -> the splits it lies in, when three generators drew the first 24, 24 and 16 of `prompts` (the
    third of `others`, where given)."""
    store = Store(place / "work")
    options = {"root": "images", "origin": "real", "category": "photos"}
    collect(store, [Collect(source="folder", options=options)], 0, Pool(workers=1))
    entries = [
        Generate(generator=name, category="photos", count=count, batch=4, prompts=listed)
        for name, count, listed in (("one", 24, prompts), ("two", 24, prompts), ("three", 16, others or prompts))
    ]
    generate(store, entries, 0, Pool(workers=1), trust=True)
    balance(store, Balance(splits={"train": 0.6, "calibration": 0.2, "test": 0.2}), Equalize(side=(32, 64), step=32), 0)
    of = {row["id"]: row["prompt"] for row in store.facts(["prompt"]).to_pylist() if row["prompt"]}
    found: dict[str, set[str]] = defaultdict(set)
    for row in store.plan().to_pylist():
        if row["keep"] and row["id"] in of:
            found[" ".join(of[row["id"]].lower().split())].add(row["split"])
    return found


def test_a_shared_list(place: Path) -> None:
    write_list(expand("photos", 24, 5), place / "list.jsonl")
    found = splits_of_prompts(place, "list.jsonl")
    assert len(found) == 24
    assert {len(splits) for splits in found.values()} == {1}
    assert set().union(*found.values()) == {"train", "calibration", "test"}


def test_two_lists_that_write_the_same_in_two_ways(place: Path) -> None:
    texts = [prompt.text for prompt in expand("photos", 24, 5)]
    write(place / "one.txt", "\n".join(texts) + "\n")
    write(place / "two.txt", "\n".join(text.capitalize().replace(", ", ",  ") for text in texts) + "\n")
    found = splits_of_prompts(place, "one.txt", "two.txt")
    assert len(found) == 24
    assert {len(splits) for splits in found.values()} == {1}


def test_one_set_of_templates(place: Path) -> None:
    found = splits_of_prompts(place, "photos")
    assert len(found) == 24, "generators of one recipe are asked for the same prompts"
    assert {len(splits) for splits in found.values()} == {1}
