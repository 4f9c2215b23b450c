"""What a work folder has to show, read into plain values for the report: whichever stages have run.

Nothing here is drawn; `report` turns these values into a page. Every list is in an order that follows from the data.
"""

from __future__ import annotations

import base64
import csv
import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from imaginet_build import images
from imaginet_build.errors import BadImage, BuildError
from imaginet_build.store import Store

TWIN_GROUPS = 60
TWINS_SHOWN = 8
EXAMPLES = 5
LEAKS = 40
"""The most leaks of an audit that are shown."""
_TWIN_REASONS = ("twin", "label-conflict")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image to be shown; `thumbnail` is a base64 JPEG or empty where the image cannot be read."""

    id: str
    title: str
    thumbnail: str
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Cell:
    """A category x origin x generator (or source): what was asked, what there is, what was kept, and why not more."""

    category: str
    origin: str
    name: str
    asked: int | None
    found: int
    kept: int
    why: str
    samples: tuple[Sample, ...] = ()

    @property
    def filled(self) -> bool:
        """Whether the cell holds what was asked; where nothing was asked for by number, whether it holds anything."""
        return self.kept >= self.asked if self.asked is not None else self.kept > 0


@dataclass(frozen=True, slots=True)
class TwinGroup:
    """Images found to be one: `kind` twin, label-conflict or paired; `kept` the id that stayed, if one did."""

    kind: str
    kept: str | None
    samples: tuple[Sample, ...]
    more: int


@dataclass(frozen=True, slots=True)
class Reason:
    """Why images were left out: how many, and a few of them as (name, detail)."""

    stage: str
    reason: str
    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A ROC curve: false and true positive rates, both rising from 0 to 1, and the area under it."""

    name: str
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    auc: float


@dataclass(frozen=True, slots=True)
class Content:
    """Everything the page shows; what has not been made yet is empty or None."""

    title: str
    quickstart: bool
    rows: int
    kept: int | None
    splits: dict[str, int]
    cells: tuple[Cell, ...]
    twins: tuple[TwinGroup, ...]
    twins_removed: int
    twin_groups: int
    audit: dict[str, Any] | None
    results: dict[str, Any] | None
    curves: tuple[Curve, ...]
    reasons: tuple[Reason, ...]
    release: dict[str, Any] | None
    notes: tuple[str, ...] = field(default=())
    worst: tuple[tuple[Sample, ...], ...] = field(default=())
    """For each of the audit's leaks, in its order, the images that it gives away most surely."""


def gather(work: Path, samples: int = 12, side: int = 128) -> Content:
    """Read `work`, with at most `samples` thumbnails of `side` pixels for each cell.

    A file that cannot be read becomes a note on the page, never an error: a report must always come.
    """
    store = Store(work)
    notes: list[str] = []
    facts = {row["id"]: row for row in store.facts(_FACT_COLUMNS).to_pylist()}
    plan = _plan(store, facts, notes)
    asked = _document(work / "balance.json", notes)
    pairs = _twins(work, plan, notes)
    cells = _cells(plan, asked)
    audit = _document(work / "audit.json", notes)
    worst = _worst(audit, facts)
    wanted = {name for members in cells.values() for name in members[:samples]} | {name for ids in worst for name in ids}
    wanted |= {name for _, ids, _ in pairs[:TWIN_GROUPS] for name in ids[:TWINS_SHOWN]}
    thumbnails = _thumbnails(store, wanted & facts.keys(), side, notes)

    def show(ids: Iterable[str]) -> tuple[Sample, ...]:
        return tuple(_sample(name, facts.get(name), plan.get(name), thumbnails.get(name, "")) for name in ids)

    kept = [row for row in plan.values() if row["keep"]]
    recipe = _recipe(work)
    return Content(
        title=str(recipe.get("name") or work.resolve().name),
        quickstart=recipe.get("name") == "quickstart",
        rows=len(facts),
        kept=len(kept) if store.plan_path.is_file() else None,
        splits=dict(Counter(row["split"] for row in kept if row["split"])),
        cells=tuple(_cell(key, members, plan, asked, samples, show) for key, members in cells.items()),
        twins=tuple(
            TwinGroup(kind, one, show(ids[:TWINS_SHOWN]), max(0, len(ids) - TWINS_SHOWN))
            for kind, ids, one in pairs[:TWIN_GROUPS]
        ),
        twins_removed=sum(not row["keep"] and row["reason"] in _TWIN_REASONS for row in plan.values()),
        twin_groups=len(pairs),
        audit=audit,
        worst=tuple(show(ids) for ids in worst),
        results=_document(work / "baseline" / "results.json", notes),
        curves=_curves(work / "baseline" / "scores.csv", notes),
        reasons=_reasons(store, facts, plan),
        release=_document(work / "release" / "release.json", notes),
        notes=tuple(notes),
    )


