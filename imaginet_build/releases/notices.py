"""The two lists that every version of a data set hands on to the next: what was taken down, and what was wrong.

`takedown.csv` in the work folder is written by hand, one line for each image: `id`, `source_key` (with `source`, where two
sources use the same keys) or `sha256` (of the bytes as born, or of the release's own), any of them; a `reason` of `REASONS`;
and a `note` that never leaves the work folder. The release's list holds digests in place of keys, so that it names nobody and
still recognises the image, its exact copies and its other encodings.

`errata.csv` is the same in both places: `id`, `column`, `value`, `note`. With one of `CORRECTABLE` as its column it changes the
row; without a column it is a remark. What decides the balance cannot be corrected: take the image down as an `error`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from imaginet_build.errors import UsageError, suggest
from imaginet_build.releases import release
from imaginet_build.store import Store

TAKEDOWN, ERRATA = "takedown.csv", "errata.csv"
TAKEN = "taken-down"
REASONS = ("request", "privacy", "licence", "illegal", "error")
CORRECTABLE = ("licence", "source", "prompt")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WRITTEN = ("id", "source", "source_key", "sha256", "reason", "note")
Row = Mapping[str, str | None]
_FACTS = ("source", "source_key", "sha256", "pixel_hash", "pair_id", "origin")


@dataclass(frozen=True, slots=True, order=True)
class Notice:
    """One image that was taken down; '' where a thing is not known. `key`: digest of its source key alone; `place`: of source
    and key; `sha256`: of its bytes as born; `view`: of its bytes in a view of the release; `pixels`: of its pixels."""

    id: str = ""
    key: str = ""
    place: str = ""
    sha256: str = ""
    view: str = ""
    pixels: str = ""
    reason: str = REASONS[0]

    @property
    def recognised(self) -> bool:
        """Whether it is known which image it is."""
        return bool(self.id and self.sha256)


@dataclass(frozen=True, slots=True, order=True)
class Erratum:
    """What was wrong with one image, and the right value of its column; a remark where there is no column."""

    id: str
    column: str = ""
    value: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Notices:
    """Both lists, sorted."""

    taken: tuple[Notice, ...] = ()
    errata: tuple[Erratum, ...] = ()

    def files(self) -> dict[str, str]:
        """The release's files by name, those of lists that have lines."""
        lists = {TAKEDOWN: _csv(Notice, self.taken)} if self.taken else {}
        return lists | ({ERRATA: _csv(Erratum, self.errata)} if self.errata else {})


@dataclass(frozen=True, slots=True)
class Bars:
    """Images that may not enter a release, whatever balances best: id -> reason and sentence. `only`: the constraint that is
    among the reasons, `redistributable` or `commercial`."""

    why: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    only: str | None = None

    def copies(self, ids: Sequence[str], near: Sequence[int]) -> dict[str, tuple[str, str]]:
        """The images that resemble one that was taken down, told by their component of near-duplicates; they go with it."""
        gone = {name for name, (reason, _) in self.why.items() if reason == TAKEN}
        first = {component: name for name, component in zip(ids, near, strict=True) if name in gone}
        return {
            name: (TAKEN, f"a near-duplicate of {first[component]}, which was taken down")
            for name, component in zip(ids, near, strict=True)
            if component in first and name not in gone
        }

    def mark(self) -> dict[str, object]:
        """What a plan says it was made under; empty where nothing was barred."""
        if not self.why and self.only is None:
            return {}
        lines = "".join(f"{name} {reason}\n" for name, (reason, _) in sorted(self.why.items()))
        return {"only": self.only, "images": len(self.why), "digest": hashlib.sha256(lines.encode()).hexdigest()}


NOTHING_BARRED = Bars()


# --- reading ----------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Notices:
    """The lists of a work folder or of a release; empty where there are none. Raises `UsageError` naming every faulty line."""
    return Notices(
        tuple(sorted({notice for _, notice in _takedowns(folder / TAKEDOWN)})),
        tuple(sorted({(e.id, e.column): e for e in _errata(folder / ERRATA)}.values())),
    )


def merged(*lists: Notices) -> Notices:
    """All of them as one; of two errata for one column the later list's holds."""
    errata = {(e.id, e.column): e for some in lists for e in some.errata}
    every = {notice for some in lists for notice in some.taken}
    return Notices(tuple(sorted(every - _told_better(every))), tuple(sorted(errata.values())))


