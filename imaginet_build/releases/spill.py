"""Bytes set aside on disk until their turn comes, where they are made in one order and written in another."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType


class Spill:
    """One scratch file of blobs by name, kept until their turn; where each lies is in memory.

    A context manager: the file goes when the block ends.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("w+b")
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._file.close()  # on a full disk even this fails: what is still buffered has no room
        finally:
            self._path.unlink(missing_ok=True)

    def put(self, name: str, data: bytes) -> None:
        """Set `data` aside under `name`; every `put` comes before the first `take`."""
        self._file.write(data)
        self._places[name] = (self._end, len(data))
        self._end += len(data)

    def take(self, name: str) -> bytes:
        """The bytes put aside under `name`; raises KeyError for a name that was never put."""
        start, size = self._places[name]
        self._file.seek(start)
        return self._file.read(size)
