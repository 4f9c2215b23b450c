"""`publish`: the balancer's plan and the parts become a release folder.

Nothing in the result depends on how the parts are cut, how many workers there are, or how often the run was killed: a shard
that is finished is kept, and the folder takes its place as a whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build import datasetcard, release, releasewriter
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import PLAN_SCHEMA, REJECT_SCHEMA, SPLITS, table_of
from imaginet_build.store import Store

log = logging.getLogger(__name__)

STACK = ("imaginet-build", "numpy", "pillow", "pyarrow", "simplejpeg")
"""The libraries that can change a byte of a release."""

_FACTS = (
    *("family", "generator", "source", "source_key", "licence", "prompt", "seed", "pair_id"),
    *("sha256", "nbytes", "codec", "width", "height", "phash"),
)
_VIEW = ("left", "top", "width", "height", "codec", "quality", "subsampling", "first_quality", "first_subsampling")
_INPUTS = ".inputs"


@dataclass(frozen=True, slots=True)
class Published:
    """A release on disk. `views`: rows by view and split; `nbytes`: all files; `unchanged`: it was there already, whole.
    `likeness`: by view, how alike the labels are from outside (`datasetcard.Measured`)."""

    path: Path
    digest: str
    rows: int
    views: dict[str, dict[str, int]]
    nbytes: int
    rejected: int
    unchanged: bool
    likeness: dict[str, dict[str, Any]]


def publish(
    store: Store,
    out: Path,
    *,
    views: Sequence[str] = release.VIEWS,
    rows_per_file: int = 2000,
    bytes_per_file: int = 1_000_000_000,
    spill_bytes: int = 16_000_000_000,
    recipe_digest: str = "",
    about: datasetcard.About = datasetcard.About(),  # noqa: B008 - frozen
    gate: Mapping[str, Any] | None = None,
    probes: Sequence[Mapping[str, Any]] = (),
    map: releasewriter.OrderedMap = map,
    progress: releasewriter.Progress | None = None,
) -> Published:
    """Write the release of `store`'s plan to the folder `out`, whole or not at all.

    `views`: which of `equalized` and `native`; the first is the card's default. `rows_per_file`, `bytes_per_file`: the size of
    a shard (bytes as born). `spill_bytes`: scratch space beside `out`. `gate`, `probes`: the audit's answer for the card,
    where there is one yet; publishing again with it rewrites the card and leaves the data as it is.

    Raises `UsageError` for a wrong setting or an `out` that holds something else, `BuildError` listing every image that
    cannot be read or rendered; a kept image that stands among the store's rejects of stage `publish` is left out and listed.
    """
    out = Path(out)
    _check(out, views)
    kept, rejects = _kept(store), _rejects(store)
    names = release.Names.of(kept["category"].to_pylist(), kept["family"].to_pylist(), kept["generator"].to_pylist())
    inputs = _digest_of([list(views), rows_per_file, bytes_per_file, names.categories, names.families, names.generators], kept)

    partial = out.with_name(out.name + ".partial")
    old = _intact(out, inputs)
    versions = old["versions"] if old else _versions()
    _prepare(partial, json.dumps([inputs, versions], sort_keys=True))
    if old:
        _adopt(out, partial)
    else:
        shards = release.layout(kept["split"].to_pylist(), kept["nbytes"].to_pylist(), rows_per_file, bytes_per_file)
        faulty = releasewriter.write(
            store, partial, kept, names, views, shards, spill_bytes=spill_bytes, map=map, progress=progress
        )
        if faulty:
            raise BuildError(_say(faulty, store))
    _clear(partial)

    pq.write_table(rejects, partial / "rejects.parquet")
    known = {p: f for p, f in old["files"].items() if p.startswith("data/")} if old else {}
    data = release.inventory(partial, known)
    facts = datasetcard.measure(partial, views, rejects, release.digest(data))
    for name, text in datasetcard.files(facts, about, gate, probes).items():
        (partial / name).write_text(text, encoding="utf-8")
    files = release.inventory(partial, data)
    manifest = {
        "format": 1,
        "title": about.title,
        "digest": release.digest(files),
        "recipe_digest": recipe_digest,
        "inputs": inputs,
        "rows": kept.num_rows,
        "views": facts.views,
        "likeness": facts.likeness,
        "gate": dict(gate) if gate else None,
        "versions": versions,
        "files": files,
    }
    unchanged = bool(old) and old == manifest
    if unchanged:
        shutil.rmtree(partial)
    else:
        (partial / release.MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        _swap(partial, out)
    total = sum(int(str(f["nbytes"])) for f in files.values())
    digest = str(manifest["digest"])
    return Published(out, digest, kept.num_rows, facts.views, total, rejects.num_rows, unchanged, facts.likeness)


def _check(out: Path, views: Sequence[str]) -> None:
    unknown = [v for v in views if v not in release.VIEWS]
    if unknown or not views or len(set(views)) != len(views):
        raise UsageError(f"views = {list(views)}: choose from {', '.join(release.VIEWS)}, each once")
    if out.exists() and not (out / release.MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something that is not a release; nothing was touched. Choose another --out, or empty it")
    if (out / release.MANIFEST).is_file():
        strange = sorted(release.listing(out) - release.read_manifest(out)["files"].keys())
        if strange:
            raise UsageError(
                f"{out} holds files that are not of the release, such as {strange[0]}; move them away, then publish again"
            )


def _kept(store: Store) -> pa.Table:
    """Plan and facts of every image to be published, sorted by id. Columns of the view begin with `view_`."""
    plan = store.plan().select(PLAN_SCHEMA.names)
    plan = plan.filter(plan["keep"]).sort_by("id")
    refused = store.rejects().filter(pc.field("stage") == "publish")["id"]
    plan = plan.filter(pc.invert(pc.is_in(plan["id"], value_set=refused.combine_chunks())))
    if plan.num_rows == 0:
        raise BuildError("the plan keeps no image, so there is nothing to publish: see why with build-imaginet balance")
    lost = plan.filter(pc.invert(pc.is_in(plan["split"], value_set=pa.array(SPLITS))))["id"].to_pylist()
    if lost:
        raise BuildError(
            f"the plan keeps {len(lost)} images without a split, such as {lost[0]}: run build-imaginet balance again"
        )
    places = plan.group_by(["group", "split"]).aggregate([])["group"]
    torn = [name for name, count in Counter(places.to_pylist()).items() if count > 1]
    if torn:
        raise BuildError(
            f"{len(torn)} groups stand in more than one split, such as {min(torn)}: run build-imaginet balance again"
        )
    facts = _with_pairs_of(store.facts(list(_FACTS)), plan["id"])
    place = pc.index_in(plan["id"], value_set=facts["id"].combine_chunks())
    if place.null_count:
        first = plan["id"].filter(place.is_null())[0].as_py()
        raise BuildError(
            f"the plan keeps {place.null_count} images that no part holds, such as {first}: run build-imaginet balance again"
        )
    facts = facts.select(_FACTS).take(place.combine_chunks())
    table = plan.select(["id", "category", "origin", "split", "group"])
    synthetic = pc.equal(plan["origin"], "synthetic")
    for name in _FACTS:
        column = facts[name]
        if name in {"family", "generator"}:
            # A folder may not say what drew its images; a real image has no generator whatever its card says.
            nothing = pa.scalar(None, pa.string())
            column = pc.if_else(synthetic, pc.fill_null(column, "unknown"), nothing)
        table = table.append_column(name, column)
    for name in _VIEW:
        table = table.append_column(f"view_{name}", plan[name])
    return table.sort_by([("split", "ascending"), ("id", "ascending")]).combine_chunks()


def _with_pairs_of(facts: pa.Table, kept: pa.ChunkedArray) -> pa.Table:
    """The facts with a `pair_id` only where another kept image shares it: a photograph without its fake is no pair."""
    pairs = facts["pair_id"].filter(pc.is_in(facts["id"], value_set=kept.combine_chunks()))
    shared = [count["values"] for count in pc.value_counts(pairs).to_pylist() if count["counts"] > 1]
    whole = pc.is_in(facts["pair_id"], value_set=pa.array(shared, pa.string()), skip_nulls=True)
    column = pc.if_else(whole, facts["pair_id"], pa.scalar(None, pa.string()))
    return facts.set_column(facts.schema.get_field_index("pair_id"), "pair_id", column)


def _rejects(store: Store) -> pa.Table:
    """What is not in the release and why (`REJECT_SCHEMA`): the refusals of every stage, and what the plan leaves out."""
    plan = store.plan()
    plan = plan.filter(pc.invert(plan["keep"]))
    facts = store.facts(["source_key"])
    keys = dict(zip(facts["id"].to_pylist(), facts["source_key"].to_pylist(), strict=True))
    rows = store.rejects().to_pylist()
    for row in plan.select(["id", "origin", "category", "generator_or_source", "reason", "detail"]).to_pylist():
        said = {"stage": "balance", "reason": row["reason"] or "not-kept", "detail": row["detail"] or ""}
        rows.append(row | said | {"source_key": keys.get(row["id"])})
    return table_of(sorted(rows, key=lambda r: (r["stage"], r["id"], r["reason"])), REJECT_SCHEMA)


def _digest_of(settings: object, kept: pa.Table) -> str:
    state = hashlib.sha256(json.dumps(settings).encode())
    for batch in kept.to_batches(max_chunksize=10_000):
        state.update(json.dumps(batch.to_pylist(), sort_keys=True).encode())
    return state.hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in STACK:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _intact(out: Path, inputs: str) -> dict[str, Any] | None:
    """The manifest of the release at `out` if it was made from the same inputs and is whole, else None."""
    if not (out / release.MANIFEST).is_file():
        return None
    manifest = release.read_manifest(out)
    if manifest.get("inputs") != inputs:
        return None
    wrong = [fault for fault in release.faults(out) if fault.startswith("data/")]
    if wrong:
        log.warning("%s is damaged (%s) and is written again", out, "; ".join(wrong[:3]))
        return None
    return manifest


def _prepare(partial: Path, key: str) -> None:
    """An empty `partial`, or the one a killed run of the same inputs left, without its unfinished files."""
    note = partial / _INPUTS
    if partial.exists() and not (note.is_file() and note.read_text(encoding="utf-8") == key):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    note.write_text(key, encoding="utf-8")
    shutil.rmtree(partial / ".spill", ignore_errors=True)
    for left in partial.rglob("*.tmp"):
        left.unlink()


def _adopt(out: Path, partial: Path) -> None:
    """The data files of an intact release, linked where the file system can, else copied."""
    for path in sorted((out / "data").rglob("*.parquet")):
        there = partial / path.relative_to(out)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.unlink(missing_ok=True)
        try:
            os.link(path, there)
        except OSError:
            shutil.copyfile(path, there)


def _clear(partial: Path) -> None:
    """Only data may be left in `partial`: everything else is written anew."""
    for path in partial.iterdir():
        if path.is_file() and path.name != _INPUTS:
            path.unlink()
        elif path.is_dir() and path.name != "data":
            shutil.rmtree(path)


def _swap(partial: Path, out: Path) -> None:
    """Put the finished folder in its place. Killed between the two renames, the next run finishes from `partial`."""
    (partial / _INPUTS).unlink(missing_ok=True)
    aside = out.with_name(out.name + ".old")
    shutil.rmtree(aside, ignore_errors=True)
    if out.exists():
        out.rename(aside)
    partial.rename(out)
    shutil.rmtree(aside, ignore_errors=True)


def _say(faulty: Sequence[str], store: Store) -> str:
    """One message for every image that cannot be published."""
    more = f" and {len(faulty) - 20} more" if len(faulty) > 20 else ""
    return (
        f"{len(faulty)} images of the plan cannot be published, so no release was written: {'; '.join(faulty[:20])}{more}. "
        f"Delete the parts in {store.root / 'parts'} that hold them and run collect or generate, balance and publish again"
    )
