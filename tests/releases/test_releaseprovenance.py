"""What a release was made by lies in it, as it was used, and names no place of the machine that made it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from growth import LAW, SETTINGS, add, begun

from imaginet_build import recipe
from imaginet_build.balance import balance
from imaginet_build.publish import Told, publish
from imaginet_build.releases import living, releaseprovenance


def asked(tmp_path: Path) -> recipe.Recipe:
    (tmp_path / "my-prompts.txt").write_text("a red barn\n")
    return recipe.parse(
        {
            "name": "mine",
            "variables": {"photos": str(tmp_path / "private" / "photos")},
            "engine": {"workers": 3},
            "collect": [
                {"source": "folder", "options": {"root": "{photos}"}},
                {"source": "folder", "options": {"root": str(tmp_path / "secret" / "holiday")}},
            ],
            "generate": [
                {"generator": "sdxl", "category": "photos", "count": 2},
                {"generator": "tiny-gan", "category": "photos", "count": 2, "prompts": str(tmp_path / "my-prompts.txt")},
            ],
            "audit": {"sketches": [str(tmp_path / "sketches" / "coco.parquet")]},
        }
    )


def test_the_recipe_asks_the_same_and_names_no_place(tmp_path: Path) -> None:
    store, _ = begun(tmp_path, rows=4)
    wanted = asked(tmp_path)
    found = releaseprovenance.texts(wanted, store)
    assert not [name for name, text in found.items() if str(tmp_path) in text]
    text = tomllib.loads(found["recipe.toml"])
    assert text["variables"] == {"photos": "path/to/photos"}
    assert [one["options"]["root"] for one in text["collect"]] == ["{photos}", "path/to/holiday"]
    assert "engine" not in text
    plain = wanted.model_copy(update={"generate": wanted.generate[:1]})
    plain._written = {**wanted.written(), "generate": wanted.written()["generate"][:1]}
    assert recipe.digest(recipe.parse(tomllib.loads(releaseprovenance.texts(plain, store)["recipe.toml"]))) == recipe.digest(
        plain
    )


def test_cards_prompts_and_versions_are_there_as_they_were_used(tmp_path: Path) -> None:
    store, _ = begun(tmp_path, rows=4)
    (store.root / "cards.lock").write_text('["generators/sdxl"]\nrevision = "abc"\n')
    found = releaseprovenance.texts(asked(tmp_path), store)
    assert set(found) == {
        "recipe.toml", "cards.lock", "prompts.jsonl", "versions.json", "prompts/photos.toml", "prompts/my-prompts.txt",
        "manifests/taxonomy.toml", "manifests/sources/folder.toml",
        "manifests/generators/sdxl.toml", "manifests/generators/tiny-gan.toml",
    }  # fmt: skip
    assert tomllib.loads(found["manifests/generators/sdxl.toml"])["licence"]
    lines = [json.loads(line) for line in found["prompts.jsonl"].splitlines()]
    assert sorted(line["text"] for line in lines) == [f"photos by gan-a {n}" for n in range(4)]
    assert json.loads(found["versions.json"]) == {"generators": {"gan-a": [{"torch": "2.13"}]}}
    assert releaseprovenance.texts(asked(tmp_path), store) == found


def test_a_later_version_keeps_what_the_earlier_rows_were_made_by(tmp_path: Path) -> None:
    store, _ = begun(tmp_path, rows=4)
    publish(store, tmp_path / "v1", told=Told(provenance=releaseprovenance.texts(asked(tmp_path), store)))
    before = living.read(tmp_path / "v1")
    add(store, "b", ("album", range(4, 6), True), ("gan-b", range(2), False))
    balance(store, SETTINGS, LAW, 0, previous=before)
    later = asked(tmp_path).model_copy(update={"generate": []})
    found = releaseprovenance.texts(later, store, before)
    assert {"manifests/generators/sdxl.toml", "prompts/photos.toml"} <= found.keys()
    assert set(json.loads(found["versions.json"])["generators"]) == {"gan-a", "gan-b"}
    texts = [json.loads(line)["text"] for line in found["prompts.jsonl"].splitlines()]
    assert sorted(texts) == sorted([*(f"photos by gan-a {n}" for n in range(4)), *(f"photos by gan-b {n}" for n in range(2))])
    publish(store, tmp_path / "v2", previous=before, told=Told(provenance=found))
    assert living.read(tmp_path / "v2").plan.num_rows == 12


@pytest.mark.parametrize("place", ["/mnt/me/x/cat.jsonl", "C:\\Users\\me\\cat.jsonl", "~/data/cat.jsonl"])
def test_every_way_to_write_a_place_is_found(place: str) -> None:
    assert releaseprovenance.placeless(f"root = {json.dumps(place)}") == 'root = "path/to/cat.jsonl"'
    assert releaseprovenance.placeless(f"root = '{place}'") == "root = 'path/to/cat.jsonl'"
    kept = 'url = "https://example.org/a/b"\nroot = "bundled:small"\nshare = "1/2"'
    assert releaseprovenance.placeless(kept) == kept
