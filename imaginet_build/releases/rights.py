"""What may be done with each image of a work folder, and what stands in a release in place of pixels that may not travel.

A card's word binds all its images (`redistribute`, `commercial`); where it says nothing, and for an image that states a licence
of its own, the licence decides. A picture made from a photograph is bound by both. What nobody says is not known, and counts as
no.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from imaginet_build import cards
from imaginet_build.cards import Card
from imaginet_build.collecting.entries import Entry, Origins, entries
from imaginet_build.recipe import Recipe
from imaginet_build.records import REJECT_SCHEMA, table_of
from imaginet_build.releases import licences, notices
from imaginet_build.releases.licences import Rights
from imaginet_build.releases.notices import NOTHING_BARRED, TAKEN, Bars, Notice, Notices
from imaginet_build.store import Store

Only = Literal["redistributable", "commercial"]
Withhold = Literal["nothing", "forbidden", "unknown"]
"""Whose pixels a release holds back: nobody's; where passing on is forbidden; also where nothing says that it is allowed."""

FETCH = "fetch"
"""The column that says where withheld pixels are to be had; null where they are in the row."""

_FACTS = ("source", "source_key", "generator", "licence", "revision", "pair_id")


@dataclass(frozen=True, slots=True)
class Claim:
    """The terms of one image: its licence as an SPDX expression, what it allows, and the card and recipe entry behind it."""

    licence: str
    rights: Rights
    card: Card | None = None
    entry: Entry | None = None
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Clearance:
    """What may be in a release and how. `claims`: id -> terms; `taken`: what was taken down, by id; `bars`: all that stays out;
    `lost`: rows that a constraint costs, by cell; `seed`: the recipe's, which decides where some sources cut."""

    claims: Mapping[str, Claim] = field(default_factory=dict)
    withhold: Withhold = "nothing"
    notices: Notices = Notices()  # noqa: RUF009 - frozen
    taken: Mapping[str, Notice] = field(default_factory=dict)
    bars: Bars = NOTHING_BARRED
    lost: Mapping[str, Any] | None = None
    seed: int = 0

    def withholds(self, name: str) -> bool:
        """Whether the pixels of an image stay here."""
        if self.withhold == "nothing" or name not in self.claims:
            return False
        allowed = self.claims[name].rights.redistribute
        return allowed is False or (allowed is None and self.withhold == "unknown")


# --- what each image's terms are ---------------------------------------------------------------------------------------


def claims(store: Store, recipe: Recipe, errata: Sequence[notices.Erratum] = (), trust: bool = False) -> dict[str, Claim]:
    """The terms of every image of a work folder, by id. Raises `UsageError` for a card of the recipe that is not there."""
    table = notices.corrected(store.facts(list(_FACTS)), errata)
    origins = Origins(entries(recipe.collect, trust))
    known = {kind: cards.cards(kind) for kind in ("generators", "sources")}
    own: dict[str, Claim] = {}
    made_from: dict[str, str] = {}
    for row in table.to_pylist():
        entry = origins.of(row["id"], row["source_key"]) if row["source_key"] is not None else None
        card = (
            entry.card
            if entry
            else known["sources" if row["source_key"] else "generators"].get(
                row["source"] if row["source_key"] else row["generator"]
            )
        )
        stated = row["licence"] not in (card.licence if card else None, entry.want.licence if entry else None)
        own[row["id"]] = _claim(row["licence"], stated or bool(entry and entry.want.licence), card, entry, row["revision"])
        if row["pair_id"] not in (None, row["id"]):
            made_from[row["id"]] = row["pair_id"]
    return own | {name: _with_source(own[name], own.get(source)) for name, source in made_from.items()}


def _claim(licence: str, stated: bool, card: Card | None, entry: Entry | None, revision: str) -> Claim:
    expression = licences.spdx(licence)
    by_licence = licences.rights_of(expression)
    if card is None:
        return Claim(expression, by_licence, None, entry, revision)
    about = card.about
    rights = Rights(
        _decided(about.redistribute, by_licence.redistribute, stated), _decided(about.commercial, by_licence.commercial, stated)
    )
    return Claim(expression, rights, card, entry, revision)


def _decided(card: bool | None, licence: bool | None, stated: bool) -> bool | None:
    """A no of either holds; the card's yes speaks for images that state nothing themselves."""
    if card is False or licence is False:
        return False
    return licence if stated or card is None else True


def _with_source(made: Claim, source: Claim | None) -> Claim:
    """The terms of a picture that was made from another one; of an unknown one nothing is known."""
    other = source or Claim(licences.NOT_STATED, Rights())
    licence = licences.joined(made.licence, other.licence)
    return Claim(licence, made.rights & other.rights, made.card, made.entry, made.revision)


