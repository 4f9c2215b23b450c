"""Members of a tar archive in stored order: headers are read by `tarfile`, members straight from the file.

`tarfile` alone would end in silence at a damaged header, read a header of any length into memory, and follow a negative size
backwards for ever: those three are looked after here.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from imaginet_build.collectors.members import MAX_BYTES, Broken, Member, Unreadable, bad_name, clean, printable, refused

_BLOCK = tarfile.BLOCKSIZE
_DIRECTORY = ("directory", "it is a directory")
_LONGEST_HEADER = 2**20
_END_BLOCKS = 2**15
"""Zeros after the end mark that are looked through for a further archive: 16 MB, as the largest tapes pad."""


class Tar:
    """An opened tar archive; `file` stands at its beginning and need only go forward."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.headers = _Headers(file)
        # What reads headers is told of an empty archive first: it would read the first header by itself, and badly.
        self.tar = tarfile.TarFile(fileobj=io.BytesIO(bytes(2 * _BLOCK)), encoding="utf-8", errors="surrogateescape")
        self.tar.fileobj = cast(Any, self.headers)

    def members(self, wanted: Callable[[str], bool]) -> Iterator[Member]:
        """Every regular member, and a fault for whatever is none. Raises `Broken`."""
        after = 0
        while (header := self._next(after)) is not None:
            name, size, at, after, fault = header
            name = clean(name)
            fault = bad_name(name) or fault
            if fault is None and size > MAX_BYTES:
                fault = "too-large", f"it has {size:,} bytes, more than {MAX_BYTES:,}"
            if fault != _DIRECTORY:
                usable = fault is None and wanted(name)
                yield Member(name, _Read(self.file, at, size) if usable else refused, fault)

    def _next(self, offset: int) -> tuple[str, int, int, int, tuple[str, str] | None] | None:
        """Name, size, place, the next header's place and the fault of the member at `offset`; None where the archive ends."""
        try:
            self.file.seek(offset)
        except (OSError, ValueError, OverflowError) as error:  # no file is as long as the member before claims to be
            raise Broken("truncated", f"its next header should stand at byte {offset:,}: {error}") from error
        self.tar.members.clear()  # type: ignore[attr-defined]
        if len(self.tar.pax_headers) > 1000:
            cast(dict[str, str], self.tar.pax_headers).clear()
        zeros = 0
        while True:
            block = self.file.read(_BLOCK)
            if not self.tar.pax_headers and (plain := _plain(block)):
                at = offset + (zeros + 1) * _BLOCK
                return *plain, at, at + (plain[1] + _BLOCK - 1) // _BLOCK * _BLOCK, None
            self.headers.pushed = block
            try:
                info = tarfile.TarInfo.fromtarfile(self.tar)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                # A zero block ends an archive; behind its padding another may stand, as `cat a.tar b.tar` leaves it.
                zeros += 1
                if zeros > _END_BLOCKS:
                    return None
            except (tarfile.TarError, ValueError, RecursionError) as error:
                if zeros:
                    return None  # padding, of zeros or not
                where, said = f"at byte {offset:,}", str(error)[:200]
                if isinstance(error, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
                    raise Broken("truncated", f"it ends {where} without its end mark") from error
                if not offset:
                    raise Broken("not-an-archive", f"no tar archive: {said}") from error
                cut = "truncated" in said or "end of data" in said
                raise Broken("truncated" if cut else "damaged", f"{where}: {said}") from error
            else:
                after = self.tar.offset
                if info.size < 0 or after <= offset:
                    raise Broken("damaged", f"{printable(info.name)} has a size of {info.size}")
                return info.name, info.size, info.offset_data, after, _not_a_file(info)


def _plain(block: bytes) -> tuple[str, int] | None:
    """Name and size in the header of a plain file, the only kind that most archives hold; None for `tarfile` to look at."""
    kind = block[257:265]
    if len(block) < _BLOCK or block[156] != 0x30 or kind not in (b"ustar\x0000", b"ustar  \0"):
        return None
    size, checksum = block[124:136].rstrip(b" \0"), block[148:156].rstrip(b" \0")
    if not (size.isdigit() and checksum.isdigit()) or sum(block) - sum(block[148:156]) + 256 != _octal(checksum):
        return None
    try:
        name = block[:100].partition(b"\0")[0].decode()
        folder = block[345:500].partition(b"\0")[0].decode() if kind[5] == 0 else ""
    except UnicodeDecodeError:
        return None
    number = _octal(size)
    return None if number < 0 else (f"{folder}/{name}" if folder else name, number)


def _octal(digits: bytes) -> int:
    try:
        return int(digits, 8)
    except ValueError:
        return -1


class _Read:
    """The bytes of one member, once the file is moved there."""

    __slots__ = ("at", "file", "size")

    def __init__(self, file: BinaryIO, at: int, size: int) -> None:
        self.file, self.at, self.size = file, at, size

    def __call__(self) -> bytes:
        try:
            self.file.seek(self.at)
        except (OSError, ValueError, OverflowError) as error:
            raise Unreadable("sparse", "its place in the archive is not where its header stands") from error
        data = self.file.read(self.size)
        if len(data) < self.size:
            raise Broken("truncated", f"it ends after {len(data):,} of the {self.size:,} bytes of a member")
        return data


class _Headers:
    """The archive as `tarfile` sees it while it reads headers: no header may be longer than a megabyte."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.seek = file.seek
        self.pushed = b""

    def tell(self) -> int:
        return self.file.tell() - len(self.pushed)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        if self.pushed:
            pushed, self.pushed = self.pushed, b""
            return pushed  # always the block that is being asked for
        return self.file.read(size)


def _not_a_file(info: Any) -> tuple[str, str] | None:
    if info.issym() or info.islnk():
        return "link", f"it is a link to {printable(info.linkname)!r}"
    if info.issparse():
        return "sparse", "it is stored with holes: pack it again without --sparse"
    if info.isdir():
        return _DIRECTORY
    if not info.isreg():
        return "not-a-file", "it is a device, a pipe or something else that is no file"
    return None
