"""Members as samples: an image and the files beside it that speak of it, as WebDataset packs them.

Files of the same name up to the first dot that stand together are one sample. A Parquet file's rows are samples already.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from imaginet_build.collectors.members import ARCHIVES, Broken, BrokeOff, Member, Reader, Unreadable, must_end, printable
from imaginet_build.records import EXTENSIONS, Refusal

log = logging.getLogger(__name__)

_BESIDE = frozenset({"json", "txt", "cls"})
_LONGEST_TEXT = 2**20
_SAMPLE = 64
_SAMPLE_BYTES = 64 * 2**20

_WHATEVER = frozenset({"unsafe-name", "name-not-utf8", "link", "not-a-file", "listed-twice"})
"""Faults that are said of any member, whether its name promises an image or not."""

Answer = bytes | Refusal | None
"""An image's bytes, why there are none, or None where they were not asked for."""


@dataclass(slots=True)
class _Sample:
    """Members of one name up to the first dot that stand together: images, and what is said of them."""

    stem: str | None = None
    images: list[tuple[str, Answer]] = field(default_factory=list)
    row: dict[str, Any] = field(default_factory=dict)
    size: int = 0

    def flushed(self) -> Iterator[tuple[str, Answer, dict[str, Any]]]:
        images, self.images, self.size = self.images, [], 0
        for name, answer in images:
            yield name, answer, self.row


def samples(
    reader: Reader,
    rows: bool,
    taken: Callable[[str], bool],
    asked: Callable[[str], bool],
    others: Counter[str],
) -> Iterator[tuple[str, Answer, Mapping[str, Any]]]:
    """Name, bytes and row of every image of an archive; refused members without a row.

    `rows`: its members are rows that need no file beside them. `taken`: names whose bytes are wanted; `asked`: names that are
    wanted at all. `others` counts what was passed over, by suffix.
    """

    def is_image(name: str) -> bool:
        return _suffix(name) in EXTENSIONS and asked(name)

    def wanted(name: str) -> bool:
        return _suffix(name) in _BESIDE or (taken(name) and is_image(name))

    sample = _Sample()
    refused = 0
    try:
        for number, member in enumerate(reader.members(taken if rows else wanted), 1):
            refused += member.fault is not None
            if must_end(refused, number):
                raise Broken("too-many-faults", f"{refused:,} of its first {number:,} members are refused")
            name, suffix = member.name, _suffix(member.name)
            if member.row is not None:
                yield name, _bytes(member, taken(name)), member.row
                continue
            stem = _stem(name)
            if stem != sample.stem:
                yield from sample.flushed()
                sample = _Sample(stem)
            elif len(sample.images) >= _SAMPLE or sample.size > _SAMPLE_BYTES:
                yield from sample.flushed()
            if member.fault is not None and (member.fault[0] in _WHATEVER or is_image(name)):
                yield printable(name), Refusal(*member.fault), {}
            elif is_image(name):
                answer = _bytes(member, taken(name))
                sample.images.append((name, answer))
                sample.size += len(answer) if isinstance(answer, bytes) else 0
            elif suffix in ARCHIVES and asked(name):
                yield (
                    name,
                    Refusal("nested-archive", "an archive inside an archive is not opened: give it as a source itself"),
                    {},
                )
            elif suffix in _BESIDE and member.fault is None:
                _note(sample.row, suffix, member)
            else:
                others[suffix] += 1
    except BrokeOff:
        raise
    except Exception:  # whatever ends the archive, what stands before it stays
        yield from sample.flushed()
        raise
    yield from sample.flushed()


def _suffix(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2].lower()


def _stem(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _bytes(member: Member, taken: bool) -> Answer:
    if member.fault is not None:
        return Refusal(*member.fault)
    if not taken:
        return None
    try:
        return member.read()
    except Unreadable as error:
        return Refusal(error.reason, error.detail)


def _note(row: dict[str, Any], suffix: str, member: Member) -> None:
    """Add what a `.json`, `.txt` or `.cls` says to its sample's row; what cannot be read says nothing."""
    try:
        words = member.read()[:_LONGEST_TEXT].decode("utf-8", "replace").strip()
        said = json.loads(words) if suffix == "json" else {suffix: words}
    except (Unreadable, ValueError, RecursionError) as error:
        log.warning("%s says nothing that can be read: %s", member.name, error)
        return
    if isinstance(said, dict):
        row.update(said)
