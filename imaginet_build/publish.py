"""`publish`: the balancer's plan and the parts become a release folder.

Nothing in the result depends on how the parts are cut, how many workers there are, or how often the run was killed: a shard
that is finished is kept, and the folder takes its place as a whole.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import features

from imaginet_build.balancing import planfile
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import FACT_SCHEMA, PLAN_SCHEMA, REJECT_SCHEMA, SPLITS, table_of
from imaginet_build.releases import (
    cardlint,
    carrying,
    changelog,
    datasetcard,
    living,
    metadatatable,
    release,
    releasefolder,
    releasewriter,
    rights,
    robustness,
    tiers,
)
from imaginet_build.releases.shardpixels import ShardPixels
from imaginet_build.store import Store

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

STACK = ("imaginet-build", "license-expression", "numpy", "pillow", "pyarrow", "simplejpeg")
CODECS = ("libjpeg_turbo", "webp", "zlib_ng", "zlib")
"""The libraries that can change a byte of a release, and those in them that encode."""

_FACTS = (
    *("family", "generator", "source", "source_key", "licence", "prompt", "seed", "pair_id"),
    *("sha256", "nbytes", "codec", "width", "height", "phash"),
)
_VIEW = ("left", "top", "width", "height", "codec", "quality", "subsampling", "first_quality", "first_subsampling")
Hashes = dict[str, dict[str, object]]


@dataclass(frozen=True, slots=True)
class Published:
    """A release on disk. `views`: rows by view and split; `nbytes`: all files; `unchanged`: it was there already, whole.
    `likeness`: by view, how alike the labels are from outside (`datasetcard.Measured`). `withheld`: rows without pixels.
    `only`, `lost`: a constraint, and what it costs (`rights.Clearance`). `added`, `withdrawn`: rows that the version before has
    not, or this one no longer; `rewritten`: bytes of its data files that are not in this one as they were."""

    path: Path
    digest: str
    rows: int
    views: dict[str, dict[str, int]]
    nbytes: int
    rejected: int
    unchanged: bool
    likeness: dict[str, dict[str, Any]]
    withheld: int = 0
    only: str | None = None
    lost: Mapping[str, Any] | None = None
    version: str = living.FIRST
    added: int = 0
    withdrawn: int = 0
    rewritten: int = 0


def _sparing(function: Callable[P, R]) -> Callable[P, R]:
    """Let Arrow take the C library's memory meanwhile: what is freed goes back, where Arrow's own pool keeps it by thread."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        before = pa.default_memory_pool()
        pa.set_memory_pool(pa.system_memory_pool())
        try:
            return function(*args, **kwargs)
        finally:
            pa.set_memory_pool(before)

    return call