_FACT_COLUMNS = (
    *("origin", "category", "family", "generator", "source", "source_key", "licence", "prompt", "seed"),
    *("codec", "quality", "width", "height"),
)


def _plan(store: Store, facts: Mapping[str, Mapping[str, Any]], notes: list[str]) -> dict[str, dict[str, Any]]:
    """The plan's rows by id; before there is a plan, every image as if it were kept."""
    try:
        return {row["id"]: row for row in store.plan().to_pylist()}
    except BuildError as error:
        if store.plan_path.is_file():
            notes.append(str(error))
    return {
        name: {
            **{c: row[c] for c in ("id", "category", "origin")},
            **{"keep": True, "reason": None, "detail": None, "split": None, "group": None},
            "generator_or_source": row["generator"] if row["origin"] == "synthetic" else row["source"],
        }
        for name, row in facts.items()
    }


def _recipe(work: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((work / "recipe.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _document(path: Path, notes: list[str], shape: type = dict) -> Any:
    """A JSON file that holds a `shape`, or None where there is none; one that cannot be read leaves a note."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, shape):
            raise ValueError(f"it holds no {shape.__name__}")
        return document
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read ({error})")
        return None


Key = tuple[str, str, str]


def _key(row: Mapping[str, Any]) -> Key:
    return (row["category"], row["origin"], row["generator_or_source"] or "unknown")


def _cells(plan: Mapping[str, Mapping[str, Any]], asked: Mapping[str, Any] | None) -> dict[Key, list[str]]:
    """The ids of each cell, kept ones first; cells that were asked for and stayed empty are there too."""
    found: dict[Key, list[str]] = {_key(row): [] for row in (asked or {}).get("cells", [])}
    for name in sorted(plan, key=lambda n: (not plan[n]["keep"], n)):
        found.setdefault(_key(plan[name]), []).append(name)
    return dict(sorted(found.items()))


def _cell(
    key: Key,
    members: Sequence[str],
    plan: Mapping[str, Mapping[str, Any]],
    asked: Mapping[str, Any] | None,
    samples: int,
    show: Any,
) -> Cell:
    kept = [name for name in members if plan[name]["keep"]]
    dropped = Counter(plan[name]["reason"] or "not kept" for name in members if not plan[name]["keep"])
    said: Mapping[str, Any] = next((row for row in (asked or {}).get("cells", []) if _key(row) == key), {})
    why = said.get("reason") or ", ".join(f"{n} {reason}" for reason, n in sorted(dropped.items(), key=lambda i: (-i[1], i[0])))
    return Cell(*key, said.get("asked"), len(members), len(kept), why, show(kept[:samples]))


def _twins(
    work: Path, plan: Mapping[str, Mapping[str, Any]], notes: list[str]
) -> list[tuple[str, tuple[str, ...], str | None]]:
    """(kind, ids, kept id) of each group of images found to be one: conflicts first, then large groups."""
    listed = _document(work / "twins.json", notes, list)
    if listed is None:
        groups: dict[str, list[str]] = {}
        for name, row in plan.items():
            groups.setdefault(row["group"] or name, []).append(name)
        listed = []
        for ids in groups.values():
            reasons = {plan[name]["reason"] for name in ids} & set(_TWIN_REASONS)
            kept = [name for name in ids if plan[name]["keep"]]
            if reasons and len(ids) > 1:
                listed.append({"kind": min(reasons), "ids": ids, "kept": kept[0] if len(kept) == 1 else None})
    order = {"label-conflict": 0, "twin": 1}
    found = [(str(g["kind"]), tuple(sorted(g["ids"], key=lambda n: (n != g.get("kept"), n))), g.get("kept")) for g in listed]
    return sorted(found, key=lambda g: (order.get(g[0], 2), -len(g[1]), g[1]))


def _worst(audit: Mapping[str, Any] | None, facts: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The ids of the examples of each leak that the report shows: a release names its images by id, a work folder by the
    source's own key."""
    keys = {row["source_key"]: name for name, row in facts.items() if row["source_key"]}
    named = [leak.get("examples") or [] for leak in ((audit or {}).get("leaks") or [])[:LEAKS]]
    places = [[(path, path.rpartition(".")[0]) for path in map(str, paths)] for paths in named]
    return [[found for path, stem in pairs if (found := stem if stem in facts else keys.get(path, path))] for pairs in places]


def _thumbnails(store: Store, ids: Iterable[str], side: int, notes: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        for name, data in store.images(store.in_part_order(ids)):
            try:
                found[name] = base64.b64encode(images.thumbnail(data, side)).decode()
            except BadImage:
                found[name] = ""
    except BuildError as error:
        notes.append(str(error))
    return found


def _sample(name: str, facts: Mapping[str, Any] | None, plan: Mapping[str, Any] | None, thumbnail: str) -> Sample:
    if facts is None:
        return Sample(name, "image not in the work folder", "", {"id": name})
    shown = {
        "id": name,
        "size": f"{facts['width']} x {facts['height']} {facts['codec']}"
        + (f" q{facts['quality']}" if facts["quality"] else ""),
        "split": (plan or {}).get("split"),
        **{key: facts[key] for key in ("prompt", "seed", "generator", "source", "source_key", "licence")},
        "left out": (plan or {}).get("reason"),
    }
    made = facts["generator"] or facts["source"] or facts["origin"]
    text = {key: str(value) for key, value in shown.items() if value is not None and value != ""}
    return Sample(name, f"{facts['origin']} {facts['category']} from {made}", thumbnail, text)


def _curves(path: Path, notes: list[str]) -> tuple[Curve, ...]:
    """One ROC curve for each value of the column `seed`, or one alone where there is no such column."""
    if not path.is_file():
        return ()
    series: dict[str, list[tuple[int, float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                label = int(row["label"] in ("1", "1.0", "synthetic"))
                series.setdefault(row.get("seed") or "", []).append((label, float(row["p_synthetic"])))
        curves = (_roc(f"seed {seed}" if seed else "test", *zip(*points, strict=True)) for seed, points in series.items())
        return tuple(curve for curve in curves if curve)
    except (KeyError, ValueError) as error:
        notes.append(f"{path.name} cannot be read ({error})")
        return ()


def _roc(name: str, labels: Sequence[int], scores: Sequence[float]) -> Curve | None:
    from sklearn.metrics import auc, roc_curve

    if len(set(labels)) < 2:
        return None
    fpr, tpr, _ = roc_curve(labels, scores)
    area = float(auc(fpr, tpr))
    if len(fpr) > 400:  # more points than pixels only make the page heavy
        keep = np.unique(np.linspace(0, len(fpr) - 1, 400).astype(int))
        fpr, tpr = fpr[keep], tpr[keep]
    return Curve(name, tuple(map(float, fpr)), tuple(map(float, tpr)), area)


def _reasons(store: Store, facts: Mapping[str, Mapping[str, Any]], plan: Mapping[str, Mapping[str, Any]]) -> tuple[Reason, ...]:
    rejected = cast(pa.Table, store.rejects()).to_pylist()
    rows = [(r["stage"], r["reason"], r["source_key"] or r["id"], r["detail"]) for r in rejected]
    for name, row in plan.items():
        if not row["keep"]:
            source = facts.get(name, {}).get("source_key")
            rows.append(("balance", row["reason"] or "not-kept", source or name, row["detail"] or ""))
    counts = Counter((stage, reason) for stage, reason, _, _ in rows)
    examples: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for stage, reason, name, detail in sorted(rows):
        if len(some := examples.setdefault((stage, reason), [])) < EXAMPLES:
            some.append((name, detail))
    order = sorted(counts, key=lambda k: (-counts[k], k))
    return tuple(Reason(*key, counts[key], tuple(examples[key])) for key in order)
