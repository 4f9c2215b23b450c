"""A release that grows: what the next version takes over from the previous one, byte for byte.

Ids, splits, groups, labels, crops and file names of what was published stay. New rows come in files of their own, new class
names after the old ones; of a row that is withdrawn only the files it stood in are written again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build.balancing import planfile
from imaginet_build.balancing.equalize import Law
from imaginet_build.errors import UsageError
from imaginet_build.recipe import Equalize
from imaginet_build.records import PLAN_SCHEMA
from imaginet_build.releases import release

FIRST = "1.0.0"
PLAN = "provenance/plan.parquet"
"""The plan's rows of everything that was published, with the law they were drawn from."""

_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Previous:
    """A release that another one grows from. `rows`: every row without its pixels, as `release.rows` gives them; `plan`: what
    was decided of them (`PLAN_SCHEMA`, sorted by id); `made_from`: the settings behind it; `withdrawn`: ids that the next
    version leaves out."""

    folder: Path
    manifest: Mapping[str, Any]
    names: release.Names
    rows: pa.Table
    plan: pa.Table
    made_from: Mapping[str, Any]
    withdrawn: frozenset[str] = frozenset()

    @property
    def version(self) -> str:
        """Its version; releases from before there were versions count as the first."""
        return str(self.manifest.get("version") or FIRST)

    @property
    def views(self) -> list[str]:
        """The views it has, the default first."""
        return list(self.manifest["views"])

    @property
    def laws(self) -> dict[str, Law]:
        """By category the law of its `equalized` view."""
        return {category: Law.of_json(said) for category, said in self.made_from.get("laws", {}).items()}

    @property
    def staying(self) -> pa.Table:
        """The plan's rows that the next version keeps."""
        return self.plan.filter(pc.invert(pc.is_in(self.plan["id"], value_set=pa.array(sorted(self.withdrawn), pa.string()))))

    @property
    def gone(self) -> int:
        """How many rows the next version leaves out."""
        return int(self.plan.num_rows - self.staying.num_rows)

    def without(self, ids: Collection[str]) -> Previous:
        """The same, with `ids` withdrawn."""
        return replace(self, withdrawn=frozenset(ids))


def read(folder: Path, withdrawn: Collection[str] = ()) -> Previous:
    """The release at `folder`, every file checked against its hash. Raises `UsageError` where it is none, is damaged, or does
    not say what its rows were made by."""
    manifest = release.read_manifest(folder)
    if wrong := release.faults(folder):
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UsageError(
            f"{folder} is not as it was published ({'; '.join(wrong[:3])}{more}), so nothing grows from it: take an intact copy"
        )
    if not (folder / PLAN).is_file():
        raise UsageError(
            f"{folder} does not hold {PLAN}, the decisions behind its rows (it was published before releases kept them): "
            "publish it once more from its work folder, then grow from that"
        )
    plan, made_from = _decided(folder / PLAN)
    tables = {view: release.rows(folder, view) for view in manifest["views"]}
    for view, table in tables.items():
        decided = dict(zip(plan["id"].to_pylist(), plan["split"].to_pylist(), strict=True))
        held = dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))
        if odd := sorted(name for name in decided.keys() | held.keys() if decided.get(name) != held.get(name)):
            raise UsageError(
                f"{folder} contradicts itself: {len(odd)} rows, such as {odd[0]} ({held.get(odd[0], 'absent')} in '{view}', "
                f"{decided.get(odd[0], 'absent')} in {PLAN}); publish it once more from its work folder"
            )
    first = next(iter(tables.values()))
    return Previous(folder, manifest, release.names(folder), first, plan, made_from, frozenset(withdrawn))


def _decided(path: Path) -> tuple[pa.Table, Mapping[str, Any]]:
    """What was decided of every row, and from what."""
    made_from = planfile.made_from(path) or {}
    try:
        for said in made_from.get("laws", {}).values():
            Law.of_json(said)
        Equalize.model_validate(made_from.get("equalize", {}))
        plan = pq.read_table(path).select(PLAN_SCHEMA.names).cast(PLAN_SCHEMA)
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError, AttributeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path} is no plan of ours ({why}), so nothing grows from it: take an intact copy") from None
    return plan.sort_by("id").combine_chunks(), made_from