@_sparing
def publish(
    store: Store,
    out: Path,
    *,
    views: Sequence[str] = release.VIEWS,
    rows_per_file: int = 2000,
    bytes_per_file: int = 1_000_000_000,
    recipe_digest: str = "",
    about: datasetcard.About = datasetcard.About(),  # noqa: B008 - frozen
    gate: Mapping[str, Any] | None = None,
    probes: Sequence[Mapping[str, Any]] = (),
    audited: Mapping[str, Any] | None = None,
    perturbed: robustness.Wanted = robustness.Wanted(),  # noqa: B008 - frozen
    cleared: rights.Clearance | None = None,
    complete: str = "",
    previous: living.Previous | None = None,
    version: str | None = None,
    provenance: Mapping[str, str] | None = None,
    beside: Path | None = None,
    map: releasewriter.OrderedMap = map,
    progress: releasewriter.Progress | None = None,
) -> Published:
    """Write the release of `store`'s plan to the folder `out`, whole or not at all.

    `views`: which of `equalized` and `native`; the first is the card's default. `rows_per_file`, `bytes_per_file`: the size of
    a shard (bytes as born). `gate`, `probes`: the audit's answer for the card, where there is one yet; publishing again with
    it rewrites the card and leaves the data as it is. `audited`: how it was made (permutations, pixels). `perturbed`: what
    the config `robustness` holds.
    `cleared`: each row's terms, whose pixels stay here, and the lists of what was taken down and put right; `complete`: the
    digest of the release that holds all pixels, where this one does not. `previous`: the version to grow from, whose data files
    are taken over; `version`: this one's number. `provenance`: texts by their place in the folder `provenance`. `beside`: a
    release whose data is taken if it was made from the same inputs.

    Raises `UsageError` for a wrong setting or an `out` that holds something else, `BuildError` listing every image that
    cannot be read or rendered; a kept image that stands among the store's rejects of stage `publish` is left out and listed.
    """
    out = Path(out)
    _check(views)
    releasefolder.check(out, alone=previous is None)
    robustness.check(perturbed, views)
    cleared = cleared or rights.Clearance()
    rejects, kept = rights.hushed(_rejects(store), cleared), rights.applied(_kept(store), cleared)
    older = carrying.Older(store.plan() if previous else PLAN_SCHEMA.empty_table(), previous, cleared.notices.errata)
    kept = older.added(kept)
    number = older.number(kept.num_rows, version)
    names = release.Names.of_rows(kept, previous.names if previous else None)
    parts, kept = tiers.arranged(kept, previous)
    settings = [list(views), rows_per_file, bytes_per_file, *names.lists(), perturbed.settings(), *older.inputs(number)]
    inputs = _digest_of(settings, kept)

    partial = out.with_name(out.name + ".partial")
    there = releasefolder.intact(out, inputs)
    old, place = (there, out) if there or beside is None else (releasefolder.intact(beside, inputs), beside)
    number = str(old.get("version") or number) if old and not (previous or version) else number
    versions = old["versions"] if old else _versions()
    releasefolder.prepare(partial, json.dumps([inputs, versions], sort_keys=True))
    shards = _shards(kept, rows_per_file, bytes_per_file, number if previous else "")
    seen: Mapping[str, ShardPixels] = {}
    if old:
        releasefolder.adopt(place, partial)
        known = {p: f for p, f in old["files"].items() if p.startswith("data/")}
    else:
        known = older.carry(partial)
        fresh, seen = _written(store, partial, kept, names, views, shards, map=map, progress=progress)
        known |= fresh
        if not (previous and release.shards(previous.folder, robustness.CONFIG)):
            # What an earlier version is tested with stays as it is.
            whole = store.root / "release" if complete else None
            known |= robustness.write(partial, perturbed, rows_per_file=rows_per_file, whole=whole, map=map, progress=progress)
    releasefolder.clear(partial)

    # From here on only the folder speaks, and this table is the largest thing in memory.
    terms, ids = older.said(rights.said(kept, cleared, complete), cleared), kept["id"].combine_chunks()
    del kept

    pq.write_table(rejects, partial / "rejects.parquet")
    metadatatable.write(partial, views[0])
    data = release.inventory(partial, known)
    named = tiers.files(parts, views, shards, data, previous.manifest.get("tiers", {}) if previous else {})
    news = changelog.news(number, partial, names, data, previous, len(older.right))
    living.write_plan(partial, _decisions(store, ids), planfile.made_from(store.plan_path) or {}, previous)
    _write(
        partial,
        {f"provenance/{name}": text for name, text in (provenance or {}).items()}
        | {changelog.FILE: news.text}
        | cleared.notices.files(),
    )
    facts = datasetcard.measure(partial, views, rejects, release.digest(data), tiers=named, seen=seen)
    data = release.inventory(partial, data)
    _write(partial, datasetcard.files(facts, about, gate, probes, inventory=data, version=number, rights=terms))
    files = release.inventory(partial, data)
    manifest = {
        "format": 1,
        "title": about.title,
        "version": number,
        "previous": news.previous,
        "tiers": named,
        "digest": release.digest(files),
        "recipe_digest": recipe_digest,
        "inputs": inputs,
        "rows": news.rows,
        "views": facts.views,
        "likeness": facts.likeness,
        "order": list(views),
        "about": about.to_json(),
        "gate": dict(gate) if gate else None,
        **terms,
        "probes": datasetcard.shown(probes),
        "audit": dict(audited) if audited else None,
        "robustness": perturbed.settings() or None,
        "versions": versions,
        "files": files,
    }
    if wrong := cardlint.faults(partial, manifest, facts.pixels):
        raise BuildError(f"the card does not say what the files say, so no release was written: {'; '.join(wrong[:5])}")
    unchanged = releasefolder.put(partial, out, manifest, there)
    return Published(
        out, str(manifest["digest"]), news.rows, facts.views, _size(files), rejects.num_rows, unchanged, facts.likeness,
        manifest.get("withheld", 0), manifest.get("only"), manifest.get("lost"),
        str(manifest["version"]), news.added, news.withdrawn, news.rewritten,
    )  # fmt: skip


