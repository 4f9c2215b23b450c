"""An append-only file of JSON lines that several processes write and any of them may be killed at, and who of them still lives.

Whoever writes holds the file's lock and has read every line of the others; a line is on the disk when `append` returns. What a
killed writer left half written is cut off from what follows, left out and said.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

log = logging.getLogger(__name__)


class Journal:
    """The lines of `<root>/<name>` (None: in memory alone), each handed to `apply` once, in their order."""

    def __init__(self, root: Path | None, name: str, apply: Callable[[Mapping[str, Any]], None]) -> None:
        self.root, self.name, self.apply = root, name, apply
        self.me = uuid4().hex
        self._file = self._life = -1
        self._offset = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The file to ourselves, with every line that others wrote applied."""
        if self.root is None:
            yield
            return
        if self._file < 0:
            self.root.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.root / self.name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            synced(self.root)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self._read()
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write lines to the disk and apply them. Only while locked."""
        if self.root is None:
            for line in lines:
                self.apply(line)
            return
        data = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines).encode()
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)
        self._read()

    def _read(self) -> None:
        data = b""
        while more := os.pread(self._file, 1 << 24, self._offset + len(data)):
            data += more
        if data and not data.endswith(b"\n"):  # we hold the lock, so nobody is writing: whoever wrote this was killed
            os.write(self._file, b"\n")
            data += b"\n"
        self._offset += len(data)
        for line in data.splitlines():
            try:
                self.apply(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                log.warning(
                    "%s: left out a broken line (%r): its writer was killed in the middle, or it is not ours",
                    self.root, line[:60],
                )  # fmt: skip

    # --- who lives ----------------------------------------------------------------------------------------------------

    def live(self) -> str:
        """Our own name as a writer; its lock is held as long as this process lives. Only while locked."""
        if self.root is not None and self._life < 0:
            (self.root / "senders").mkdir(exist_ok=True)
            self._life = os.open(self.root / "senders" / self.me, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._life, fcntl.LOCK_EX)
        return self.me

    def lives(self, writer: str) -> bool:
        """Whether the process that writes under this name still runs. Only while locked."""
        if self.root is None or writer == self.me:
            return True
        path = self.root / "senders" / writer
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        path.unlink(missing_ok=True)
        return False

    def sweep(self) -> None:
        """Forget the names of processes that are gone. Only while locked."""
        for path in list((self.root / "senders").glob("*")) if self.root is not None else []:
            self.lives(path.name)

    def __del__(self) -> None:
        for descriptor in (self._file, self._life):
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)


def synced(folder: Path) -> None:
    """Bring a folder's list of files to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
