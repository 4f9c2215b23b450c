"""What a C2PA manifest claims of an image: who made it, and from what. Read, not verified: a claim is enough to doubt.

C2PA 2.2 (manifests in JUMBF boxes, claims and assertions in CBOR or JSON), ISO/IEC 19566-5 (JUMBF), RFC 8949 (CBOR). Input is
hostile: sizes, nesting and the number of values are bounded, and what is damaged is a word in `odd`, never an exception.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_BYTES = 16 * 2**20
MAX_CONTENT = 2**20
"""A claim or an assertion of more bytes than this is passed over; real ones have a few kilobytes."""
MAX_BOXES = 4096
MAX_DEPTH = 24
MAX_VALUES = 50_000

_WORDS = ("claim_generator", "claim_generator_info", "softwareAgent")


@dataclass(frozen=True, slots=True)
class Claims:
    """`generators`: the programs that are named as makers. `source_types`: the last words of IPTC's digital source types.
    `odd`: what could not be read."""

    generators: tuple[str, ...] = ()
    source_types: tuple[str, ...] = ()
    odd: str | None = None


class _Damaged(Exception):
    """The manifest does not follow its standards, or exceeds a bound."""


def read(jumbf: bytes) -> Claims:
    """The claims in the JUMBF boxes of a manifest store. Never raises."""
    generators: dict[str, None] = {}
    sources: dict[str, None] = {}
    odd = None
    try:
        if len(jumbf) > MAX_BYTES:
            raise _Damaged(f"a manifest of {len(jumbf):,} bytes")
        boxes = 0
        for kind, body in _boxes(jumbf, 0):
            boxes += 1
            if boxes > MAX_BOXES:
                raise _Damaged(f"more than {MAX_BOXES} boxes")
            if kind not in (b"cbor", b"json"):
                continue
            if len(body) > MAX_CONTENT:
                odd = f"an assertion of {len(body):,} bytes was passed over"
                continue
            try:
                value = decode(bytes(body)) if kind == b"cbor" else json.loads(bytes(body))
            except (_Damaged, ValueError, RecursionError) as error:
                odd = f"an assertion cannot be read: {error}"[:200]
                continue
            for key, found in _pairs(value, 0):
                if key == "digitalSourceType" and isinstance(found, str):
                    sources[found.rstrip("/").rpartition("/")[2][:100]] = None
                elif key in _WORDS:
                    generators |= dict.fromkeys(_names(found))
    except _Damaged as error:
        odd = str(error)[:200]
    return Claims(tuple(generators), tuple(sources), odd)


def _boxes(data: bytes | memoryview, depth: int) -> Iterator[tuple[bytes, memoryview]]:
    """Every box that holds content, whatever superbox it lies in."""
    if depth > MAX_DEPTH:
        raise _Damaged(f"boxes within boxes, more than {MAX_DEPTH} deep")
    view = memoryview(data)
    at = 0
    while at < len(view):
        if at + 8 > len(view):
            raise _Damaged("the manifest ends inside a box")
        length, kind = struct.unpack_from(">I4s", view, at)
        head = 8
        if length == 1:
            if at + 16 > len(view):
                raise _Damaged("the manifest ends inside a box")
            (length,) = struct.unpack_from(">Q", view, at + 8)
            head = 16
        elif length == 0:
            length = len(view) - at
        if length < head or at + length > len(view):
            raise _Damaged("a box is longer than the manifest")
        body = view[at + head : at + length]
        if kind == b"jumb":
            yield from _boxes(body, depth + 1)
        else:
            yield kind, body
        at += length


def _pairs(value: object, depth: int) -> Iterator[tuple[str, object]]:
    """Every key of every map inside `value`, with what it holds."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from _pairs(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner, depth + 1)


def _names(value: object) -> Iterator[str]:
    """The names in a claim generator or software agent: a text, a map with `name`, or a list of either."""
    if isinstance(value, str) and value.strip():
        yield value.strip()[:200]
    elif isinstance(value, dict):
        yield from _names(value.get("name"))
    elif isinstance(value, list):
        for inner in value[:100]:
            yield from _names(inner)


# --- CBOR --------------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> object:
    """One CBOR value as Python's: ints, bytes, texts, lists, dicts, floats, booleans, None. Tags are left out.

    Raises `ValueError` for what is damaged, deeper than `MAX_DEPTH` or of more than `MAX_VALUES` values.
    """
    try:
        return _Reader(data).value(0)
    except (_Damaged, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"damaged CBOR: {error}") from None


_BREAK = object()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.left = data, 0, MAX_VALUES

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise _Damaged("it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def value(self, depth: int, may_end: bool = False) -> object:
        self.left -= 1
        if depth > MAX_DEPTH or self.left < 0:
            raise _Damaged("too deep" if depth > MAX_DEPTH else f"more than {MAX_VALUES} values")
        major, minor = divmod(self.take(1)[0], 32)
        if major == 7:
            return self.simple(minor, may_end)
        if minor == 31:
            return self.endless(major, depth)
        size = (
            minor if minor < 24 else int.from_bytes(self.take({24: 1, 25: 2, 26: 4, 27: 8}.get(minor) or self.unknown()), "big")
        )
        if major < 2:
            return size if major == 0 else -1 - size
        if major < 4:
            return self.take(size) if major == 2 else self.take(size).decode("utf-8")
        if major == 6:
            return self.value(depth + 1)
        if major == 4:
            return [self.value(depth + 1) for _ in range(min(size, self.left + 1))]
        return dict(self.pair(depth + 1) for _ in range(min(size, self.left + 1)))

    def pair(self, depth: int) -> tuple[object, object]:
        key = self.value(depth)
        return (key if isinstance(key, str | int | bytes) else str(key)), self.value(depth)

    def simple(self, minor: int, may_end: bool) -> object:
        if minor in (25, 26, 27):
            kind = {25: ">e", 26: ">f", 27: ">d"}[minor]
            return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]
        if minor == 24:
            self.take(1)
        if minor == 31 and not may_end:
            raise _Damaged("a break where none belongs")
        return _BREAK if minor == 31 else {20: False, 21: True}.get(minor)

    def endless(self, major: int, depth: int) -> object:
        """Values up to a break: pieces of a text, a list or a map."""
        found: list[object] = []
        while (value := self.value(depth + 1, may_end=True)) is not _BREAK:
            found.append(value)
        if major == 3:
            return "".join(piece for piece in found if isinstance(piece, str))
        if major == 2:
            return b"".join(piece for piece in found if isinstance(piece, bytes))
        if major == 4:
            return found
        if major == 5:
            keys = [key if isinstance(key, str | int | bytes) else str(key) for key in found[::2]]
            return dict(zip(keys, found[1::2], strict=False))
        raise _Damaged("an indefinite length where there is none")

    def unknown(self) -> int:
        raise _Damaged("a reserved length")