def _check(views: Sequence[str]) -> None:
    unknown = [v for v in views if v not in release.VIEWS]
    if unknown or not views or len(set(views)) != len(views):
        raise UsageError(f"views = {list(views)}: choose from {', '.join(release.VIEWS)}, each once")


def _kept(store: Store) -> pa.Table:
    """Plan and facts of every image to be published, sorted by split and id. Columns of the view begin with `view_`."""
    plan = store.plan().select(["id", "category", "origin", "split", "group", "keep", *_VIEW])
    plan = plan.filter(plan["keep"]).sort_by([("split", "ascending"), ("id", "ascending")])
    refused = store.rejects().filter(pc.field("stage") == "publish")["id"]
    plan = plan.filter(pc.invert(pc.is_in(plan["id"], value_set=refused.combine_chunks())))
    if plan.num_rows == 0:
        raise BuildError("the plan keeps no image, so there is nothing to publish: see why with build-imaginet balance")
    lost = plan.filter(pc.invert(pc.is_in(plan["split"], value_set=pa.array(SPLITS))))["id"].to_pylist()
    if lost:
        raise BuildError(
            f"the plan keeps {len(lost)} images without a split, such as {min(lost)}: run build-imaginet balance again"
        )
    torn = _repeated(plan.group_by(["group", "split"]).aggregate([])["group"]).to_pylist()
    if torn:
        raise BuildError(
            f"{len(torn)} groups stand in more than one split, such as {min(torn)}: run build-imaginet balance again"
        )
    _trim()
    table = plan.select(["id", "category", "origin", "split", "group"])
    synthetic = pc.equal(plan["origin"], "synthetic")
    # Half of the facts at a time: reading takes several times the memory of what is read.
    for name, column in (pair for some in (_FACTS[:8], _FACTS[8:]) for pair in _facts(store, some, plan["id"])):
        if name in {"family", "generator"}:
            # A folder may not say what drew its images; a real image has no generator whatever its card says.
            nothing = pa.scalar(None, pa.string())
            table = table.append_column(name, pc.if_else(synthetic, pc.fill_null(column, "unknown"), nothing))
        else:
            table = table.append_column(name, _shared(column) if name == "pair_id" else column)
    for name in _VIEW:
        table = table.append_column(f"view_{name}", plan[name])
    return table.combine_chunks()


def _size(files: Mapping[str, Mapping[str, object]]) -> int:
    return sum(int(str(file["nbytes"])) for file in files.values())


def _shards(kept: pa.Table, rows_per_file: int, bytes_per_file: int, version: str) -> list[release.Shard]:
    splits, nbytes, tier = (kept[column].to_pylist() for column in ("split", "nbytes", "tier"))
    return release.layout(splits, nbytes, rows_per_file, bytes_per_file, tier, version)


