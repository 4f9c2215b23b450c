"""One view of a target as tables: which rows take part, what is to be guessed, and how well every probe does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from imaginet_build.auditing import ridge
from imaginet_build.auditing.content_probes import Numbers, numbers_of
from imaginet_build.auditing.crossfit import Cases, Floats, Guess, distinct, guess_all, guess_one, relabelings
from imaginet_build.auditing.findings import Row, Skipped
from imaginet_build.auditing.probes import ALL, Probe, extension_case, matrix, probes_of, words_of
from imaginet_build.records import ORIGINS, SPLITS

TRACKS = ("origin", "family", "generator")

FEWEST_GROUPS = 5
"""A class with fewer groups is left out of a table, and a table with fewer than two such classes is left out whole."""

RELABELINGS = 99
_FEW = 19
_BIG = 20_000
_REFITS = 30_000
"""All facts together are refitted under relabelings where cells x facts stay below this. Permuting the labels of held-out rows
without a refit would be cheap, and wrong: it calls twice as many clean tables significant as it promises."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Coded:
    """A column as codes: -1 for nothing, else an index into `names`, which are sorted."""

    codes: npt.NDArray[np.int64]
    names: list[str]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Coded:
        """The codes of a column of words; the order of its rows decides nothing."""
        if not len(column):
            return cls(np.empty(0, np.int64), [])
        encoded = pa.chunked_array(column, pa.string()).combine_chunks().dictionary_encode()
        words = encoded.dictionary.to_pylist()
        order = sorted(range(len(words)), key=words.__getitem__)
        place = np.full(len(words) + 1, -1, np.int64)
        place[order] = np.arange(len(words))
        raw = np.asarray(pc.fill_null(encoded.indices, len(words)).to_numpy(), np.int64)
        return cls(place[raw], [words[i] for i in order])


