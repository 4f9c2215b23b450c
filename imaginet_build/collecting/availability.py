"""The availability ledger: for every image that was asked for, whether it was had, what took its place, and when.

Each segment of `collect` leaves its lines beside its part, under `ledger/`; `availability.parquet` is put together from those
whose image is a row or a reject, so that a killed run cannot make it wrong. A stream is one quota: an entry of the recipe, or
one stratum of it. An image's `place` is its place in the stream; the images past the quota are the spares, and the k-th that
could not be had is replaced by the k-th spare. Times stand here and nowhere else.

What could not be had for a passing reason may be asked for again (`Passing`): once it is answered anew its old place is spent,
and it stands at the end of its stream.
"""

from __future__ import annotations

import datetime
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imaginet_build.collecting.arrival import Terms
from imaginet_build.records import make_id, table_of
from imaginet_build.store import Store, StoreError, written

NAME = "availability.parquet"
HAD, FAILED, REFUSED, PASSED_OVER, GIVEN_UP = "had", "failed", "refused", "passed-over", "given-up"
"""Outcomes: it is a row; it could not be had; a rule refused it; another candidate matched better; nothing was left to take."""

PASSING = frozenset(
    {
        "unreachable", "timeout", "dropped", "cut-short", "tls", "no-network", "no-name-server", "robots-unreachable",
        "http-408", "http-425", "http-429", "truncated", "damaged", "missing", "missing-part", "unreadable",
    }
)  # fmt: skip
"""Why something could not be had that may be there another time: a server or a line that is down, a file that is not whole or
not here yet. So are all answers 5xx (`passes`)."""

