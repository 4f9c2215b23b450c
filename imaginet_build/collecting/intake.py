"""A segment of what a collector found, taken in by a worker: lines in the ledger, then rejects, then a part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imaginet_build.collecting import availability
from imaginet_build.collecting.arrival import Terms, arrive
from imaginet_build.records import Found, Refusal, make_id
from imaginet_build.store import Store, StoreError

STAGE = "collect"


@dataclass(frozen=True, slots=True)
class Segment:
    """Answers of a collector, each with its place in the stream."""

    items: tuple[Found | Refusal, ...]
    places: tuple[int, ...]

    def __iter__(self) -> Iterator[Found | Refusal]:
        return iter(self.items)

    def alone(self) -> list[Segment]:
        """A segment for each answer."""
        return [Segment((item,), (place,)) for item, place in zip(self.items, self.places, strict=True)]


@dataclass(frozen=True, slots=True)
class Arrived:
    """A segment that was written: source keys with category and stratum of what was kept, and keys of what was refused.

    `stopped`: nothing was written, since the work folder cannot be.
    """

    kept: tuple[tuple[str, str, str | None], ...] = ()
    refused: tuple[str, ...] = ()
    stopped: str | None = None


@dataclass(frozen=True, slots=True)
class Arrive:
    """A worker that measures a segment of images of one stream and leaves it as a part."""

    root: Path
    terms: Terms
    stream: str
    stratum: str | None = None

    def worker(self) -> Callable[[Segment], Arrived]:
        """What the engine calls in each process."""
        return self.arrive

    def arrive(self, segment: Segment) -> Arrived:
        """Measure and write; a work folder that cannot be written is an answer, not an image's fault."""
        try:
            return self._write(segment)
        except StoreError as error:
            return Arrived(stopped=str(error))

    def give_up(self, segment: Segment, reason: str, error: str) -> Arrived:
        """Record a segment whose worker could not live through it."""
        return self._write(Segment(tuple(Refusal(reason, error, i.source_key) for i in segment), segment.places))

    def _write(self, segment: Segment) -> Arrived:
        store = Store(self.root)
        rows, data, rejects, kept = [], [], [], []
        for item in segment:
            record = arrive(item, self.terms) if isinstance(item, Found) else item
            if isinstance(record, Refusal):
                rejects.append(self._reject(record, item))
            elif isinstance(item, Found):
                rows.append(record.row())
                data.append(item.data)
                kept.append((item.source_key, record.category, item.stratum))
        name = make_id(sorted(self.terms.id_of(item.source_key) for item in segment))
        availability.write_lines(store, name, [self._line(i, p) for i, p in zip(segment, segment.places, strict=True)])
        if rejects:
            store.write_rejects(STAGE, name, rejects)
        if rows:
            store.write_part(STAGE, name, rows, data)
        return Arrived(tuple(kept), tuple(str(reject["source_key"]) for reject in rejects))

    def _line(self, item: Found | Refusal, place: int) -> dict[str, object]:
        return {
            "stream": self.stream,
            "source": self.terms.source,
            "category": self.terms.asked,
            "stratum": self.stratum,
            "source_key": item.source_key,
            "id": self.terms.id_of(item.source_key),
            "place": place,
            "when": availability.now(),
        }

    def _reject(self, refusal: Refusal, item: Found | Refusal) -> dict[str, object]:
        found = item if isinstance(item, Found) else None
        return {
            "id": self.terms.id_of(item.source_key),
            "stage": STAGE,
            "origin": (found and found.origin) or self.terms.origin,
            "category": (found and found.category) or self.terms.category,
            "generator_or_source": (found and (found.generator or found.source)) or self.terms.source,
            "source_key": item.source_key,
            "reason": refusal.reason,
            "detail": refusal.detail,
        }
