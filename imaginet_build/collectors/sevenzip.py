"""Members of a 7z archive in stored order, read by py7zr, which hands over each file as it unpacks it.

py7zr pushes and a collector pulls, so it unpacks in a thread of its own that waits whenever it is a few images ahead.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from imaginet_build.collectors.members import (
    FREE_BYTES,
    MAX_BYTES,
    MAX_RATIO,
    Broken,
    BrokeOff,
    Member,
    bad_name,
    clean,
    refused,
)
from imaginet_build.errors import MissingExtra

_AHEAD = 4
"""Images that may wait between the two."""

_LONGEST_HEADER = 512 * 2**20


class SevenZip:
    """An opened 7z archive (its parts joined)."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        try:
            import py7zr
        except ImportError:
            raise MissingExtra("a 7z archive", "py7zr", "sevenzip") from None
        head = file.read(32)
        file.seek(0)
        if len(head) < 32 or int.from_bytes(head[12:20], "little") + int.from_bytes(head[20:28], "little") + 32 > length:
            raise Broken("truncated", "its list of members, which stands at the end of a 7z, is missing: is a part not there?")
        if int.from_bytes(head[20:28], "little") > _LONGEST_HEADER:
            raise Broken("damaged", "its list of members is longer than any archive needs")
        self.length = length
        try:
            self.file = _Sparing(file)
            self.archive = py7zr.SevenZipFile(self.file, "r")
        except (BrokeOff, MissingExtra):
            raise
        except Exception as error:  # py7zr raises its own, struct's, lzma's and Python's errors on wild bytes
            raise _broken(error) from error

    def members(self, wanted: Callable[[str], bool]) -> Iterator[Member]:
        """Every file; those that cannot be wanted come first. Raises `Broken`."""
        if self.archive.password_protected:
            raise Broken("encrypted", "it is encrypted: pack it again without a password")
        asked: dict[str, str] = {}
        seen: set[str] = set()
        for number, entry in enumerate(self.archive.files, 1):
            name = clean(str(entry.filename))
            if entry.is_directory:
                continue
            fault = bad_name(name) or _not_a_file(entry)
            if entry.filename in seen:
                fault = fault or ("listed-twice", f"the archive has another member {name}")
                name = f"{name}#{number}"
            seen.add(entry.filename)
            if fault is None and entry.uncompressed > MAX_BYTES:
                fault = "too-large", f"it has {entry.uncompressed:,} bytes, more than {MAX_BYTES:,}"
            if fault is None and wanted(name):
                asked[str(entry.filename)] = name
            else:
                yield Member(name, refused, fault)
        if asked:
            yield from self._unpacked(asked)

    def _hungry(self) -> bool:
        """Whether the decoder at work can use more input; py7zr would hand it a whole block of members ahead of its time."""
        for folder in self.archive.header.main_streams.unpackinfo.folders:
            first = folder.decompressor.chain[0] if folder.decompressor is not None else None
            if first is not None and not getattr(first, "eof", False) and not getattr(first, "needs_input", True):
                return False
        return True

    def _unpacked(self, asked: dict[str, str]) -> Iterator[Member]:
        full = sum(entry.uncompressed for entry in self.archive.files)
        if full > FREE_BYTES and full > MAX_RATIO * self.length:
            raise Broken("bomb", f"{self.length:,} bytes would become {full:,}: no photographs shrink like that")
        pushed: queue.Queue[tuple[str, bytes] | Exception | None] = queue.Queue(maxsize=_AHEAD)
        stop = threading.Event()

        def push(item: tuple[str, bytes] | Exception | None) -> None:
            while not stop.is_set():
                try:
                    return pushed.put(item, timeout=0.2)
                except queue.Full:
                    continue
            raise _Stopped

        def unpack() -> None:
            try:
                self.file.hungry = self._hungry
                self.archive.extract(targets=set(asked), factory=_factory(push))
                push(None)
            except _Stopped:
                return
            except Exception as error:  # handed to the thread that reads
                if not stop.is_set():
                    push(error)

        thread = threading.Thread(target=unpack, name="sevenzip", daemon=True)
        thread.start()
        try:
            while (item := pushed.get()) is not None:
                if isinstance(item, Exception):
                    raise item if isinstance(item, BrokeOff | Broken) else _broken(item) from item
                stored, data = item
                if name := asked.pop(stored, None):  # py7zr unpacks a second member of one name under another
                    yield Member(name, lambda data=data: data)  # type: ignore[misc]
        finally:
            stop.set()
            thread.join()
        for name in asked.values():
            yield Member(name, refused, ("damaged", "nothing of it was in the archive"))


class _Sparing(io.RawIOBase):
    """The archive, which gives nothing while the decoder still holds enough."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.file = file
        self.hungry: Callable[[], bool] | None = None

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size) if self.hungry is None or self.hungry() else b""

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, position: int, whence: int = 0) -> int:
        return self.file.seek(position, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class _Stopped(Exception):
    """Nobody wants the rest."""


def _factory(push: Callable[[tuple[str, bytes]], None]) -> Any:
    from py7zr.io import Py7zIO, WriterFactory

    class Writer(Py7zIO):  # type: ignore[misc, unused-ignore]
        """Collects one file and hands it over when py7zr is done with it."""

        def __init__(self, name: str) -> None:
            self.name = name
            self.pieces: list[bytes] = []
            self.held = 0

        def write(self, s: bytes | bytearray) -> int:
            self.held += len(s)
            if self.held > MAX_BYTES:
                raise Broken("damaged", "a member is larger than its list says")
            self.pieces.append(bytes(s))
            return len(s)

        def read(self, size: int | None = None) -> bytes:  # noqa: ARG002 - the signature is py7zr's
            return b""

        def seek(self, offset: int, whence: int = 0) -> int:  # noqa: ARG002 - the signature is py7zr's
            return 0

        def flush(self) -> None:
            """Nothing is kept back."""

        def size(self) -> int:
            return self.held

        def close(self) -> None:
            pieces, self.pieces = self.pieces, []
            push((self.name, b"".join(pieces)))

    class Factory(WriterFactory):  # type: ignore[misc, unused-ignore]
        def create(self, filename: str) -> Any:
            return Writer(filename)

    return Factory()


def _not_a_file(entry: Any) -> tuple[str, str] | None:
    if entry.is_symlink or entry.is_junction:
        return "link", "it is a link"
    return ("not-a-file", "it is no regular file") if entry.is_socket else None


def _broken(error: Exception) -> Broken:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    name = type(error).__name__
    reason = "checksum" if name == "CrcError" else "encrypted" if name == "PasswordRequired" else "damaged"
    return Broken("truncated" if isinstance(error, EOFError) else reason, said)