@dataclass
class View:
    """One view of the target with its probes coded once."""

    view: str | None
    table: pa.Table
    relabelings: int = RELABELINGS
    """For the facts one by one and the probes beside the gate."""
    refits: int = 0
    """Relabelings for all facts together, on origin in each content type."""
    probes: list[Probe] = field(init=False)
    words: list[Probe] = field(init=False)
    numbers: list[Numbers] = field(init=False)
    groups: npt.NDArray[np.int64] = field(init=False)
    columns: dict[str, Coded] = field(init=False)
    joint: dict[str, tuple[Flags, Floats]] = field(init=False, default_factory=dict)
    """Per scope of origin: its rows, and the score that all facts together gave to each row's own class, out of fold."""

    def __post_init__(self) -> None:
        self.probes = probes_of(self.table)
        self.words = [extension_case(self.table), *words_of(self.table)]
        self.numbers = numbers_of(self.table)
        self.groups = Coded.of(self.table["group"]).codes
        self.columns = {name: Coded.of(self.table[name]) for name in (*TRACKS, "content_type")}
        split = Coded.of(self.table["split"])
        places = np.array([*(SPLITS.index(name) if name in SPLITS else -1 for name in split.names), -1], np.int64)
        self._parts = places[split.codes]

    def scopes(self) -> list[str]:
        """`all`, and every content type if there are several."""
        types = self.columns["content_type"].names
        return [ALL, *types] if len(types) > 1 else [ALL]

    def markable(self) -> list[Probe]:
        """The probes whose single values may be markers: facts of the file, not the category it is filed under."""
        return [*(p for p in self.probes if p.gate and p.name != "content_type"), *self.words]

    def within(self, scope: str) -> Flags:
        """The rows of a scope, (n,)."""
        types = self.columns["content_type"]
        return np.ones(len(self.table), bool) if scope == ALL else types.codes == types.names.index(scope)

    def parts(self) -> dict[str, Flags]:
        """The rows of every content type in which both classes have FEWEST_GROUPS, where there are several types: markers are
        looked for in each, since one that leans one way here and the other way there is none over everything."""
        origin, found = self.columns["origin"].codes, {}
        for scope in self.scopes()[1:]:
            rows = self.within(scope)
            held = [len(np.unique(self.groups[rows & (origin == code)])) for code in range(len(ORIGINS))]
            if min(held) >= FEWEST_GROUPS:
                found[scope] = rows
        return found

    def cases(self, track: str, scope: str, skipped: list[Skipped], only: Flags | None = None) -> tuple[Flags, Cases]:
        """Which rows are in a table, and their labels; classes with too few groups are left out and noted."""
        column, origin = self.columns[track], self.columns["origin"]
        rows = column.codes >= 0
        if only is not None:
            rows &= only
        if track != "origin":
            rows &= origin.codes == origin.names.index("synthetic")
        if scope != ALL:
            rows &= self.within(scope)
        if track == "origin" and scope == ALL and only is None:
            words: list[str] = list(ORIGINS)
        else:
            words = self._words(track, scope, rows, skipped)
        place = np.full(len(column.names) + 1, -1, np.int64)
        place[[column.names.index(word) for word in words]] = np.arange(len(words))
        rows &= place[column.codes] >= 0
        groups = distinct(self.groups[rows, None])[1]
        mine = self._parts[rows]
        parts = None if not mine.size or (mine < 0).any() else distinct(mine[:, None])[1]
        return rows, Cases(place[column.codes[rows]], groups, tuple(words), parts)

    def _words(self, track: str, scope: str, rows: Flags, skipped: list[Skipped]) -> list[str]:
        """The classes with enough groups, commonest first: ties in a rule go to the commoner class."""
        column = self.columns[track]
        held = np.bincount(column.codes[rows], minlength=len(column.names))
        pairs = distinct(np.stack([column.codes[rows], self.groups[rows]], axis=1))[0]
        groups = np.bincount(column.codes[rows][pairs], minlength=len(column.names))
        for c in np.flatnonzero((groups > 0) & (groups < FEWEST_GROUPS)):
            what = f"{column.names[c]}: {groups[c]} groups, fewer than {FEWEST_GROUPS}"
            skipped.append(Skipped(track, self.view, scope, what))
        return [column.names[c] for c in np.argsort(-held, kind="stable") if groups[c] >= FEWEST_GROUPS]

    def lines(self, track: str, skipped: list[Skipped]) -> Iterator[Row]:
        """Every probe alone, extension with content type, and all together, in every scope of one track; then what is reported
        beside them."""
        for scope in self.scopes():
            rows, cases = self.cases(track, scope, skipped)
            if not _enough(cases):
                skipped.append(Skipped(track, self.view, scope, "fewer than two classes to tell apart"))
                continue
            yield from self._no_pixel(track, scope, rows, cases)
            yield from self._beside(track, scope, skipped)

    def _no_pixel(self, track: str, scope: str, rows: Flags, cases: Cases) -> Iterator[Row]:
        fold = cases.folds()
        small = len(cases.labels) <= _BIG
        times = min(self.relabelings, RELABELINGS if small else _FEW)
        null = relabelings(cases, times) if small or track == "origin" else []
        taken = self.probes if rows.all() else [p.take(rows) for p in self.probes]
        for probe in taken:
            if probe.name != "content_type" or scope == ALL:
                guess = guess_one(*_cells(probe.codes), cases, fold, null)
                yield self._row(track, scope, probe.name, cases, guess, probe.gate)
        by_name = {p.name: p for p in taken}
        if {"extension", "content_type"} <= by_name.keys() and scope == ALL:
            both = by_name["extension"].codes * 64 + by_name["content_type"].codes
            guess = guess_one(*_cells(both), cases, fold, null)
            yield self._row(track, scope, "extension+content_type", cases, guess, True)
        gated = [p for p in taken if p.gate]
        codes, ordered = matrix(gated), tuple(p.ordered for p in gated)
        # Over everything the gate makes its own relabelings.
        wanted = track == "origin" and scope != ALL and distinct(codes)[0].size * codes.shape[1] <= _REFITS
        guess, _, own = guess_all(codes, ordered, cases, fold, null[: self.refits] if wanted else ())
        if track == "origin":
            self.joint[scope] = (rows, own)
        yield self._row(track, scope, ALL, cases, guess, True)

    def _beside(self, track: str, scope: str, skipped: list[Skipped]) -> Iterator[Row]:
        """The probes of vectors, over the rows that have one."""
        held: tuple[Flags, Flags, Cases] | None = None
        for numbers in self.numbers:
            if held is None or not np.array_equal(held[0], numbers.rows):
                few: list[Skipped] = []
                held = (numbers.rows, *self.cases(track, scope, few, numbers.rows))
            _, rows, cases = held
            if not _enough(cases):
                skipped.append(Skipped(track, self.view, scope, f"{numbers.name}: fewer than two classes have it"))
                continue
            x = ridge.features(numbers.values[rows[numbers.rows]], numbers.curved)
            guess = ridge.guess_numbers(x, cases, cases.folds(), self.relabelings)
            yield self._row(track, scope, numbers.name, cases, guess, False)

    def _row(self, track: str, scope: str, probe: str, cases: Cases, guess: Guess, gate: bool) -> Row:
        return Row(
            track, self.view, probe, scope, round(guess.balanced_accuracy, 6), round(guess.auc, 6),
            (round(guess.ci95[0], 6), round(guess.ci95[1], 6)), round(guess.accuracy, 6), guess.p, len(cases.classes),
            len(cases.labels), gate,
        )  # fmt: skip


def _enough(cases: Cases) -> bool:
    return len(cases.classes) > 1 and int(cases.groups_per_class().min()) > 1


def _cells(codes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
    first, cells = distinct(codes[:, None])
    return cells, first.size


def select(table: pa.Table, view: str | None) -> pa.Table:
    """The rows of one view."""
    column = table["view"]
    return table.filter(pc.is_null(column) if view is None else pc.fill_null(pc.equal(column, view), False))
