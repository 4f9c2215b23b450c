"""What one plan decides otherwise than another: images added, removed, moved to another split, or seen in another view."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build.balancing import planfile
from imaginet_build.errors import UsageError
from imaginet_build.records import PLAN_SCHEMA
from imaginet_build.releases import release

VIEW = ("left", "top", "width", "height", "codec", "quality", "subsampling", "first_quality", "first_subsampling")
CELL = ("category", "origin", "generator_or_source")
KINDS = ("added", "removed", "moved", "changed_view")


@dataclass(frozen=True, slots=True)
class Decisions:
    """The kept rows of a plan: `table` has id, category, origin, generator_or_source, split and the columns of the view that
    are known (a release knows the size alone, a plan all). `made_from`: settings, seed and a digest of the facts, where they
    are known."""

    name: str
    table: pa.Table
    made_from: Mapping[str, Any] | None

    @property
    def known(self) -> list[str]:
        """The columns of the view it knows."""
        return [name for name in VIEW if name in self.table.column_names]


@dataclass(frozen=True, slots=True)
class CellDifference:
    """How many images of one generator or source were added, removed, moved to another split, or got another view."""

    category: str
    origin: str
    generator_or_source: str
    added: int
    removed: int
    moved: int
    changed_view: int


@dataclass(frozen=True, slots=True)
class Difference:
    """`settings`: what was asked otherwise, a line each. `facts`: whether both were made from the same images (`same`,
    `changed`, `unknown`). `cells`: those with a difference. An image that is moved and seen otherwise counts in both."""

    other: str
    settings: tuple[str, ...]
    facts: str
    rows: dict[str, int]
    cells: tuple[CellDifference, ...]

    def to_json(self) -> dict[str, Any]:
        """The document that `balance --diff OTHER --json` prints."""
        return {
            "other": self.other,
            "same": not any(self.rows.values()),
            "settings": list(self.settings),
            "facts": self.facts,
            **self.rows,
            "cells": [asdict(cell) for cell in self.cells],
        }


def read(place: Path) -> Decisions:
    """The decisions of a plan file, a work folder or a release. Raises `UsageError` where there are none."""
    if place.is_dir() and (place / release.MANIFEST).is_file():
        return _of_release(place)
    path = place / "plan.parquet" if place.is_dir() else place
    if not path.is_file():
        raise UsageError(f"no plan in {place}: give a plan.parquet, a work folder after build-imaginet balance, or a release")
    made_from = planfile.made_from(path)
    wanted = ["id", *CELL, "split", "keep", *VIEW]
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} cannot be read as a plan ({error}): make it anew with build-imaginet balance") from None
    if missing := [name for name in wanted if name not in table.column_names]:
        raise UsageError(f"{path} is no plan: it has no column {', '.join(missing)}")
    table = table.select(wanted).cast(pa.schema([PLAN_SCHEMA.field(name) for name in wanted]))
    return Decisions(str(place), table.filter(table["keep"]).drop_columns(["keep"]), made_from)


def _of_release(folder: Path) -> Decisions:
    view = next((view for view in release.VIEWS if release.shards(folder, view)), release.VIEWS[0])
    rows = release.rows(folder, view)
    real = pc.equal(rows["label"], "real")
    columns = {
        "id": rows["id"],
        "category": rows["content_type"],
        "origin": rows["label"],
        "generator_or_source": pc.if_else(real, pc.fill_null(rows["source"], "unknown"), rows["generator"]),
        "split": rows["split"],
    }
    if view == "equalized":
        # The native view holds the sizes as born, which a plan does not decide.
        columns |= {"width": rows["width"], "height": rows["height"]}
    return Decisions(str(folder), pa.table(columns), None)


def compare(new: Decisions, other: Decisions) -> Difference:
    """What `new` decides otherwise than `other`."""
    by_name = {side: one.table.combine_chunks() for side, one in (("new", new), ("other", other))}
    place = pc.index_in(by_name["new"]["id"], value_set=by_name["other"]["id"].combine_chunks())
    both = pc.is_valid(place)
    kept, was = by_name["new"].filter(both), by_name["other"].take(place.drop_null())
    gone = by_name["other"].filter(pc.invert(pc.is_in(by_name["other"]["id"], value_set=by_name["new"]["id"].combine_chunks())))
    known = [name for name in VIEW if name in new.known and name in other.known]
    rows = {
        "added": by_name["new"].filter(pc.invert(both)),
        "removed": gone,
        "moved": kept.filter(_differs(kept, was, ["split"])),
        "changed_view": kept.filter(_differs(kept, was, known)),
    }
    counts: dict[tuple[str, str, str], dict[str, int]] = {}
    for kind, table in rows.items():
        for row in table.group_by(list(CELL)).aggregate([([], "count_all")]).to_pylist():
            counts.setdefault(tuple(row[name] for name in CELL), dict.fromkeys(KINDS, 0))[kind] = row["count_all"]
    cells = tuple(CellDifference(*name, *(counts[name][kind] for kind in KINDS)) for name in sorted(counts))
    return Difference(
        other.name, tuple(_settings(new, other)), _facts(new, other), {k: t.num_rows for k, t in rows.items()}, cells
    )


def _differs(a: pa.Table, b: pa.Table, columns: Sequence[str]) -> pa.Array:
    """Which rows differ in one of `columns`; nothing is like nothing."""
    apart = np.zeros(a.num_rows, dtype=bool)
    for name in columns:
        unlike = pc.fill_null(pc.not_equal(a[name], b[name].cast(a[name].type)), False)
        apart |= np.asarray(pc.or_(unlike, pc.xor(pc.is_null(a[name]), pc.is_null(b[name]))).to_numpy(), dtype=bool)
    return pa.array(apart)


def _facts(new: Decisions, other: Decisions) -> str:
    if new.made_from is None or other.made_from is None:
        return "unknown"
    return "same" if new.made_from["facts"] == other.made_from["facts"] else "changed"


def _settings(new: Decisions, other: Decisions) -> list[str]:
    made = [one.made_from for one in (other, new) if one.made_from is not None]
    if len(made) < 2:
        return []
    sides = [_leaves({name: one[name] for name in ("seed", "balance", "equalize")}) for one in made]
    names = sorted({*sides[0], *sides[1]})
    shown = [{name: json.dumps(side[name]) if name in side else "(not set)" for name in names} for side in sides]
    return [f"{name}: {shown[0][name]} -> {shown[1][name]}" for name in names if shown[0][name] != shown[1][name]]


def _leaves(value: object, name: str = "") -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        return {name: value}
    return {k: v for key, child in value.items() for k, v in _leaves(child, f"{name}.{key}" if name else str(key)).items()}
