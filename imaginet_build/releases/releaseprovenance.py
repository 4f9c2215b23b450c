"""The folder `provenance` of a release: what it was made by, as it was used. The recipe, the cards, the prompts, the versions.

No text names a place of the machine that made the release: a path becomes `path/to/NAME`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from imaginet_build import cards, toml
from imaginet_build.recipe import Recipe
from imaginet_build.records import make_id
from imaginet_build.releases.living import Previous
from imaginet_build.store import Store

PROMPTS = "prompts.jsonl"
VERSIONS = "versions.json"

_PLACE = re.compile(r"""(["'])(?:/|~/|[A-Za-z]:\\\\?|\\\\)(?:[^"'\n]*[/\\])?([^"'/\\\n]*)\1""")
_PER_IMAGE = frozenset({"batch", "cut"})


def texts(recipe: Recipe, store: Store, previous: Previous | None = None) -> dict[str, str]:
    """Every text of the folder by its name in it. `previous`: the version this one grows from; what it was made by stays."""
    found = _earlier(previous)
    found["recipe.toml"] = _recipe(recipe)
    found["manifests/taxonomy.toml"] = _text(cards.files("manifests")["taxonomy"])
    for kind, names in (
        ("sources", {want.source for want in recipe.collect} | {e.source for e in recipe.generate if e.source}),
        ("generators", {entry.generator for entry in recipe.generate}),
    ):
        known = cards.files(f"manifests/{kind}")
        found |= {f"manifests/{kind}/{name}.toml": _text(known[name]) for name in sorted(names)}
    lock = store.root / "cards.lock"
    if lock.is_file():
        found["cards.lock"] = lock.read_text(encoding="utf-8")
    for entry in recipe.generate:
        found |= _prompt_set(entry.prompts or entry.category, asked=entry.prompts is not None)
    return found | _rows(store, previous, found)


def _recipe(recipe: Recipe) -> str:
    """The recipe without the machine it ran on: no `[engine]`, and placeholders for places."""
    asked = recipe.written()
    asked = {name: value for name, value in asked.items() if name != "engine"}
    if variables := asked.get("variables"):
        asked["variables"] = {name: f"path/to/{name}" for name in variables}
    for section in ("balance", "audit"):
        if sketches := asked.get(section, {}).get("sketches"):
            asked[section] = asked[section] | {"sketches": [Path(sketch).name for sketch in sketches]}
    for stage in ("collect", "generate"):
        asked[stage] = [
            item | {"options": {k: _root(v) if k == "root" else v for k, v in item.get("options", {}).items()}}
            for item in asked.get(stage, [])
        ]
    return placeless(toml.write(asked))


def _root(value: Any) -> Any:
    return value if not isinstance(value, str) or "{" in value else f"path/to/{Path(value).name}"


def placeless(text: str) -> str:
    """A text of TOML in which every quoted path of a machine is `path/to/NAME`."""
    return _PLACE.sub(lambda match: f"{match[1]}path/to/{match[2]}{match[1]}", text)


def _text(path: Path) -> str:
    return placeless(path.read_text(encoding="utf-8"))


def _prompt_set(name: str, asked: bool) -> Mapping[str, str]:
    """A prompt set or list as it lies on disk; a category without a set of its own has none."""
    known = cards.files("prompts")
    if name in known:
        return {f"prompts/{name}.toml": _text(known[name])}
    path = Path(name)
    if not asked or not path.is_file() or path.suffix.lower() == ".parquet":
        return {}
    return {f"prompts/{path.name}": path.read_text(encoding="utf-8-sig")}


def _earlier(previous: Previous | None) -> dict[str, str]:
    """Cards and prompt sets of the version before: its rows were made by them."""
    if previous is None:
        return {}
    names = [path.removeprefix("provenance/") for path in previous.manifest["files"] if path.startswith("provenance/")]
    return {
        name: (previous.folder / "provenance" / name).read_text(encoding="utf-8") for name in sorted(names) if _is_text(name)
    }


def _is_text(name: str) -> bool:
    return Path(name).suffix != ".parquet"


def _rows(store: Store, previous: Previous | None, found: Mapping[str, str]) -> dict[str, str]:
    """The prompts that images were drawn from, and for each generator everything that decides its pixels: versions, device,
    number format, steps. What measured and wrote the images stands in `release.json`."""
    plan = store.plan()
    kept = plan.filter(plan["keep"])["id"].combine_chunks()
    facts = store.facts(["generator", "source_key", "prompt", "negative", "category", "params"])
    drawn_here = pc.and_(pc.is_valid(facts["generator"]), pc.is_null(facts["source_key"]))
    facts = facts.filter(pc.and_(pc.is_in(facts["id"], value_set=kept), drawn_here))
    lines = {make_id(*key): key for key in _prompts_of(facts)}
    if previous is not None:
        older = zip(previous.rows["id"].to_pylist(), previous.rows["prompt"].to_pylist(), strict=True)
        # The words of what was taken down go with it.
        shown = {text for name, text in older if text and name not in previous.withdrawn}
        old = (json.loads(line) for line in found.get(PROMPTS, "").splitlines())
        lines = {row["id"]: (row["text"], row["negative"], row["category"]) for row in old if row["text"] in shown} | lines
    written = [{"id": name, "text": t, "negative": n, "category": c} for name, (t, n, c) in sorted(lines.items())]
    drawn: dict[str, list[dict[str, Any]]] = json.loads(found.get(VERSIONS, '{"generators": {}}'))["generators"]
    for generator, params in sorted(
        set(zip(facts["generator"].to_pylist(), facts["params"].to_pylist(), strict=True)), key=str
    ):
        one = {key: value for key, value in json.loads(params).items() if key not in _PER_IMAGE}
        if one not in (known := drawn.setdefault(generator, [])):
            known.append(one)
    return {
        PROMPTS: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written),
        VERSIONS: json.dumps({"generators": drawn}, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
    }


def _prompts_of(facts: Any) -> set[tuple[str, str, str]]:
    columns = (facts[name].to_pylist() for name in ("prompt", "negative", "category"))
    return {(text, negative or "", category) for text, negative, category in zip(*columns, strict=True) if text}