def barred(known: Mapping[str, Claim], only: Only | None, taken: Mapping[str, Notice]) -> Bars:
    """What stays out of a release: what was taken down, and what the constraint `only` does not let in."""
    why = {}
    if only is not None:
        for name, claim in known.items():
            if not claim.rights.permits(only):
                why[name] = _refused(claim, only)
    return Bars(why | {name: (TAKEN, f"taken down: {notice.reason}") for name, notice in taken.items()}, only)


def _refused(claim: Claim, only: Only) -> tuple[str, str]:
    whose = f"{claim.licence}{f', by the card {claim.card.name}' if claim.card else ''}"
    for what, allowed, reason in (
        ("be passed on", claim.rights.redistribute, "not-redistributable"),
        ("be used commercially", claim.rights.commercial, "not-commercial"),
    ):
        if allowed is not True:
            said = f"it may not {what}" if allowed is False else f"nothing says that it may {what}"
            return reason, f"{said} ({whose})"
    raise AssertionError(f"{whose} permits what is {only}")


# --- what a release holds ----------------------------------------------------------------------------------------------


def applied(kept: pa.Table, cleared: Clearance | None) -> pa.Table:
    """The rows of a release with what was wrong put right, their licence as SPDX writes it, and the column `FETCH`.

    `kept`: as `publish` joins it from plan and facts. Without a clearance licences are what the rows' own words say.
    """
    cleared = cleared or Clearance()
    kept = notices.corrected(kept, cleared.notices.errata)
    names = kept["id"].to_pylist()
    stated = [
        cleared.claims[name].licence if name in cleared.claims else licences.spdx(licence)
        for name, licence in zip(names, kept["licence"].to_pylist(), strict=True)
    ]
    kept = kept.set_column(kept.schema.get_field_index("licence"), "licence", pa.array(stated, pa.string()))
    held = [cleared.withholds(name) for name in names]
    rows = kept.filter(pa.array(held)).to_pylist() if any(held) else []
    hints = iter([hint(row, cleared.claims[row["id"]], cleared.seed) for row in rows])
    column = pa.array([next(hints) if one else None for one in held], pa.string())
    return kept.append_column(FETCH, column)


def hint(row: Mapping[str, Any], claim: Claim, seed: int) -> str:
    """How the pixels of a row are to be had again, as JSON: the card and its collector with its options, the key in the source
    (an address, ARCHIVE/MEMBER, SHARD/ROW or a path), the SHA-256 and length of the bytes as born, and the recipe of the row of
    the `equalized` view (`records.View`)."""
    entry, card = claim.entry, claim.card
    key = row["source_key"]
    said = {
        "kind": "source" if key is not None else "generator",
        "card": card.name if card else row["source"] or row["generator"],
        "adapter": card.adapter if card else None,
        "revision": claim.revision or None,
        "options": dict(entry.options) if entry else {},
        "category": entry.want.category if entry else None,
        "seed": seed,
        "page": (card.about.url if card else "") or None,
        "by_hand": (card.about.by_hand if card else "") or None,
        "source_key": key,
        "sha256": row["sha256"],
        "nbytes": row["nbytes"],
        "view": {name.removeprefix("view_"): value for name, value in row.items() if name.startswith("view_")},
    }
    return json.dumps({k: v for k, v in said.items() if v is not None}, sort_keys=True, default=str)


def hushed(rejects: pa.Table, cleared: Clearance | None) -> pa.Table:
    """The list of rejects, in which what was taken down has no key and no reason but that one; what only the lists know of is
    added."""
    if cleared is None or not (cleared.taken or cleared.notices.taken):
        return rejects
    gone = set(cleared.taken) | {notice.id for notice in cleared.notices.taken if notice.recognised}
    rows = []
    for row in rejects.to_pylist():
        if row["id"] in gone or row["reason"] == TAKEN:
            gone.discard(row["id"])
            detail = row["detail"] if row["reason"] == TAKEN else "taken down"
            row |= {"reason": TAKEN, "detail": detail, "source_key": None}
        rows.append(row)
    reasons = {notice.id: notice.reason for notice in cleared.notices.taken}
    for name in sorted(gone):
        blank: dict[str, Any] = dict.fromkeys(REJECT_SCHEMA.names)
        rows.append(blank | {"id": name, "stage": "publish", "reason": TAKEN, "detail": f"taken down: {reasons.get(name, '')}"})
    return table_of(sorted(rows, key=lambda r: (r["stage"], r["id"], r["reason"])), REJECT_SCHEMA)


def said(terms: Mapping[str, int], cleared: Clearance, complete: str) -> dict[str, Any]:
    """What `release.json` says of rights: what was counted (`rightstable.counted`); `complete`, the digest of the release with
    the pixels that are withheld; `only` and `lost`, a constraint and its cost."""
    found: dict[str, Any] = {name: terms[name] for name in ("withheld", "must_not_travel")}
    if found["withheld"] and complete:
        found["complete"] = complete
    return found | ({"only": cleared.bars.only, "lost": dict(cleared.lost or {})} if cleared.bars.only else {})
