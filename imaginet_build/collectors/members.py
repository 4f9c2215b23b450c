"""What every kind of archive hands over, and the rules that all members obey, whatever they are packed in.

Nothing is ever written to disk under a member's name, so a hostile name could harm nobody here; it is refused all the same,
because the name travels on as the image's source key.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

MAX_BYTES = 256 * 2**20
"""A larger member is refused unread."""

MAX_RATIO = 200
"""An archive of photographs hardly shrinks. One whose content is more times its own size, beyond `FREE_BYTES`, is a bomb."""

FREE_BYTES = 64 * 2**20

MAX_NAME = 1000

MOST_REFUSED = 10_000
"""Refusals of one archive, each with its line in the work folder; where most of it is refused, more of them end it."""

ARCHIVES = frozenset({"zip", "tar", "gz", "tgz", "bz2", "tbz2", "xz", "txz", "zst", "tzst", "7z", "rar", "parquet"})
"""File names that promise an archive, lower case without the dot."""


class Broken(Exception):
    """An archive that cannot be read, or not further: what was read stays, the rest is this one refusal."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class BrokeOff(Exception):
    """The transport failed, not the archive. `remedy`: what helps, where another try alone would not."""

    def __init__(self, detail: str, remedy: str = "") -> None:
        super().__init__(detail)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive. `read` gives its bytes until the next member is asked for, and raises `Unreadable`.

    `fault`: why it may not be read (reason and detail). `row`: what a Parquet file's other columns say.
    """

    name: str
    read: Callable[[], bytes]
    fault: tuple[str, str] | None = None
    row: Mapping[str, Any] | None = None


def must_end(refused: int, looked_at: int) -> bool:
    """Whether an archive holds so much that is refused, and so little else, that the rest of it is not worth a line each."""
    return refused > MOST_REFUSED and 2 * refused > looked_at


class Unreadable(Exception):
    """One member that cannot be had; the next ones may be."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Reader(Protocol):
    """An opened archive."""

    def members(self, wanted: Callable[[str], bool]) -> Iterator[Member]:
        """Every member in stored order. Only those whose name is `wanted` may be read. Raises `Broken` where the archive ends
        before its time."""
        ...


def refused() -> bytes:
    """The `read` of a member that must not be read."""
    raise AssertionError("a member that was not asked for was read")


_OUTSIDE = re.compile(r"(?:^|/)\.\.(?:/|$)|^/|^[A-Za-z]:|[\x00-\x1f\x7f]")


def clean(name: str) -> str:
    """A member's name as a key: forward slashes, no leading `./`."""
    name = name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def printable(name: str) -> str:
    """A name in letters that can be written down, of bounded length."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name[:MAX_NAME])


def bad_name(name: str) -> tuple[str, str] | None:
    """Why a member of this (clean) name is refused, or None."""
    if len(name) > MAX_NAME:
        return "unsafe-name", f"its name has {len(name):,} letters"
    if _OUTSIDE.search(name):
        return "unsafe-name", f"'{printable(name)}' leads out of the archive, or is no plain path"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "name-not-utf8", f"{printable(name)}: its name is not UTF-8"
    return None


class Seen:
    """Which 64-bit numbers came before: eight bytes each, where a set of a million would take a hundred megabytes."""

    def __init__(self) -> None:
        self.old = np.empty(0, np.uint64)
        self.new: set[int] = set()

    def add(self, number: int) -> bool:
        """Whether `number` is new; from now on it is not."""
        if number in self.new:
            return False
        at = int(np.searchsorted(self.old, np.uint64(number))) if len(self.old) else 0
        if at < len(self.old) and int(self.old[at]) == number:
            return False
        self.new.add(number)
        if len(self.new) >= 65536:
            fresh = np.frombuffer(array("Q", self.new), np.uint64)
            self.old = np.sort(np.concatenate([self.old, fresh]))
            self.new = set()
        return True
