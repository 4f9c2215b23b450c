"""Members of a zip archive in the order of its directory, which is read piece by piece (APPNOTE.TXT 6.3.10).

`zipfile` keeps an object for every member, half a gigabyte for a million of them; this keeps none. Stored and deflated members
are read; sizes and checksums are verified against what the directory says.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from imaginet_build.collectors.members import MAX_BYTES, MAX_RATIO, Broken, Member, Unreadable, bad_name, clean, refused

_END, _END64, _LOCATOR, _ENTRY, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
_LINE = struct.Struct("<HHHHHHIIIHHHHHII")
_DIRECTORY_PIECE = 2**20
_SMALL = 2**20
_UNIX, _TYPES, _LINK, _REGULAR = 3, 0o170000, 0o120000, 0o100000


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the directory. `raw`: the name's bytes as they stand."""

    raw: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    at: int
    kind: int


class Zip:
    """An opened zip archive."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def members(self, wanted: Callable[[str], bool]) -> Iterator[Member]:
        """Every regular member, and a fault for whatever is none. Raises `Broken`."""
        directory, length, count, shift = self._directory()
        packed = 0
        for entry in self._entries(directory, length, count):
            packed += entry.packed
            if packed > directory:
                raise Broken("bomb", "its members share bytes: together they are longer than the archive")
            if entry.name.endswith("/") and not entry.size:
                continue
            fault = _fault(entry)
            if fault is None and entry.at + shift >= directory:
                fault = "damaged", f"it would stand at byte {entry.at + shift:,}, behind all members"
            usable = fault is None and wanted(entry.name)
            yield Member(entry.name, _Read(self.file, entry, shift) if usable else refused, fault)

    def _directory(self) -> tuple[int, int, int, int]:
        """Where the directory lies, its length, how many members it lists, and how far everything is shifted."""
        end = self.file.seek(0, 2)
        start = max(0, end - 65557)
        self.file.seek(start)
        tail = self.file.read(end - start)
        at = tail.rfind(_END)
        if at < 0 or len(tail) < at + 22:
            raise Broken("truncated", "its directory, which stands at the end of a zip, is missing: fetch the file again")
        disk, first, _, count, length, offset = struct.unpack_from("<HHHHII", tail, at + 4)
        place = start + at
        if at >= 20 and tail[at - 20 : at - 16] == _LOCATOR:
            (record,) = struct.unpack_from("<Q", tail, at - 12)
            self.file.seek(min(record, end))
            data = self.file.read(56)
            if len(data) < 56 or data[:4] != _END64:
                raise Broken("damaged", "its 64-bit directory is not where it should be")
            _, count, length, offset = struct.unpack_from("<QQQQ", data, 24)
            place = record
        elif disk or first:
            raise Broken("missing-part", "it is one of several disks: give all of its parts, or pack it as one")
        directory = place - length
        if directory < 0 or offset > directory:
            raise Broken("damaged", "its directory says it lies elsewhere")
        return directory, length, count, directory - offset

    def _entries(self, at: int, length: int, count: int) -> Iterator[_Entry]:
        """The directory's lines."""
        piece, here, done = b"", 0, 0
        for _ in range(count):
            if len(piece) - here < 46 + 3 * 65535 and done < length:
                self.file.seek(at + done)
                more = self.file.read(min(_DIRECTORY_PIECE, length - done))
                done += len(more)
                piece, here = piece[here:] + more, 0
            if len(piece) < here + 46 or piece[here : here + 4] != _ENTRY:
                short = len(piece) < here + 46
                raise Broken("damaged", "its directory is shorter than it says" if short else "its directory is damaged")
            made, _, flags, method, _, _, crc, packed, size, names, extras, comments, _, _, attributes, offset = (
                _LINE.unpack_from(piece, here + 4)
            )
            start = here + 46
            here = start + names + extras + comments
            if len(piece) < here:
                raise Broken("damaged", "its directory is shorter than it says")
            raw, extra = piece[start : start + names], piece[start + names : start + names + extras]
            size, packed, offset = _wide(extra, size, packed, offset)
            kind = (attributes >> 16) & _TYPES if made >> 8 == _UNIX else 0
            yield _Entry(raw, clean(_text(raw, flags)), flags, method, crc, packed, size, offset, kind)


class _Read:
    """The bytes of one member, as its directory line promises them."""

    __slots__ = ("entry", "file", "shift")

    def __init__(self, file: BinaryIO, entry: _Entry, shift: int) -> None:
        self.file, self.entry, self.shift = file, entry, shift

    def __call__(self) -> bytes:
        entry = self.entry
        self.file.seek(entry.at + self.shift)
        head = self.file.read(30)
        if len(head) < 30 or head[:4] != _LOCAL:
            raise Unreadable("damaged", "nothing of it stands where the directory says")
        names, extras = struct.unpack_from("<HH", head, 26)
        if self.file.read(names) != entry.raw:
            raise Unreadable("damaged", "it has another name in its own header than in the directory")
        self.file.seek(extras, 1)
        data = self.file.read(entry.packed)
        if len(data) < entry.packed:
            raise Unreadable("truncated", f"it ends after {len(data):,} of {entry.packed:,} bytes")
        if entry.method:
            decoder = zlib.decompressobj(-15)
            try:
                data = decoder.decompress(data, entry.size + 1)
            except zlib.error as error:
                raise Unreadable("damaged", f"its data: {error}") from error
        if len(data) != entry.size:
            raise Unreadable(
                "wrong-size", f"it holds {'more' if len(data) > entry.size else 'less'} than its {entry.size:,} bytes"
            )
        if zlib.crc32(data) != entry.crc:
            raise Unreadable("checksum", "its bytes are not those its checksum was made of")
        return data


def _fault(entry: _Entry) -> tuple[str, str] | None:
    if fault := bad_name(entry.name):
        return fault
    if entry.kind == _LINK:
        return "link", "it is a link"
    if entry.kind not in (0, _REGULAR):
        return "not-a-file", "it is a device, a pipe or something else that is no file"
    if entry.flags & 0x41:
        return "encrypted", "it is encrypted: pack it again without a password"
    if entry.method not in (0, 8):
        return "unknown-compression", f"it is packed by method {entry.method}; stored (0) and deflated (8) members are read"
    if max(entry.size, entry.packed) > MAX_BYTES:
        return "too-large", f"it has {max(entry.size, entry.packed):,} bytes, more than {MAX_BYTES:,}"
    if entry.size > max(_SMALL, MAX_RATIO * entry.packed):
        return "bomb", f"{entry.packed:,} bytes would become {entry.size:,}: no photograph shrinks like that"
    return None


def _text(raw: bytes, flags: int) -> str:
    """A name: UTF-8 where it is, else, where it does not claim to be, the code page of old."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape") if flags & 0x800 else raw.decode("cp437")


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Sizes and place, from the 64-bit field where the short ones are full."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
            try:
                size = next(values) if size == 0xFFFFFFFF else size
                packed = next(values) if packed == 0xFFFFFFFF else packed
                offset = next(values) if offset == 0xFFFFFFFF else offset
            except StopIteration:
                raise Broken("damaged", "a 64-bit size is missing in its directory") from None
        at += 4 + length
    return size, packed, offset
