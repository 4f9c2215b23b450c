"""A compressed file as a stream of bytes that only moves forward, in bounded memory, and that stops at a bomb."""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import Any, BinaryIO

from imaginet_build.collectors.members import FREE_BYTES, MAX_RATIO, Broken, BrokeOff

_CHUNK = 256 * 1024
_PIECE = 64 * 1024
_XZ_MEMORY = 256 * 2**20
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def compression(head: bytes) -> str | None:
    """How a file with this beginning is compressed: gzip, bzip2, xz, zstd, or None."""
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)


class Inflated:
    """Reads `raw` (at its beginning) as `kind` says. `read`, `tell` and a `seek` that goes forward, as `tarfile` needs them.

    Raises `Broken`: `truncated`, `damaged`, or `bomb` where the content is more than `MAX_RATIO` times what it came from.
    """

    def __init__(self, raw: BinaryIO, kind: str) -> None:
        self.raw, self.kind = raw, kind
        self.position = 0
        self.ready = b""
        self.at = 0
        self.taken = self.given = 0
        self.source: Any = _zstd(self) if kind == "zstd" else _Decoder(self, kind)

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        if size < 0:
            raise ValueError("a compressed stream is read in pieces")
        left, pieces = size, []
        while left:
            piece = self.ready[self.at : self.at + left]
            if piece:
                self.at += len(piece)
                left -= len(piece)
                pieces.append(piece)
            elif not self._fill():
                break
        self.position += size - left
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def tell(self) -> int:
        """How far it has been read."""
        return self.position

    def seek(self, position: int, whence: int = 0) -> int:
        """Skip forward to `position`."""
        if whence or position < self.position:
            raise ValueError("a compressed stream only moves forward")
        while self.position < position:
            here = min(len(self.ready) - self.at, position - self.position)
            self.at += here
            self.position += here
            if self.position < position and not self._fill():
                break
        return self.position

    def pull(self, size: int = _CHUNK) -> bytes:
        """The next bytes of the compressed file."""
        data = self.raw.read(size)
        self.taken += len(data)
        return data

    def _fill(self) -> bool:
        try:
            self.ready = self.source.read(_PIECE)
        except (Broken, BrokeOff):
            raise
        except EOFError as error:
            raise Broken("truncated", f"its {self.kind} data end half-way ({error})") from error
        except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            cut = "truncated" in said.lower() or "unexpected end" in said.lower()
            raise Broken("truncated" if cut else "damaged", f"its {self.kind} data: {said}") from error
        self.at = 0
        self.given += len(self.ready)
        if self.given > FREE_BYTES and self.given > MAX_RATIO * self.taken:
            raise Broken("bomb", f"{self.taken:,} bytes have already become {self.given:,}: no photographs shrink like that")
        return bool(self.ready)


class _Decoder:
    """gzip, bzip2 and xz: several streams behind one another, and padding after the last."""

    def __init__(self, owner: Inflated, kind: str) -> None:
        self.owner, self.kind = owner, kind
        self.decoder = self._new()
        self.waiting = b""
        self.begun = False

    def _new(self) -> Any:
        if self.kind == "gzip":
            return zlib.decompressobj(31)
        return bz2.BZ2Decompressor() if self.kind == "bzip2" else lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def read(self, size: int) -> bytes:
        while True:
            if self.decoder.eof and not self._next_stream():
                return b""
            hungry = not self.waiting and (self.kind == "gzip" or self.decoder.needs_input)
            taken = self.owner.pull() if hungry else self.waiting
            data = self.decoder.decompress(taken, size)
            self.waiting = self.decoder.unconsumed_tail if self.kind == "gzip" else b""
            if data:
                self.begun = True
                return bytes(data)
            if hungry and not taken and not self.decoder.eof:
                if self.begun:
                    raise EOFError("the end of the stream is missing")
                return b""
            self.begun = True

    def _next_stream(self) -> bool:
        """Whether another stream begins behind the one that has ended."""
        rest = self.decoder.unused_data.lstrip(b"\0") or self.waiting.lstrip(b"\0")
        while not rest:
            if not (rest := self.owner.pull()):
                return False
            rest = rest.lstrip(b"\0")
        if len(rest) < 16:
            rest += self.owner.pull(16)
        if compression(rest) != self.kind:
            return False  # what stands behind the last stream is no part of it
        self.decoder, self.waiting, self.begun = self._new(), rest, False
        return True


def _zstd(owner: Inflated) -> Any:
    import pyarrow as pa

    class Raw:
        closed = False

        def read(self, size: int = _CHUNK) -> bytes:
            return owner.pull(_PIECE if size is None or size < 0 else size)

        def readable(self) -> bool:
            return True

        def close(self) -> None:
            self.closed = True

    return pa.CompressedInputStream(pa.PythonFile(Raw(), mode="r"), "zstd")