def _written(store: Store, partial: Path, *told: Any, **how: Any) -> tuple[Hashes, Mapping[str, ShardPixels]]:
    """The shards of the new rows by path: their hashes, and what their images tell.

    Raises `BuildError` naming every image that cannot be published."""
    written = releasewriter.write(store, partial, *told, **how)
    if written.faults:
        raise BuildError(_say(written.faults, store))
    return written.files, written.pixels


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _decisions(store: Store, ids: pa.Array) -> pa.Table:
    """The plan's rows of what is published now."""
    _trim()
    plan = store.plan()
    plan = plan.filter(pc.is_in(plan["id"], value_set=ids))
    _trim()
    return plan


def _facts(store: Store, names: Sequence[str], ids: pa.ChunkedArray) -> list[tuple[str, pa.ChunkedArray]]:
    """Columns of facts by name, in the order of `ids`."""
    facts = store.facts(names)
    place = pc.index_in(ids, value_set=facts["id"].combine_chunks())
    if place.null_count:
        first = min(ids.filter(place.is_null()).to_pylist())
        raise BuildError(
            f"the plan keeps {place.null_count} images that no part holds, such as {first}: run build-imaginet balance again"
        )
    columns = [(name, facts[name].take(place)) for name in names]
    del facts
    _trim()
    return columns


def _shared(pairs: pa.ChunkedArray) -> pa.ChunkedArray:
    """`pair_id` only where another kept image shares it: a photograph without its fake is no pair."""
    whole = pc.is_in(pairs, value_set=_repeated(pairs), skip_nulls=True)
    return pc.if_else(whole, pairs, pa.scalar(None, pa.string()))


def _repeated(names: pa.ChunkedArray) -> pa.Array:
    """The names that stand there more than once."""
    counts = pc.value_counts(names)
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))


def _trim() -> None:
    """Give back to the system what Arrow and the C library keep of freed memory: what comes next needs other pieces of it."""
    for pool in (pa.default_memory_pool(), pa.system_memory_pool()):
        pool.release_unused()


def _rejects(store: Store) -> pa.Table:
    """What is not in the release and why (`REJECT_SCHEMA`): the refusals of every stage, and what the plan leaves out."""
    plan = store.plan()
    plan = plan.filter(pc.invert(plan["keep"]))
    facts = store.facts(["source_key"]) if plan.num_rows else FACT_SCHEMA.empty_table()
    facts = facts.filter(pc.is_in(facts["id"], value_set=plan["id"].combine_chunks()))
    keys = dict(zip(facts["id"].to_pylist(), facts["source_key"].to_pylist(), strict=True))
    rows = store.rejects().to_pylist()
    for row in plan.select(["id", "origin", "category", "generator_or_source", "reason", "detail"]).to_pylist():
        said = {"stage": "balance", "reason": row["reason"] or "not-kept", "detail": row["detail"] or ""}
        rows.append(row | said | {"source_key": keys.get(row["id"])})
    _trim()
    return table_of(sorted(rows, key=lambda r: (r["stage"], r["id"], r["reason"])), REJECT_SCHEMA)


def _digest_of(settings: object, kept: pa.Table) -> str:
    state = hashlib.sha256(json.dumps(settings).encode())
    for batch in kept.to_batches(max_chunksize=10_000):
        state.update(json.dumps(batch.to_pylist(), sort_keys=True).encode())
    _trim()
    return state.hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in STACK:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    # Pillow's own encoders: its wheels bring them, a distribution's build uses what the system has.
    return found | {name: str(features.version(name) or "none") for name in CODECS}


def _say(faulty: Sequence[str], store: Store) -> str:
    """One message for every image that cannot be published."""
    more = f" and {len(faulty) - 20} more" if len(faulty) > 20 else ""
    return (
        f"{len(faulty)} images of the plan cannot be published, so no release was written: {'; '.join(faulty[:20])}{more}. "
        f"Delete the parts in {store.root / 'parts'} that hold them and run collect or generate, balance and publish again"
    )
