"""`publish`: the balancer's plan and the parts become a release folder.

Nothing in the result depends on how the parts are cut, how many workers there are, or how often the run was killed: a shard
that is finished is kept, and the folder takes its place as a whole.
"""

from __future__ import annotations

import functools
import json
import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import features

from imaginet_build.balancing import planfile
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import PLAN_SCHEMA
from imaginet_build.releases import (
    cardlint,
    carrying,
    changelog,
    datasetcard,
    living,
    metadatatable,
    rejections,
    release,
    releasefolder,
    releaserows,
    releasewriter,
    rights,
    rightstable,
    robustness,
    tiers,
)
from imaginet_build.releases.joining import Joined
from imaginet_build.releases.rowfile import RowFile
from imaginet_build.releases.shardpixels import ShardPixels
from imaginet_build.store import Store

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

STACK = ("imaginet-build", "license-expression", "numpy", "pillow", "pyarrow", "simplejpeg")
CODECS = ("libjpeg_turbo", "webp", "zlib_ng", "zlib")
"""The libraries that can change a byte of a release, and those in them that encode."""

BYTES_PER_FILE = 1_000_000_000
"""About how many bytes, as born, a shard holds at most."""

Hashes = dict[str, dict[str, object]]


@dataclass(frozen=True, slots=True)
class Told:
    """What a release says of itself that cannot be counted. `about`: the publisher's words. `audit`: the audit's document
    (`gate`, `probes`, and how it was made: `settings`), empty where there is none yet. `recipe_digest`: of the recipe behind
    it. `provenance`: texts by their place in the folder `provenance`."""

    about: datasetcard.About = datasetcard.About()  # noqa: RUF009 - frozen
    audit: Mapping[str, Any] = field(default_factory=dict)
    recipe_digest: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def gate(self) -> dict[str, Any] | None:
        """The audit's verdict."""
        gate = self.audit.get("gate")
        return dict(gate) if gate else None

    @property
    def probes(self) -> Sequence[Mapping[str, Any]]:
        """What it looked at."""
        return self.audit.get("probes") or ()


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
    told: Told = Told(),
    perturbed: robustness.Wanted = robustness.Wanted(),  # noqa: B008 - frozen
    cleared: rights.Clearance | None = None,
    previous: living.Previous | None = None,
    version: str | None = None,
    beside: Path | None = None,
    map: releasewriter.OrderedMap = map,
    progress: releasewriter.Progress | None = None,
) -> Published:
    """Write the release of `store`'s plan to the folder `out`, whole or not at all.

    `views`: which of `equalized` and `native`; the first is the card's default. `rows_per_file`: the most rows of a shard.
    `told`: what is said of it; publishing again with other words rewrites the card and leaves the data as it is. `perturbed`:
    what the config `robustness` holds. `cleared`: each row's terms, whose pixels stay here, and the lists of what was taken
    down and put right. `previous`: the version to grow from, whose data files are taken over; `version`: this one's number.
    `beside`: the same release elsewhere, with all its pixels, whose data is taken if it was made from the same inputs.

    Raises `UsageError` for a wrong setting or an `out` that holds something else, `BuildError` listing every image that
    cannot be read or rendered; a kept image that stands among the store's rejects of stage `publish` is left out and listed.
    """
    out = Path(out)
    _check(views)
    releasefolder.check(out, alone=previous is None)
    robustness.check(perturbed, views)
    cleared = cleared or rights.Clearance()
    older = carrying.Older(store.plan() if previous else PLAN_SCHEMA.empty_table(), previous, cleared.notices.errata)
    older.check()
    added, rejects = _rows(store, out.parent, cleared, older)
    number = older.number(added.num_rows, version)
    names = release.Names.of(*added.names, before=previous.names if previous else None)
    settings = [list(views), rows_per_file, BYTES_PER_FILE, *names.lists(), perturbed.settings(), *older.inputs(number)]
    inputs = added.digest(settings)

    partial = out.with_name(out.name + ".partial")
    complete = _digest_of(beside) if beside and beside != out else ""
    there = releasefolder.intact(out, inputs)
    old, place = (there, out) if there or beside is None else (releasefolder.intact(beside, inputs), beside)
    number = str(old.get("version") or number) if old and not (previous or version) else number
    versions = old["versions"] if old else _versions()
    releasefolder.prepare(partial, json.dumps([inputs, versions], sort_keys=True))
    shards = release.layout(added.runs, rows_per_file, BYTES_PER_FILE, number if previous else "")
    seen: Mapping[str, ShardPixels] = {}
    if old:
        releasefolder.adopt(place, partial)
        known = {p: f for p, f in old["files"].items() if p.startswith("data/")}
    else:
        known = older.carry(partial)
        fresh, seen = _written(store, partial, added, names, views, shards, map=map, progress=progress)
        known |= fresh
        if not (previous and release.shards(previous.folder, robustness.CONFIG)):
            # What an earlier version is tested with stays as it is.
            whole = beside if complete else None
            known |= robustness.write(partial, perturbed, rows_per_file=rows_per_file, whole=whole, map=map, progress=progress)
    releasefolder.clear(partial)

    rightstable.write(partial, views[0], cleared.claims, previous.folder if previous else None)
    terms = rights.said(rightstable.counted(partial, views[0]), cleared, complete)
    pq.write_table(rejects, partial / "rejects.parquet")
    metadatatable.write(partial, views[0])
    data = release.inventory(partial, known)
    named = tiers.files(added.tiers, views, shards, data, previous.manifest.get("tiers", {}) if previous else {})
    news = changelog.news(number, partial, names, data, previous, len(older.right))
    living.write_plan(partial, _decisions(store, added.published), planfile.made_from(store.plan_path) or {}, previous)
    _write(
        partial,
        {f"provenance/{name}": text for name, text in told.provenance.items()}
        | {changelog.FILE: news.text}
        | cleared.notices.files(),
    )
    facts = datasetcard.measure(partial, views, rejects, release.digest(data), tiers=named, seen=seen)
    data = release.inventory(partial, data)
    _write(partial, datasetcard.files(facts, told.about, told.gate, told.probes, inventory=data, version=number, rights=terms))
    files = release.inventory(partial, data)
    manifest = {
        "format": 1,
        "title": told.about.title,
        "version": number,
        "previous": news.previous,
        "tiers": named,
        "digest": release.digest(files),
        "recipe_digest": told.recipe_digest,
        "inputs": inputs,
        "rows": news.rows,
        "views": facts.views,
        "likeness": facts.likeness,
        "order": list(views),
        "about": told.about.to_json(),
        "gate": told.gate,
        **terms,
        "probes": datasetcard.shown(told.probes),
        "audit": told.audit.get("settings"),
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


def _digest_of(folder: Path) -> str:
    """Of the release there, '' where there is none."""
    return str(release.read_manifest(folder)["digest"]) if (folder / release.MANIFEST).is_file() else ""


def _check(views: Sequence[str]) -> None:
    unknown = [v for v in views if v not in release.VIEWS]
    if unknown or not views or len(set(views)) != len(views):
        raise UsageError(f"views = {list(views)}: choose from {', '.join(release.VIEWS)}, each once")


def _rows(
    store: Store, scratch: Path, cleared: rights.Clearance, older: carrying.Older
) -> tuple[releaserows.ReleaseRows, pa.Table]:
    """What is new in this version, and what is not in it. `scratch`: a folder for the former, in files without a name."""
    joined = Joined(store, RowFile(scratch))
    added = releaserows.arranged(joined, RowFile(scratch), cleared, older)
    rejects = rights.hushed(rejections.rejected(store, joined), cleared)
    _trim()
    return added, rejects


def _size(files: Mapping[str, Mapping[str, object]]) -> int:
    return sum(int(str(file["nbytes"])) for file in files.values())


def _written(store: Store, partial: Path, *told: Any, **how: Any) -> tuple[Hashes, Mapping[str, ShardPixels]]:
    """The shards of the new rows by path: their hashes, and what their images tell.

    Raises `BuildError` naming every image that cannot be published."""
    written = releasewriter.write(partial, *told, **how)
    if written.faults:
        raise BuildError(_say(written.faults, store))
    return written.files, written.pixels


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _decisions(store: Store, published: NDArray[np.bool_]) -> Iterator[pa.Table]:
    """The plan's rows of what is published now. `published`: by place in the plan."""
    start = 0
    for batch in store.plan_batches(PLAN_SCHEMA.names):
        yield pa.Table.from_batches([batch.filter(pa.array(published[start : start + batch.num_rows]))])
        start += batch.num_rows


def _trim() -> None:
    """Give back to the system what Arrow and the C library keep of freed memory: what comes next needs other pieces of it."""
    for pool in (pa.default_memory_pool(), pa.system_memory_pool()):
        pool.release_unused()


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
