"""The texts of a release: README.md, LICENSE.md, DATASHEET.md, croissant.json and the composition table.

Every number is counted from the release itself (`cardfacts`); every other word that is not ours is escaped. The front matter is
what the Hugging Face Hub reads: the configs of the folder (`configs.found`) and a `dataset_info` taken from the Parquet schema,
because `datasets` believes the card over the schema where they differ.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from imaginet_build.auditing.pixel_probes import EXPECTED
from imaginet_build.records import ORIGINS, SPLITS
from imaginet_build.releases import cardwords, croissant, licences
from imaginet_build.releases.cardfacts import Measured, measure
from imaginet_build.releases.configs import COLUMNS, dataset_info

__all__ = ["About", "Measured", "files", "measure"]

COMPOSITION = "composition.csv"
TEXTS = ("README.md", "LICENSE.md", "DATASHEET.md", "croissant.json", COMPOSITION)
"""What `files` writes."""

_CELL = ("content_type", "label", "family", "generator_or_source")
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"), (1e8, "10M<n<100M"))


@dataclass(frozen=True, slots=True)
class About:
    """What cannot be counted. `sources`: one mapping for each source and generator card (name, title, url, licence,
    revision), shown where a row of the release comes from it. `contact`: where to ask for an image to be taken down.
    `statements`: what else the recipe says in `[publish.about]`, by key."""

    title: str = "Synthetic image detection data set"
    description: str = ""
    repo: str = ""
    contact: str = ""
    citation: str = ""
    sources: tuple[Mapping[str, Any], ...] = ()
    statements: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> About:
        """What `to_json` wrote."""
        return cls(**{**values, "sources": tuple(values["sources"])})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, for `release.json`: with the files, all that the texts are made of."""
        return asdict(self) | {"sources": [dict(source) for source in self.sources], "statements": dict(self.statements)}


