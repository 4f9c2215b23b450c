"""What one release holds otherwise than another: rows by cell, splits, class names, the audit's gate, and the bytes of both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build.errors import BuildError, UsageError
from imaginet_build.releases import release

CELL = ("content_type", "label", "generator_or_source")
KINDS = ("added", "removed", "changed", "moved")

CellName = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Cell:
    """How many rows of one generator or source were added, removed, changed in any column, or moved to another split."""

    content_type: str
    label: str
    generator_or_source: str
    added: int
    removed: int
    changed: int
    moved: int


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two releases. `gate`: the verdict and value in its manifest, None where it was not audited."""

    path: str
    version: str | None
    digest: str
    rows: int
    nbytes: int
    gate: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Difference:
    """`before` and `after`. `rows`: added, removed, changed, moved and the same. `columns`: by column the rows that differ.
    `splits`: `train -> test`: rows. `names`: by class column the names added and removed, and those with another number.
    `nbytes`: of the data files, `shared` by both, and the `part` of the earlier release that is in the later one as it was.
    `files`: data files that are the same, were written again under their name, are new, or gone."""

    before: Side
    after: Side
    rows: dict[str, int]
    cells: tuple[Cell, ...]
    columns: dict[str, int]
    splits: dict[str, int]
    views: dict[str, list[str]]
    names: dict[str, dict[str, list[str]]]
    nbytes: dict[str, Any]
    files: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The document that `diff --json` prints."""
        return asdict(self) | {"same": self.before.digest == self.after.digest}


def compare(a: Path, b: Path) -> Difference:
    """What the release at `b` holds otherwise than the one at `a`. Raises `UsageError` where either is none, `BuildError` where
    a data file is damaged."""
    try:
        return _compared(a, b)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        path, why = next(_damaged(a, b), (f"{a} or {b}", str(error)))
        raise BuildError(
            f"{path} cannot be read ({why.splitlines()[0] if why else 'damaged'}): take an intact copy of the release; "
            "build-imaginet publish --check DIR names every damaged file"
        ) from error


def _damaged(*folders: Path) -> Iterator[tuple[str, str]]:
    """Data files that cannot be read, and why."""
    for folder in folders:
        for path in sorted((folder / "data").rglob("*.parquet")):
            try:
                names = [name for name in pq.read_schema(path).names if name != "image"]
                pq.read_table(path, columns=names).to_pylist()
            except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
                yield str(path), str(error)


def _compared(a: Path, b: Path) -> Difference:
    told = [release.read_manifest(folder) for folder in (a, b)]
    views = [[view for view in release.VIEWS if release.shards(folder, view)] for folder in (a, b)]
    common = [view for view in views[0] if view in views[1]]
    if not common:
        raise UsageError(
            f"{a} has the views {', '.join(views[0]) or 'none'} and {b} {', '.join(views[1]) or 'none'}: no common one"
        )
    tables = {view: tuple(release.rows(folder, view).sort_by("id").combine_chunks() for folder in (a, b)) for view in common}
    old, new = tables[common[0]]
    added, removed = without(new, old), without(old, new)
    was = {view: pair[0].filter(_in(pair[0], new)) for view, pair in tables.items()}
    now = {view: pair[1].filter(_in(pair[1], old)) for view, pair in tables.items()}
    columns = {
        name: np.any([_unlike(was[view], now[view], name) for view in common], axis=0)
        for name in dict.fromkeys([*old.column_names, *new.column_names])
        if name != "id"
    }
    moved = columns.pop("split")
    changed = np.any(list(columns.values()), axis=0)
    kept = now[common[0]]
    moves: dict[str, int] = defaultdict(int)
    for old_split, new_split in zip(was[common[0]]["split"].to_pylist(), kept["split"].to_pylist(), strict=True):
        moves[f"{old_split} -> {new_split}"] += old_split != new_split
    some = {"added": added, "removed": removed, "changed": kept.filter(changed), "moved": kept.filter(moved)}
    return Difference(
        _side(a, told[0], old),
        _side(b, told[1], new),
        {kind: rows.num_rows for kind, rows in some.items()} | {"same": int((~changed & ~moved).sum())},
        tuple(Cell(*name, *(counts[kind] for kind in KINDS)) for name, counts in sorted(by_cell(some).items())),
        {name: int(rows.sum()) for name, rows in columns.items() if rows.any()},
        {name: count for name, count in sorted(moves.items()) if count},
        {"before": views[0], "after": views[1]},
        {column: renamed for column in release.CLASSES if (renamed := _renamed(a, b, column))},
        *_shared(told[0]["files"], told[1]["files"]),
    )


def without(table: pa.Table, other: pa.Table) -> pa.Table:
    """The rows of `table` that `other` does not have."""
    return table.filter(pc.invert(_in(table, other)))


def by_cell(tables: Mapping[str, pa.Table]) -> dict[CellName, dict[str, int]]:
    """Rows by content type, label and generator or source: how many of each of `KINDS`."""
    found: dict[CellName, dict[str, int]] = {}
    for kind, rows in tables.items():
        real = pc.equal(rows["label"], "real")
        maker = pc.if_else(real, pc.fill_null(rows["source"], "unknown"), rows["generator"])
        for cell in zip(*(c.to_pylist() for c in (rows["content_type"], rows["label"], maker)), strict=True):
            found.setdefault(cell, dict.fromkeys(KINDS, 0))[kind] += 1
    return found


def _in(table: pa.Table, other: pa.Table) -> pa.ChunkedArray:
    return pc.is_in(table["id"], value_set=other["id"].combine_chunks())


def _unlike(a: pa.Table, b: pa.Table, name: str) -> np.typing.NDArray[np.bool_]:
    """Which rows differ in a column; nothing is like nothing, and a column that one release lacks differs everywhere."""
    if name not in a.column_names or name not in b.column_names or a[name].type != b[name].type:
        return np.ones(a.num_rows, dtype=bool)
    unlike = pc.or_(pc.fill_null(pc.not_equal(a[name], b[name]), False), pc.xor(pc.is_null(a[name]), pc.is_null(b[name])))
    return np.asarray(unlike.to_numpy(), dtype=bool)


def _side(folder: Path, manifest: Mapping[str, Any], rows: pa.Table) -> Side:
    gate = manifest.get("gate")
    size = sum(facts["nbytes"] for path, facts in manifest["files"].items() if path.startswith("data/"))
    said = {name: gate.get(name) for name in ("verdict", "value", "limit")} if gate else None
    return Side(str(folder), manifest.get("version"), str(manifest.get("digest")), rows.num_rows, size, said)


def _renamed(a: Path, b: Path, column: str) -> dict[str, list[str]]:
    old, new = (list(getattr(release.names(folder), release.CLASSES[column])) for folder in (a, b))
    renumbered = [name for number, name in enumerate(old) if name in new and new.index(name) != number]
    found = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "renumbered": renumbered,
    }
    return found if any(found.values()) else {}


def _shared(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """Bytes and data files that are in both."""
    was, now = ({path: facts for path, facts in side.items() if path.startswith("data/")} for side in (old, new))
    known = {facts["sha256"] for facts in now.values()}
    stays = sum(facts["nbytes"] for facts in was.values() if facts["sha256"] in known)
    total = sum(facts["nbytes"] for facts in was.values())
    both = was.keys() & now.keys()
    same = sum(was[path]["sha256"] == now[path]["sha256"] for path in both)
    files = {"same": same, "rewritten": len(both) - same, "new": len(now.keys() - both), "gone": len(was.keys() - both)}
    return {"shared": stays, "part": round(stays / total, 6) if total else None}, files


def text(found: Difference) -> str:
    """The same for people."""
    sides = [
        f"{side.path} ({side.version or 'no version'}, {side.rows:,} rows, {side.digest[:12]})"
        for side in (found.before, found.after)
    ]
    if found.before.digest == found.after.digest:
        return f"{sides[0]} and {sides[1]} hold the same data"
    rows = ", ".join(f"{count:,} {kind}" for kind, count in found.rows.items())
    lines = [f"from {sides[0]}", f"to   {sides[1]}", f"rows: {rows}"]
    if found.cells:
        width = max(len(" / ".join((c.content_type, c.label, c.generator_or_source))) for c in found.cells)
        lines.append(f"  {'':<{width}}  {'added':>8} {'removed':>8} {'changed':>8} {'moved':>8}")
    for cell in found.cells:
        name = " / ".join((cell.content_type, cell.label, cell.generator_or_source))
        lines.append(f"  {name:<{width}}  {cell.added:>8,} {cell.removed:>8,} {cell.changed:>8,} {cell.moved:>8,}")
    if found.columns:
        lines.append("changed in: " + ", ".join(f"{name} ({count:,})" for name, count in found.columns.items()))
    lines += [f"moved {name}: {count:,}" for name, count in found.splits.items()]
    if found.views["before"] != found.views["after"]:
        lines.append(f"views: {', '.join(found.views['before'])} -> {', '.join(found.views['after'])}")
    for column, names in found.names.items():
        lines += [f"{column}: {kind} {', '.join(some)}" for kind, some in names.items() if some]
    lines.append(f"gate: {_gate(found.before)} -> {_gate(found.after)}")
    part = found.nbytes["part"]
    files = ", ".join(f"{count} {kind}" for kind, count in found.files.items())
    lines.append(
        f"bytes: {found.nbytes['shared']:,} of {found.before.nbytes:,} are in both"
        + (f" ({100 * part:.1f} %)" if part is not None else "")
        + f"; data files: {files}"
    )
    return "\n".join(lines)


def _gate(side: Side) -> str:
    if side.gate is None:
        return "not audited"
    value = side.gate.get("value")
    return f"{side.gate.get('verdict')}" + (f" at {value:.3f}" if value is not None else "")
