"""Many things under way at once, answers in the order they were asked for, memory bounded.

The work is done by coroutines in one background thread, so that transfers go on while the caller measures what it has.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_PATIENCE = 20.0
_FEW = 8


class Memory:
    """Bytes that are held, by those under way and by those that wait to be taken, beside a limit.

    Only `next`, the first that was not taken yet, may go over the limit, so that something always gets done: in all no more is
    held than the limit and one answer.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.next = 0
        self._changed = asyncio.Event()

    def grow(self, turn: int, size: int) -> bool:
        """Whether `size` more bytes may be held; if so, they are counted."""
        if self.held + size > self.limit and turn != self.next:
            return False
        self.held += size
        return True

    def free(self, size: int, taken: int = 0) -> None:
        """So many bytes are held no longer; so many answers were taken."""
        self.held -= size
        self.next += taken
        self._changed.set()
        self._changed = asyncio.Event()

    async def room(self, turn: int) -> None:
        """Wait until no more than half of the limit is held, or `turn` is next."""
        while self.held > self.limit // 2 and turn != self.next:
            await self._changed.wait()


@dataclass(slots=True)
class Hold:
    """What one piece of work holds of the memory."""

    memory: Memory
    turn: int
    size: int = 0

    def grow(self, size: int) -> bool:
        """See `Memory.grow`."""
        allowed = self.memory.grow(self.turn, size)
        self.size += size if allowed else 0
        return allowed

    def drop(self) -> None:
        """Give everything back."""
        size, self.size = self.size, 0
        self.memory.free(size)

    async def room(self) -> None:
        """See `Memory.room`."""
        await self.memory.room(self.turn)


Work = Callable[[T, Hold], Awaitable[R]]


@dataclass(frozen=True, slots=True)
class _Answer(Generic[R]):
    value: R
    size: int


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


def in_order(
    tasks: Callable[[], Generator[T]],
    open_work: Callable[[], AbstractAsyncContextManager[Work[T, R]]],
    most: int,
    most_bytes: int,
    wanted: int | None = None,
    counts: Callable[[R], bool] = lambda _: True,
) -> Iterator[R]:
    """The answer to every task, in the tasks' order; at most `most` of them under way or waiting for their turn.

    `wanted`: after so many answers that count the caller will probably stop, so no more are begun than may still be of use;
    should he ask for more all the same, a few are begun at a time.
    `tasks` and `open_work` are called in the background thread; an exception of either is raised here. Closing the iterator
    ends everything that is under way.
    """
    left = None if wanted is None else max(1, wanted)
    pump = _Pump(tasks, open_work, most, most_bytes, left)
    thread = threading.Thread(target=pump.main, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            answer = pump.out.get()
            if isinstance(answer, _End):
                if answer.error is not None:
                    raise answer.error
                return
            counted = left is not None and counts(answer.value)
            pump.delivered(answer.size, counted)
            yield answer.value
            if left is not None and (left := left - counted) == 0:
                left = _FEW
                pump.more(_FEW)
    finally:
        pump.stop()
        thread.join(_PATIENCE)


class _Pump(Generic[T, R]):
    def __init__(
        self,
        tasks: Callable[[], Generator[T]],
        open_work: Callable[[], AbstractAsyncContextManager[Work[T, R]]],
        most: int,
        most_bytes: int,
        left: int | None,
    ) -> None:
        self.tasks, self.open_work, self.most, self.most_bytes = tasks, open_work, most, most_bytes
        self.left = left
        self.begun = 0
        self.out: queue.SimpleQueue[_Answer[R] | _End] = queue.SimpleQueue()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.task: asyncio.Task[None] | None = None
        self.stopped = threading.Event()
        self.lock = threading.Lock()

    # --- in the caller's thread ----------------------------------------------------------------------------------------

    def delivered(self, size: int, counted: bool) -> None:
        self._call(lambda: self._release(size, counted))

    def more(self, few: int) -> None:
        self._call(lambda: self._extend(few))

    def stop(self) -> None:
        self.stopped.set()
        self._call(lambda: self.task.cancel() if self.task else None)

    def _call(self, function: Callable[[], object]) -> None:
        with self.lock:
            if self.loop is not None:
                self.loop.call_soon_threadsafe(function)

    # --- in its own ----------------------------------------------------------------------------------------------------

    def main(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._run())
        except asyncio.CancelledError:
            pass
        except BaseException as raised:  # raised again in the caller's thread
            error = raised
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
        self.out.put(_End(error))

    async def _run(self) -> None:
        self.task = asyncio.current_task()
        self.changed = asyncio.Event()
        self.memory = Memory(self.most_bytes)
        self.done: dict[int, _Answer[R]] = {}
        self.due = 0
        with self.lock:
            self.loop = asyncio.get_running_loop()
        try:
            if not self.stopped.is_set():
                async with self.open_work() as work:
                    await self._all(work)
        finally:
            with self.lock:
                self.loop = None

    async def _all(self, work: Work[T, R]) -> None:
        number = 0
        with closing(self.tasks()) as tasks:
            async with asyncio.TaskGroup() as group:
                for task in tasks:
                    while self.begun >= (self.most if self.left is None else min(self.most, self.left)):
                        self.changed.clear()
                        await self.changed.wait()
                    self.begun += 1
                    hold = Hold(self.memory, number)
                    await hold.room()
                    group.create_task(self._one(work, task, hold))
                    number += 1

    async def _one(self, work: Work[T, R], task: T, hold: Hold) -> None:
        value = await work(task, hold)
        self.done[hold.turn] = _Answer(value, hold.size)
        while (answer := self.done.pop(self.due, None)) is not None:
            self.due += 1
            self.out.put(answer)

    def _release(self, size: int, counted: bool) -> None:
        self.begun -= 1
        self.memory.free(size, taken=1)
        self._extend(-int(counted))

    def _extend(self, more: int) -> None:
        self.left = None if self.left is None else self.left + more
        self.changed.set()