def files(
    facts: Measured,
    about: About,
    gate: Mapping[str, Any] | None = None,
    probes: Sequence[Mapping[str, Any]] = (),
    *,
    inventory: Mapping[str, Mapping[str, object]],
    version: str = "",
    rights: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The texts of a release by name (`TEXTS`). `inventory`: SHA-256 and size of its files (`release.inventory`). `rights`:
    what `release.json` says of them (`rights.said`)."""
    splits, wide = _wide(facts.composition)
    limits = _limits(facts)
    told = shown(probes)
    known = {
        "facts": facts,
        "about": about,
        "gate": {"reason": "", "self_test": None, "forced": False} | dict(gate) if gate else None,
        "probes": [p for p in told if p.get("gate", True)],
        "beside": [p for p in told if not p.get("gate", True)],
        "expected": EXPECTED,
        "default": next(iter(facts.views)),
        "version": version,
        "size": next((name for limit, name in _SIZES if facts.rows < limit), "100M<n<1B"),
        "info": dataset_info(facts.configs),
        "splits": splits,
        "composition": wide,
        "totals": {name: sum(row[name] for row in wide) for name in (*splits, "all")},
        "terms": _with_cards(facts.terms, about.sources),
        "limits": limits,
        "columns": {name: COLUMNS.get(name, "") for name in facts.configs[0].features},
        "rights": {"only": None, "must_not_travel": 0} | dict(rights or {}),
        "entry": _entry(facts, about, version),
    }
    texts = {
        name: _environment().get_template(template).render(known)
        for name, template in (
            ("README.md", "card.md.j2"),
            ("LICENSE.md", "licence.md.j2"),
            ("DATASHEET.md", "datasheet.md.j2"),
        )
    }
    about = replace(about, citation=about.citation or _entry(facts, about, version))
    described = croissant.describe(facts, about, inventory, gate=gate, limits=limits, version=version)
    return texts | {
        "croissant.json": json.dumps(described, indent=1) + "\n",
        COMPOSITION: _csv(facts.composition),
    }


def _wide(composition: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """The splits there are, and for every cell its names and its rows by split and in `all`, sorted by the names."""
    splits: list[str] = [split for split in SPLITS if any(row["split"] == split for row in composition)]
    cells: dict[tuple[str, ...], dict[str, int]] = {}
    for row in composition:
        cell = cells.setdefault(tuple(row[name] for name in _CELL), dict.fromkeys((*splits, "all"), 0))
        cell[row["split"]] += row["rows"]
        cell["all"] += row["rows"]
    return splits, [dict(zip(_CELL, cell, strict=True)) | cells[cell] for cell in sorted(cells)]


def _csv(composition: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    lines = csv.DictWriter(out, [*_CELL, "split", "rows"], lineterminator="\n")
    lines.writeheader()
    lines.writerows(composition)
    return out.getvalue()


def shown(probes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines of an audit that a card holds: how far origin can be guessed over everything."""
    return [dict(p) for p in probes if p["track"] == "origin" and p.get("scope", "all") == "all"]


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("imaginet_build"),
        autoescape=False,  # noqa: S701 - Markdown; the filters below escape what is not ours
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["told"] = licences.told
    environment.filters |= {
        "cell": cardwords.cell,
        "words": cardwords.words,
        "yaml": cardwords.yaml,
        "block": cardwords.block,
        "fence": cardwords.fence,
    }
    return environment


def _with_cards(terms: Sequence[Mapping[str, Any]], cards: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows by label, generator or source and licence, each beside what its card says."""
    blank = {"title": "", "licence": "", "revision": "", "url": ""}
    by_name = {card["name"]: blank | {key: value or "" for key, value in card.items()} for card in cards}
    return [dict(term) | {"card": by_name.get(term["generator_or_source"], blank)} for term in terms]


def _entry(facts: Measured, about: About, version: str) -> str:
    """The release as one BibTeX entry: only what is known of it."""
    known = {
        "author": about.statements.get("creators", ""),
        "title": about.title,
        "year": about.statements.get("published", "")[:4],
        "version": version,
        "url": f"https://huggingface.co/datasets/{about.repo}" if about.repo else "",
        "note": f"{facts.rows} images, SHA-256 of the data {facts.digest}",
    }
    lines = [f"  {key} = {{{cardwords.bibtex(value)}}}," for key, value in known.items() if value]
    return "\n".join([f"@misc{{release-{facts.digest[:12]},", *lines, "}"])


def _limits(facts: Measured) -> list[str]:
    """What the composition itself leaves wanting, one sentence each."""
    found = [
        f"There is no `{split}` split: too few groups, or the recipe asked for none."
        for split in SPLITS
        if split not in next(iter(facts.views.values()))
    ]
    real, synthetic = (facts.labels[label] for label in ORIGINS)
    if real != synthetic:
        found.append(f"The classes are not equal: {real} real and {synthetic} synthetic images.")
    by_type: dict[str, set[str]] = {}
    by_maker: dict[str, set[str]] = {}
    for row in facts.composition:
        by_type.setdefault(row["content_type"], set()).add(row["label"])
        by_maker.setdefault(row["generator_or_source"], set()).add(row["split"])
    found += [
        f"All images of content type {cardwords.cell(name)} are {next(iter(labels))}: it tells the label."
        for name, labels in sorted(by_type.items())
        if len(labels) == 1
    ]
    held = sorted(name for name, splits in by_maker.items() if splits == {"test"})
    if held and len(held) < len(by_maker):
        found.append(f"In the test split only: {', '.join(map(cardwords.cell, held))}.")
    unstated = sum(sum(n.values()) for name, n in facts.licences.items() if "not-stated" in name)
    if unstated:
        found.append(f"For {unstated} images no licence is stated.")
    if not any(name.endswith(".c2pa") for name in facts.files):
        born = "; `native` keeps what the born bytes hold" if "native" in facts.views else ""
        found.append(f"This release carries no C2PA sidecars, for either class{born}.")
    return found
