"""A judge in a process of its own, for images from anywhere: one at a time, each within its time, ended where it takes longer.

A thread cannot be stopped in the middle of a decoder; a process can. What it looks at is never written to a file.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from imaginet_build.detecting.evidence import evidence
from imaginet_build.detecting.given import Given
from imaginet_build.detecting.judge import Judge
from imaginet_build.errors import BadImage, BuildError

SECONDS = 60.0
WAITING = 4
_START = 300.0


class Busy(BuildError):
    """Too many images wait already."""


class TooSlow(BuildError):
    """An image took longer than it may, and was given up."""


class Keeper:
    """Starts the process, and starts it anew where it had to be ended. `seconds`: for one image.

    Raises what `Judge` raises; a checkpoint that cannot be loaded is known before the first image.
    """

    def __init__(self, checkpoint: Path | None = None, seconds: float = SECONDS) -> None:
        self._checkpoint, self._seconds = checkpoint, seconds
        self._turn = threading.Lock()
        self._room = threading.BoundedSemaphore(WAITING)
        self._process: Any = None
        self._pipe: Connection
        self.name = self._start()

    def look(self, name: str, data: bytes) -> dict[str, Any]:
        """`{"answer", "patches", "evidence"}` of one image; the last two are empty where it cannot be read.

        Raises `Busy` where `WAITING` images wait already, `TooSlow` where it takes longer than it may.
        """
        if not self._room.acquire(blocking=False):
            raise Busy(f"{WAITING} images wait already; try again in a moment")
        try:
            with self._turn:
                return self._ask(name, data)
        finally:
            self._room.release()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _ask(self, name: str, data: bytes) -> dict[str, Any]:
        if not self._process.is_alive():
            self._start()
        try:
            self._pipe.send((name, data))
            if self._pipe.poll(self._seconds):
                said: dict[str, Any] = self._pipe.recv()
                return said
            why = f"more than {self._seconds:g} seconds"
        except (EOFError, OSError):
            why = "more than there is, and ended the detector"
        self.close()
        self._start()
        raise TooSlow(f"looking at this image took {why}; it was given up")

    def _start(self) -> str:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._checkpoint), daemon=True, name="detect")
        self._process.start()
        theirs.close()
        try:
            said = self._pipe.recv() if self._pipe.poll(_START) else None
        except EOFError:
            said = None
        if isinstance(said, str):
            return said
        self.close()
        raise said if isinstance(said, BuildError) else BuildError("the detector's process ended before it was ready")


def _serve(pipe: Connection, checkpoint: Path | None) -> None:
    """The other process: images in, answers out, until the pipe closes."""
    # Ctrl-C goes to the whole group; the first process decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        judge = Judge(checkpoint)
    except BuildError as error:
        pipe.send(error)
        return
    pipe.send(judge.name)
    while True:
        try:
            name, data = pipe.recv()
        except EOFError:
            return
        pipe.send(_looked(judge, name, data))


def _looked(judge: Judge, name: str, data: bytes) -> dict[str, Any]:
    answer, item, patches = judge.look(Given(name, data))
    found: dict[str, Any] = {"answer": answer, "patches": patches, "evidence": None}
    if item is not None:
        try:
            found["evidence"] = evidence(data) | {"seen": {"width": item.image.width, "height": item.image.height}}
        except BadImage as error:
            found["answer"] = {"path": name, "error": str(error)}
    return found
