"""`publish --dry-run`: what a release would hold and where it would go, told from the plan and the facts alone.

Nothing is written, balanced, encoded, hashed or asked of anybody. So what a new plan would keep is told as what the plan that
is there keeps and the most it can be, and the size of what is yet to be encoded as an estimate that says what it is made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build.balancing import planfile
from imaginet_build.destinations import urlpush
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.publish import BYTES_PER_FILE
from imaginet_build.records import SPLITS
from imaginet_build.releases import living, notices, release, tiers
from imaginet_build.releases.rights import Clearance
from imaginet_build.running import clearance, growing, stages
from imaginet_build.running.clearance import Asked
from imaginet_build.running.delivery import Where, tag_of
from imaginet_build.running.workspace import Session

BYTES_A_PIXEL = {"jpeg": 0.3, "webp": 0.2, "png": 1.9}
"""What an image of an equalized view takes by its codec, where no release lies there to measure it by."""

_VIEW = ["id", "origin", "split", "width", "height", "codec"]


def outlook(
    session: Session, where: Where, force: bool, asked: Asked, grow: Path | None, version: str | None
) -> dict[str, Any]:
    """The document that `publish --dry-run --json` prints. Raises what `publish` would raise for a wrong call or no plan."""
    where.check()
    store, recipe = session.store, session.recipe
    out = urlpush.local(where.out) if where.out is not None else None
    travels = where.out is not None or where.repo is not None
    if grow is None:
        grow, made = growing.again(session, out)
        version = version or made
    older = _older(grow) if grow is not None else None
    clear = clearance.cleared(session, asked.only or recipe.publish.only, [grow, out])
    kept, anew, besides = _kept(session, clear, grow)
    hold = replace(clear, withhold=asked.holding(recipe, travels))
    number = _number(session, kept, version) if older is None else older["version"]
    if older and grow is not None:
        older |= _changed(grow, clear)
        if version or kept.num_rows or besides["unplanned"] or older["withdrawn"] or older["corrected"]:
            number = living.number_after(older["version"], older["release"], version)
    rows = Counter(kept["split"].to_pylist())
    return {
        "work": str(store.root),
        "rows": {split: rows[split] for split in SPLITS if rows[split]},
        "origins": dict(sorted(Counter(kept["origin"].to_pylist()).items())),
        "balanced_anew": anew,
        "at_most": kept.num_rows + sum(besides.values()),
        "views": _views(session, kept, hold),
        "robustness": recipe.publish.robustness,
        "rights": _rights(kept, hold),
        "only": clear.bars.only,
        "taken_down": len(clear.taken),
        "version": number,
        "grown_from": older,
        "goes": _goes(session, where, number),
        "gate": _gate(session, travels, force),
    }  # fmt: skip


def _older(folder: Path) -> dict[str, Any]:
    """The release that this one grows from: its rows and data files stay, but for what is withdrawn."""
    manifest = release.read_manifest(folder)
    if not (folder / living.PLAN).is_file():
        raise UsageError(f"{folder} does not hold {living.PLAN}, the decisions behind its rows, so nothing grows from it")
    nbytes = sum(facts["nbytes"] for path, facts in manifest["files"].items() if path.startswith("data/"))
    return {
        "release": str(folder),
        "version": manifest.get("version") or living.FIRST,
        "rows": manifest["rows"],
        "nbytes": nbytes,
    }


def _changed(folder: Path, clear: Clearance) -> dict[str, int]:
    """How many rows of the release that this one grows from are withdrawn, or put right."""
    ids = set(_ids(folder))
    taken = {notice.id for notice in clear.notices.taken if notice.recognised}
    news = set(clear.notices.errata) - set(notices.read(folder).errata)
    return {
        "withdrawn": len(ids & (taken | clear.bars.why.keys())),
        "corrected": len(ids & {one.id for one in news if one.column in notices.CORRECTABLE}),
    }


def _kept(session: Session, clear: Clearance, grow: Path | None) -> tuple[pa.Table, str | None, dict[str, int]]:
    """The rows of the plan that would be published, but for those of the release that this one grows from; why the plan would
    be made anew before, if it would; and how many images it might keep besides then: those that it leaves out now, and those
    that came after it (`unplanned`)."""
    store = session.store
    plan = store.plan()
    kept = plan.filter(plan["keep"]).select(_VIEW)
    refused = store.rejects().filter(pc.field("stage") == "publish")["id"]
    gone = pa.array(sorted({*refused.to_pylist(), *clear.bars.why}), pa.string())
    anew = None
    if grow is not None:
        anew = f"around the rows of {grow}"
        gone = pa.array(sorted({*gone.to_pylist(), *_ids(grow)}), pa.string())
    elif (planfile.made_from(store.plan_path) or {}).get("barred", {}) != clear.bars.mark():
        anew = f"with only what is {clear.bars.only}" if clear.bars.only else "without what is taken down"
    kept = kept.filter(pc.invert(pc.is_in(kept["id"], value_set=gone)))
    if kept.num_rows == 0 and grow is None:
        raise BuildError("the plan keeps no image that may be published: see why with build-imaginet balance")
    besides = {"left_out": 0, "unplanned": 0}
    if anew is not None:
        ids = session.store.facts(["id"])["id"]
        ids = ids.filter(pc.invert(pc.is_in(ids, value_set=gone)))
        planned = pc.sum(pc.is_in(ids, value_set=plan["id"].combine_chunks())).as_py() or 0
        besides = {"left_out": max(planned - kept.num_rows, 0), "unplanned": len(ids) - planned}
    return kept, anew, besides


def _number(session: Session, kept: pa.Table, version: str | None) -> str:
    """The version of a release that grows from none: the one that lies there keeps its number while its rows stay."""
    number = living.first_version(version)
    there = session.store.root / "release"
    if version is not None or not (there / living.PLAN).is_file() or not (there / release.MANIFEST).is_file():
        return number
    return str(release.read_manifest(there).get("version") or number) if _ids(there) == kept["id"].to_pylist() else number


def _ids(folder: Path) -> list[str]:
    """Every row of a release, sorted."""
    ids: list[str] = pq.read_table(folder / living.PLAN, columns=["id"])["id"].to_pylist()
    return ids


def _views(session: Session, kept: pa.Table, hold: Clearance) -> dict[str, dict[str, Any]]:
    """By view its rows, shards and bytes; `estimated`: what the bytes are told from."""
    settings = session.recipe.publish
    facts = session.store.facts(["nbytes"])
    born = facts["nbytes"].take(pc.index_in(kept["id"], value_set=facts["id"].combine_chunks())).fill_null(0)
    here = np.array([not hold.withholds(name) for name in kept["id"].to_pylist()])
    nbytes = np.asarray(born.to_numpy(), dtype=np.int64) * here
    pixels = np.asarray(pc.multiply(pc.cast(kept["width"], pa.int64()), kept["height"]).fill_null(0).to_numpy()) * here
    spent, told = _bytes_a_pixel(session, kept)
    sizes = {"native": (int(nbytes.sum()), "the bytes as born"), "equalized": (int((pixels * spent).sum()), told)}
    shards = _shards(kept, np.asarray(born.to_numpy()), settings.rows_per_file)
    return {
        view: {"rows": kept.num_rows, "pixels": int(here.sum()), "shards": shards}
        | {"nbytes": sizes[view][0], "estimated": sizes[view][1]}
        for view in settings.views
    }


def _bytes_a_pixel(session: Session, kept: pa.Table) -> tuple[Any, str]:
    """Of every row, and where that is known from."""
    there = session.store.root / "release"
    if (there / release.MANIFEST).is_file():
        alike = release.read_manifest(there).get("likeness", {}).get("equalized") or {}
        spent = alike.get("bytes_per_pixel", {})
        if all(isinstance(spent.get(origin), float) for origin in ("real", "synthetic")):
            return np.array([spent[origin] for origin in kept["origin"].to_pylist()]), f"the bytes a pixel of {there}"
    codecs = [BYTES_A_PIXEL.get(codec, 1.0) for codec in kept["codec"].to_pylist()]
    return np.array(codecs), ", ".join(f"{value} bytes a pixel of {name}" for name, value in BYTES_A_PIXEL.items())


def _shards(kept: pa.Table, nbytes: Any, rows_per_file: int) -> int:
    """Files of one view, about: every tier of every split begins one."""
    split = kept["split"].to_pylist()
    ends = [*tiers.sizes(kept.num_rows).values(), kept.num_rows]
    parts = np.diff([0, *ends]) / max(kept.num_rows, 1)
    found = 0
    for one in set(split):
        mine = np.array([name == one for name in split])
        rows, size = int(mine.sum()), int(nbytes[mine].sum())
        found += sum(max(-(-round(rows * p) // rows_per_file), -(-round(size * p) // BYTES_PER_FILE), 1) for p in parts)
    return found


def _rights(kept: pa.Table, hold: Clearance) -> dict[str, Any]:
    """Rows that go with their pixels, and those that go as a fetch hint, each by licence; and rows of which nobody knows."""
    goes: Counter[str] = Counter()
    stays: Counter[str] = Counter()
    unknown = 0
    for name in kept["id"].to_pylist():
        claim = hold.claims[name]
        (stays if hold.withholds(name) else goes)[claim.licence] += 1
        unknown += claim.rights.redistribute is None and not hold.withholds(name)
    return {
        "withhold": hold.withhold,
        "with_pixels": dict(goes.most_common()),
        "fetch_hints": dict(stays.most_common()),
        "nobody_knows": unknown,
    }


def _goes(session: Session, where: Where, version: str) -> dict[str, Any]:
    """Where to, and what of it only that place can tell."""
    if where.repo is not None:
        seen = {None: "as it is there; a new one private", True: "private", False: "public"}[where.private]
        lacking = [name for name in ("huggingface_hub", "datasets") if find_spec(name) is None]
        return {
            "kind": "Hub", "place": where.repo, "branch": where.branch, "tag": tag_of(where, version), "visibility": seen,
            "missing": ["pip install 'imaginet-build[hub]'"] * bool(lacking),
        }  # fmt: skip
    if where.out is None:
        return {"kind": "work folder", "place": str(session.store.root / "release")}
    folder = urlpush.local(where.out)
    return {"kind": "folder" if folder else "address", "place": str(folder or urlpush.shown(where.out))}


def _gate(session: Session, travels: bool, force: bool) -> dict[str, Any]:
    """What the audit must say of it, and what it said last of the release in the work folder."""
    said = stages.audited(session.store)
    needs: Sequence[str] = ["passed", "undecided", "refused"] if force or not travels else ["passed", "undecided"]
    last = {key: said["gate"].get(key) for key in ("verdict", "value")} if said else None
    return {"needs": needs, "limit": session.recipe.audit.limit, "last": last, "of": said.get("digest")}


def text(document: dict[str, Any]) -> str:
    """The same for people."""
    rows, goes, gate, rights = document["rows"], document["goes"], document["gate"], document["rights"]
    total = sum(rows.values())
    grown = document["grown_from"]
    most = f"{' more' if grown else ''} at most: the plan is made anew {document['balanced_anew']}"
    if document["at_most"] > total:
        most = f"{' more' if grown else ''} as planned now, {document['at_most']}{most}"
    splits = ", ".join(f"{n} {split}" for split, n in rows.items()) or "none"
    lines = [f"{total} images{most if document['balanced_anew'] else ''} ({splits})"]
    if grown:
        stay = f"and the {grown['rows']} of {grown['release']}, {grown['nbytes'] / 1e6:.1f} MB of data as they are"
        pairs = (("withdrawn", "withdrawn"), ("corrected", "put right"))
        but = " and ".join(f"{grown[key]} {what}" for key, what in pairs if grown[key])
        lines.append(stay + (f", but for those {but} and the files they stand in" if but else ""))
    for view, told in document["views"].items():
        lines.append(
            f"{view}: {told['rows']} rows in about {told['shards']} files, about {told['nbytes'] / 1e6:.1f} MB "
            f"(by {told['estimated']})"
        )
    if document["robustness"] != "none":
        lines.append(f"robustness: the test images under {document['robustness']} conditions, besides")
    for key, what in (("with_pixels", "with their pixels"), ("fetch_hints", "as a fetch hint, without pixels")):
        if held := rights[key]:
            named = ", ".join(f"{n} {name}" for name, n in list(held.items())[:6]) + ", …" * (len(held) > 6)
            lines.append(f"{what}: {sum(held.values())} rows ({named})")
    if rights["nobody_knows"] and goes["kind"] != "work folder":
        lines.append(
            f"of {rights['nobody_knows']} rows with pixels nothing says that they may go: --withhold unknown keeps them here"
        )
    if document["only"]:
        lines.append(f"only what is {document['only']}")
    if document["taken_down"]:
        lines.append(f"{document['taken_down']} images stay out: they were taken down")
    lines.append(f"version {document['version']}" + (f", grown from {grown['version']}" if grown else ""))
    told = f"to the {goes['kind']} {goes['place']}"
    if goes["kind"] == "Hub":
        told = f"to {goes['place']} on the Hub, branch {goes['branch']}, {goes['visibility']}; " + (
            f"then tagged {goes['tag']}" if goes["tag"] else "no tag"
        )
    lines += [told, *(f"first: {need}" for need in goes.get("missing", ()))]
    last = gate["last"]
    said = f"the last audit here says {last['verdict']}" if last else "it is audited first"
    needs = "any verdict will do" if "refused" in gate["needs"] else f"{' or '.join(gate['needs'])} it must be"
    lines.append(f"gate: {needs} (limit {gate['limit']:.2f}); {said}")
    return "\n".join([*lines, "nothing was written, and nobody was asked"])