_LINE = [
    pa.field("stream", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("category", pa.string()),
    pa.field("stratum", pa.string()),
    pa.field("source_key", pa.string()),
    pa.field("id", pa.string()),
    pa.field("place", pa.int32()),
    pa.field("when", pa.string()),
]
LINES = pa.schema(_LINE)
"""What a segment writes down. `when`: UTC, ISO 8601, seconds. A line without an id is a place that is spent."""

SCHEMA = pa.schema(
    [
        *_LINE,
        pa.field("asked", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("replaced_by", pa.string()),
        pa.field("count", pa.int32(), nullable=False),
    ]
)
"""`availability.parquet`. `asked`: `asked` or `spare`; `replaced_by`: a source key of the same stratum; `count`: 1, or how many
images a `given-up` line stands for."""


@dataclass(frozen=True, slots=True)
class Quota:
    """A stream and what was asked of it: `count` images (None: all there are), chosen among `candidates` where it matches.

    `full`: what the recipe asks for, where a limit makes `count` less. `held`: how many there are, also through another stream
    of the same source. `waits`: it was not begun, since the limit keeps others from being whole.
    """

    stream: str
    source: str
    category: str | None
    stratum: str | None
    count: int | None
    held: int = 0
    candidates: int | None = None
    full: int | None = None
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Availability:
    """One stream's sum. `asked`: images wanted; `had`: images there are; `failed`: could not be had; `refused`: by a rule;
    `replaced`: of these, how many a spare stands for; `given_up`: wanted images that nothing stands for; `may_come_back`: where
    some are given up, how many failed for a reason that passes; `later`: images that the recipe asks for and a limit leaves for
    another call. Where everything is asked for, what a rule refuses was not."""

    source: str
    category: str | None
    stratum: str | None
    asked: int
    had: int
    failed: int
    refused: int
    passed_over: int
    replaced: int
    given_up: int
    first: str | None
    last: str | None
    may_come_back: int = 0
    later: int = 0

    def to_json(self) -> dict[str, Any]:
        """The sum as `collect --json` prints it."""
        return asdict(self)


def now() -> str:
    """The time that a line is stamped with."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_lines(store: Store, name: str, lines: Sequence[Mapping[str, object]]) -> None:
    """The lines of one segment. Written before its rejects and its part, so that neither is ever without them."""
    with written(store.root / "ledger" / "collect" / f"{name}.parquet", replace=True) as temporary:
        pq.write_table(table_of(lines, LINES), temporary)


def lines(store: Store) -> list[dict[str, Any]]:
    """Every line there is, one an id, the latest where a segment was done again."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((store.root / "ledger" / "collect").glob("[!.]*.parquet")):
        try:
            rows = pq.read_table(path, columns=LINES.names).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{path} cannot be read ({error}): delete it and run the same command again") from error
        for row in rows:
            name = row["id"] or f"{row['stream']} {row['place']}"
            if name not in found or (row["when"], row["place"]) >= (found[name]["when"], found[name]["place"]):
                found[name] = row
    return sorted(found.values(), key=lambda row: (row["stream"], row["place"], row["id"] or ""))


def passes(reason: str | None) -> bool:
    """Whether what was refused for this reason may be had another time."""
    return reason is not None and (reason in PASSING or re.fullmatch("http-5[0-9][0-9]", reason) is not None)


class Passing:
    """What was refused of one source for a reason that passes, asked for again. `keys`: its source keys.

    Each is forgotten when it is about to be answered anew and not before, so that what a full quota has no need of stays as it
    was. Killed in between, what is forgotten comes first in the next call, as it did in this one. `answered`: the ids that were
    asked for again already, which is once a call; those forgotten here are added.
    """

    def __init__(self, stores: Sequence[Store], terms: Terms, stage: str, answered: set[str]) -> None:
        self.stores, self.stage, self.answered = stores, stage, answered
        rows = [row for store in stores for row in store.rejects().to_pylist() if row["stage"] == stage]
        refused = [(row["id"], row["source_key"]) for row in rows if passes(row["reason"]) and row["source_key"] is not None]
        self.names = {key: name for name, key in refused if terms.id_of(key) == name and name not in answered}
        self.keys = frozenset(self.names)
        self.lines = [{line["id"]: line for line in lines(store)} for store in stores] if self.names else []

    def forget(self, keys: Iterable[str]) -> None:
        """Take back the refusals of these keys, where there are any; their places are spent."""
        if not (ids := {self.names.pop(key) for key in keys if key in self.names}):
            return
        self.answered |= ids
        for store, known in zip(self.stores, self.lines, strict=True):
            spent = [dict(known[name]) | {"id": None, "source_key": None} for name in sorted(ids & known.keys())]
            if spent:
                write_lines(store, make_id("spent", [[line["stream"], line["place"]] for line in spent]), spent)
            store.forget_rejects(self.stage, ids)

    def forget_rest(self, stream: str) -> None:
        """A stream came to its end and did not name these again, as an archive that is whole by now: they are no more."""
        streams = {name: line["stream"] for known in self.lines for name, line in known.items()}
        self.forget([key for key, name in self.names.items() if streams.get(name, stream) == stream])


class Places:
    """The places of a stream that are not taken yet, in order.

    What a killed run left undone comes from the collector again, in the same order: it fills the gaps. As long as there are
    gaps (`behind`), the stream must go on, quota or not: in an undisturbed run those answers would have been looked at.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]], stream: str, done: Collection[str]) -> None:
        own = [line for line in lines if line["stream"] == stream]
        self.taken = {line["place"] for line in own if line["id"] is None or line["id"] in done}
        self.highest = max(self.taken, default=-1)
        self.at = self._free(0)

    def behind(self) -> bool:
        """Whether a place before the last one taken is still free."""
        return self.at < self.highest

    def take(self) -> int:
        """The next free place."""
        place = self.at
        self.at = self._free(place + 1)
        return place

    def _free(self, place: int) -> int:
        while place in self.taken:
            place += 1
        return place


def put_together(
    store: Store, quotas: Sequence[Quota], reasons: Mapping[str, str], by_rule: Collection[str], kept: Collection[str]
) -> list[Availability]:
    """Write `availability.parquet` anew and return the sums of `quotas`, in their order.

    `reasons`: id -> reason of every reject; `kept`: ids of the rows. Streams that are not among `quotas` keep their lines.
    """
    by_stream: dict[str, list[dict[str, Any]]] = defaultdict(list)
    spent: dict[str, list[int]] = defaultdict(list)
    for line in lines(store):
        if line["id"] is None:
            spent[line["stream"]].append(line["place"])
        elif line["id"] in kept or line["id"] in reasons:
            by_stream[line["stream"]].append(line)
    rows: list[dict[str, Any]] = []
    sums = []
    for quota in quotas:
        own = list(_outcomes(by_stream[quota.stream], quota, reasons, by_rule, spent[quota.stream]))
        total = _sum(own, quota)
        rows += own
        if total.given_up and quota.full is not None:
            rows.append(_given_up(quota, total))
        sums.append(total)
    path = store.root / NAME
    old = _read(path)
    asked = {quota.stream for quota in quotas}
    rows += [row for row in old.to_pylist() if row["stream"] not in asked] if old is not None else []
    table = table_of(sorted(rows, key=lambda r: (r["source"], r["stream"], r["place"] is None, r["place"] or 0)), SCHEMA)
    if table.num_rows and (old is None or not table.equals(old)):
        with written(path, replace=True) as temporary:
            pq.write_table(table, temporary)
    return sums


def _read(path: Path) -> pa.Table | None:
    try:
        return pq.read_table(path, columns=SCHEMA.names).cast(SCHEMA) if path.is_file() else None
    except (pa.ArrowException, OSError):
        return None  # it is put together anew from what it came from


def _outcomes(
    own: Sequence[Mapping[str, Any]],
    quota: Quota,
    reasons: Mapping[str, str],
    by_rule: Collection[str],
    spent: Collection[int],
) -> Iterator[dict[str, Any]]:
    asked = quota.candidates or quota.full
    void = sorted(set(spent) - {line["place"] for line in own})
    at = {line["place"]: line["place"] - bisect_left(void, line["place"]) for line in own}  # as if no place had been spent
    by_place = {at[line["place"]]: line["source_key"] for line in own}
    missed = 0
    for line in sorted(own, key=lambda line: (line["place"], line["id"])):
        reason = reasons.get(line["id"])
        outcome = (
            HAD if reason is None else PASSED_OVER if reason == "not-matched" else REFUSED if reason in by_rule else FAILED
        )
        spare = asked is not None and at[line["place"]] >= asked
        replaced_by = None
        if outcome in (FAILED, REFUSED) and asked is not None:
            replaced_by = by_place.get(asked + missed)
            missed += 1
        yield dict(line) | {
            "asked": "spare" if spare else "asked",
            "outcome": outcome,
            "reason": reason,
            "replaced_by": replaced_by,
            "count": 1,
        }


def _sum(rows: Sequence[Mapping[str, Any]], quota: Quota) -> Availability:
    counts = {word: sum(row["outcome"] == word for row in rows) for word in (HAD, FAILED, REFUSED, PASSED_OVER)}
    had = max(counts[HAD], quota.held)
    left = quota.waits or (quota.count != quota.full and had >= (quota.count or 0))
    asked = quota.count if left else quota.full
    if asked is None:
        asked = had + counts[FAILED]
    times = [row["when"] for row in rows if row["when"]]
    return Availability(
        source=quota.source,
        category=quota.category,
        stratum=quota.stratum,
        asked=asked,
        had=had,
        failed=counts[FAILED],
        refused=counts[REFUSED],
        passed_over=counts[PASSED_OVER],
        replaced=sum(row["replaced_by"] is not None for row in rows),
        given_up=0 if left else max(0, asked - had),
        first=min(times, default=None),
        last=max(times, default=None),
        may_come_back=sum(passes(row["reason"]) for row in rows) if asked > had and not left else 0,
        later=max(0, (quota.full or asked) - had) if left else 0,
    )


def _given_up(quota: Quota, total: Availability) -> dict[str, Any]:
    return {
        "stream": quota.stream,
        "source": quota.source,
        "category": quota.category,
        "stratum": quota.stratum,
        "source_key": None,
        "id": None,
        "place": None,
        "when": total.last,
        "asked": "asked",
        "outcome": GIVEN_UP,
        "reason": "the source has no more",
        "replaced_by": None,
        "count": total.given_up,
    }