def refuse(previous: Previous, views: Sequence[str], equalize: Mapping[str, Any]) -> None:
    """Raise `UsageError` where the recipe's `[publish] views` or `[equalize]` are not those of `previous`: older rows have no
    other view, and all rows must be of one law."""
    where = f"{previous.folder} (version {previous.version})"
    if list(views) != previous.views:
        raise UsageError(
            f"{where} has the views {', '.join(previous.views)}, and publish.views asks for {', '.join(views)}: older rows "
            "cannot be shown otherwise. Set it back, or move the grown release away and publish without --from"
        )
    if "equalized" not in views:
        return
    if not previous.laws:
        raise UsageError(
            f"{where} does not say by which law its equalized view was drawn; publish it once more, or without --from"
        )
    # What a later version of this software knows besides has its default there.
    old = Equalize.model_validate(previous.made_from.get("equalize", {})).model_dump(mode="json", exclude_none=True)
    if changed := [
        f"equalize.{key}: {old.get(key)} -> {equalize.get(key)}"
        for key in {**old, **equalize}
        if old.get(key) != equalize.get(key)
    ]:
        raise UsageError(
            f"{where} was drawn by another law than this recipe's, and one release has one law:\n  "
            + "\n  ".join(changed)
            + "\nSet it back, or move the grown release away and publish one of its own, without --from"
        )


def next_version(previous: Previous | None, changed: bool, wanted: str | None = None) -> str:
    """`wanted`, or the next one: 1.0.0, then the second number raised; the same one where no row changed. Raises `UsageError`
    for what is no version, or none that comes after the previous one."""
    if previous is None:
        return first_version(wanted)
    return previous.version if wanted is None and not changed else number_after(previous.version, previous.folder, wanted)


def first_version(wanted: str | None = None) -> str:
    """`wanted`, or 1.0.0. Raises `UsageError` for what is no version."""
    if wanted is not None and _VERSION.fullmatch(wanted) is None:
        raise UsageError(f"--version {wanted}: write three numbers, such as {FIRST} (see semver.org)")
    return wanted or FIRST


def number_after(version: str, folder: Path | str, wanted: str | None = None) -> str:
    """`wanted`, or the version after that of the release in `folder`: its second number raised."""
    major, minor, patch = _numbers(version)
    if wanted is None:
        return f"{major}.{minor + 1}.0"
    if _numbers(first_version(wanted)) <= (major, minor, patch):
        raise UsageError(f"--version {wanted} does not come after {version}, the version of {folder}")
    return wanted


def _numbers(version: str) -> tuple[int, int, int]:
    match = _VERSION.fullmatch(version)
    if match is None:
        raise UsageError(f"'{version}' in {release.MANIFEST} is no version: three numbers, such as {FIRST}")
    return int(match[1]), int(match[2]), int(match[3])


def write_plan(folder: Path, new: Iterable[pa.Table], made_from: Mapping[str, Any], previous: Previous | None) -> None:
    """The decisions behind every row of a release. `new`: the plan's rows of what this version adds, sorted by id;
    `made_from`: what the plan says of itself."""
    tables: Iterable[pa.Table] = (table.select(PLAN_SCHEMA.names).cast(PLAN_SCHEMA) for table in new)
    said = json.loads(json.dumps(made_from))
    if sketches := said.get("balance", {}).get("sketches"):
        said["balance"]["sketches"] = [Path(sketch).name for sketch in sketches]  # where they lie is nobody's business
    if previous is not None:
        tables = [pa.concat_tables([previous.staying, *tables]).sort_by("id").combine_chunks()]
        said["laws"] = said.get("laws", {}) | dict(previous.made_from.get("laws", {}))
    metadata = {planfile.KEY: json.dumps(said, sort_keys=True).encode()}
    path = folder / PLAN
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, PLAN_SCHEMA.with_metadata(metadata), compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(metadata))