def _told_better(notices: Set[Notice]) -> set[Notice]:
    """Those of which another one says all that they say, and more."""
    by_word: dict[tuple[str, str], list[Notice]] = defaultdict(list)
    for notice in notices:
        for item in _words(notice).items():
            by_word[item].append(notice)
    return {
        one
        for one in notices
        for other in by_word[next(iter(_words(one).items()))]
        if _words(one).items() < _words(other).items()
    }


def _words(notice: Notice) -> dict[str, str]:
    """What a notice knows; the first of it tells it from most others."""
    return {name: value for name, value in asdict(notice).items() if value}


def _takedowns(path: Path) -> list[tuple[int, Notice]]:
    """Each with its line."""
    found, faults = [], []
    for number, row in _rows(path, {*_WRITTEN, *(f.name for f in fields(Notice))}, _WRITTEN):
        row["sha256"] = row.get("sha256", "").lower()
        reason = row.get("reason") or REASONS[0]
        digests = [row.get(name, "") for name in ("key", "place", "sha256", "view", "pixels")]
        if not any((row.get("id"), row.get("source_key"), *digests)):
            faults.append(f"line {number}: names no image: fill in id, source_key or sha256")
        elif reason not in REASONS:
            faults.append(f"line {number}: the reason '{reason}' is none of {', '.join(REASONS)}{suggest(reason, REASONS)}")
        elif wrong := next((text for text in digests if text and not _DIGEST.fullmatch(text)), None):
            faults.append(f"line {number}: '{wrong[:70]}' is no SHA-256, 64 hexadecimal digits")
        else:
            known = {f.name: row.get(f.name, "") for f in fields(Notice)} | {"reason": reason}
            if key := row.get("source_key"):
                source = row.get("source")
                known |= {"place": place_of(source, key)} if source else {"key": _digest(key)}
            found.append((number, Notice(**known)))
    _refuse(path, faults)
    return found


def _errata(path: Path) -> list[Erratum]:
    found, faults = [], []
    for number, row in _rows(path, {f.name for f in fields(Erratum)}, [f.name for f in fields(Erratum)]):
        one = Erratum(**{f.name: row.get(f.name, "") for f in fields(Erratum)})
        if not one.id:
            faults.append(f"line {number}: names no image: fill in its id")
        elif one.column and one.column not in CORRECTABLE:
            faults.append(
                f"line {number}: '{one.column}' is none of {', '.join(CORRECTABLE)}{suggest(one.column, CORRECTABLE)}; what "
                f"decides the balance is not corrected in place: take the image down with the reason error in {TAKEDOWN}"
            )
        elif not one.column and not one.note:
            faults.append(f"line {number}: says nothing: give a column and its right value, or a note")
        else:
            found.append(one)
    _refuse(path, faults)
    return found


def _rows(path: Path, known: set[str], usual: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The lines with their numbers, cells stripped; empty lines and lines that begin with # are passed over."""
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}. Save it as a CSV file in UTF-8") from None
    header: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    for number, raw in _lines(path, csv.reader(io.StringIO(text))):
        cells = [cell.strip() for cell in raw]
        if not any(cells) or cells[0].startswith("#"):
            continue
        if not header:
            header = cells
            if strange := sorted(set(header) - known):
                near = suggest(strange[0], usual) or "."
                raise UsageError(f"{path}: no column is called '{strange[0]}'{near} There are {', '.join(usual)}")
            continue
        if len(cells) > len(header):
            raise UsageError(f"{path}, line {number}: {len(cells)} cells under {len(header)} columns: quote what has commas")
        rows.append((number, dict(zip(header, cells, strict=False))))
    return rows


def _lines(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The cells of every line, with its number."""
    try:
        for raw in reader:
            yield reader.line_num, raw
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: {error}. Save it as a CSV file in UTF-8") from None


def _refuse(path: Path, faults: Sequence[str]) -> None:
    if faults:
        raise UsageError(f"{path}: {len(faults)} fault(s), nothing was started" + "".join(f"\n  - {fault}" for fault in faults))


# --- recognising ------------------------------------------------------------------------------------------------------


def place_of(source: str | None, source_key: str) -> str:
    """The digest of a source and a key in it."""
    return _digest(f"{source or ''}\n{source_key}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def known_in(notices: Notices, folder: Path) -> Notices:
    """The notices with what the release in `folder` knows of the images they name, so that a digest of a view leads to the
    bytes as born, which the next version recognises too."""
    views = [view for view in release.VIEWS if release.shards(folder, view)]
    if not notices.taken or not views:
        return notices
    more = []
    for view in views:
        rows = release.rows(folder, view).select(["id", "source", "source_key", "sha256", "source_sha256"]).to_pylist()
        by_view = {row["sha256"]: row for row in rows}
        for row, notice in _named(notices.taken, [r | {"sha256": r["source_sha256"], "pixel_hash": None} for r in rows]):
            more.append(_told(row, notice))
        more += [
            _told(row | {"sha256": row["source_sha256"]}, notice, row["sha256"])
            for notice in notices.taken
            for row in [by_view.get(notice.view or notice.sha256)]
            if row
        ]
    return merged(notices, Notices(tuple(more)))


def taken(notices: Notices, store: Store) -> tuple[dict[str, Notice], Notices]:
    """The images of a work folder that are taken down, by id, and the notices with what is known of them.

    They are those that a notice names; whatever has the same bytes, the same pixels or the same place; and the synthetic images
    that were made from any of them.
    """
    if not notices.taken:
        return {}, notices
    rows = store.facts(list(_FACTS)).to_pylist()
    found: dict[str, Notice] = {}
    known = notices
    while True:
        new = {str(row["id"]): _told(row, notice) for row, notice in _named(known.taken, rows) if row["id"] not in found}
        if not new:
            break
        found |= new
        known = merged(known, Notices(tuple(new.values())))
    made_from = {row["id"]: found[row["pair_id"]] for row in rows if row["id"] not in found and row["pair_id"] in found}
    copies = {row["id"]: _told(row, made_from[row["id"]]) for row in rows if row["id"] in made_from}
    return found | copies, merged(known, Notices(tuple(copies.values())))


def _named(notices: Sequence[Notice], rows: Iterable[Row]) -> list[tuple[Row, Notice]]:
    """The rows that a notice names, each with the first that does."""
    index: dict[tuple[str, str | None], Notice] = {}
    for notice in notices:
        for kind in ("id", "key", "place", "sha256", "pixels"):
            if value := getattr(notice, kind):
                index.setdefault((kind, value), notice)
    found: list[tuple[Row, Notice]] = []
    for row in rows:
        found += [(row, index[name]) for name in _names(row) if name in index][:1]
    return found


def _names(row: Row) -> list[tuple[str, str | None]]:
    """By what a notice may name a row."""
    key = row["source_key"]
    names: list[tuple[str, str | None]] = [("id", row["id"]), ("sha256", row["sha256"]), ("pixels", row["pixel_hash"])]
    return names if key is None else [*names, ("key", _digest(key)), ("place", place_of(row["source"], key))]


def strangers(store: Store, releases: Sequence[Path]) -> list[str]:
    """The lines of a work folder's list of what is taken down that name no image: none of its own, and none that one of
    `releases` holds or has taken down."""
    listed = _takedowns(store.root / TAKEDOWN)
    if not listed:
        return []
    names = {name for row in store.facts(list(_FACTS)).to_pylist() for name in _names(row)}
    for folder in releases:
        before = [notice for notice in read(folder).taken if notice.recognised]
        names |= {item for notice in before for item in (*_words(notice).items(), ("sha256", notice.view))}
        for view in filter(partial(release.shards, folder), release.VIEWS):
            rows = release.rows(folder, view).select(["id", "source", "source_key", "sha256", "source_sha256"])
            for row in rows.to_pylist():
                names |= {*_names(row | {"pixel_hash": None}), ("sha256", row["source_sha256"])}
    names -= {("reason", reason) for reason in REASONS}
    return [f"{TAKEDOWN}, line {line}" for line, notice in listed if not names & _words(notice).items()]


def _told(row: Row, notice: Notice, view: str = "") -> Notice:
    key = row["source_key"]
    return Notice(
        id=row["id"] or "",
        place=place_of(row["source"], key) if key is not None else "",
        sha256=row["sha256"] or "",
        view=view,
        pixels=row.get("pixel_hash") or "",
        reason=notice.reason,
    )


def corrected(table: pa.Table, errata: Sequence[Erratum]) -> pa.Table:
    """A table with a column `id` in which what was wrong is right."""
    for column in CORRECTABLE:
        right = {e.id: e.value for e in errata if e.column == column}
        if right and column in table.column_names:
            values = [
                right.get(name, old) for name, old in zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True)
            ]
            place = table.schema.get_field_index(column)
            table = table.set_column(place, column, pa.array(values, table.schema.field(column).type))
    return table


def _csv(kind: type[Notice] | type[Erratum], lines: Sequence[Notice] | Sequence[Erratum]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, [f.name for f in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    return out.getvalue()
