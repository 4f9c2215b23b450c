"""The legs: run one worker class over many tasks in processes of their own, surviving what a task may do to its process.

Workers are spawned, never forked; each gets its own number of threads before anything numerical is imported, so that the
same task gives the same bytes however many workers there are. A worker ends with its parent, also when the parent is killed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, Literal, Protocol, TypeVar, overload

from imaginet_build.errors import BuildError

T = TypeVar("T")
R = TypeVar("R")
Worker = Callable[[T], R]
log = logging.getLogger(__name__)


class Progress(Protocol):
    """Called now and then with how many images are done and failed, and how many there will be (None: not known)."""

    def __call__(self, done: int, failed: int, total: int | None) -> None:
        """Say so."""


def silent(done: int, failed: int, total: int | None) -> None:
    """The progress of somebody who does not look."""


THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

GRACE = 5.0
"""Seconds that a process which should end is given before it is killed."""


@dataclass(frozen=True, slots=True)
class Pool:
    """How work is spread on this machine.

    `workers`: processes (0: one for every core). `threads_per_worker`: threads of each, also on a machine with more cores,
    because the number of threads may change the last bit of a sum. `attempts`: how often a task that kills its process is
    tried. `timeout`: seconds after which a task counts as hung and its process is ended.
    """

    workers: int = 0
    threads_per_worker: int = 1
    attempts: int = 2
    timeout: float = 3600.0

    @property
    def size(self) -> int:
        """The number of processes `workers` stands for here."""
        return self.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T, R]):
    """What became of a task: its `value`, or `error` in one sentence. `fatal`: the process died or hung."""

    task: T
    value: R | None
    error: str | None = None
    fatal: bool = False


@dataclass(slots=True)
class _Seat(Generic[T]):
    """One worker process and what it is busy with."""

    process: SpawnProcess
    pipe: Connection
    job: _Job[T] | None = None
    since: float = 0.0
    up: bool = False


@dataclass(slots=True)
class _Job(Generic[T]):
    task: T
    attempts: int = 0


@overload
def run(
    factory: Callable[[], Worker[T, R]],
    tasks: Iterable[T],
    pool: Pool,
    hold: Callable[[], bool] = ...,
    ahead: Literal[False] = ...,
) -> Generator[Outcome[T, R]]: ...


@overload
def run(
    factory: Callable[[], Worker[T, R]], tasks: Iterable[T], pool: Pool, hold: Callable[[], bool] = ..., *, ahead: Literal[True]
) -> Generator[Outcome[T, R] | None]: ...


def run(
    factory: Callable[[], Worker[T, R]],
    tasks: Iterable[T],
    pool: Pool,
    hold: Callable[[], bool] = lambda: False,
    ahead: bool = False,
) -> Generator[Outcome[T, R] | None]:
    """Every task's outcome, as they finish. `factory` is called once in each process and must pickle, as tasks must.

    Tasks are taken from the iterable as workers become free, so an endless or a large one is fine; none is taken while
    `hold()` is true and something is still under way. An exception in a task is its outcome's `error`; a dead or hung process
    is replaced and the task tried again, `pool.attempts` times in all. `ahead`: who has finished a task is given the next one
    before the caller sees the outcome, so that nobody waits for a caller who takes his time; and a None comes first, as soon
    as the processes are started.
    """
    crew: _Crew[T, R] = _Crew(factory, pool, hold, iter(tasks))
    try:
        if ahead and crew.set_to_work():
            yield None
        while crew.set_to_work():
            for outcome in crew.wait():
                if ahead:
                    crew.set_to_work()
                yield outcome
    finally:
        crew.dismiss()


def ordered(function: Callable[[T], R], tasks: Iterable[T], pool: Pool) -> Iterator[R]:
    """`function` of every task, in the tasks' order, computed in processes. The first error is raised as `BuildError`.

    At most a few tasks per worker are under way or waiting for their turn, whatever the number of tasks.
    """
    held: dict[int, R] = {}
    due = 0
    outcomes: Iterator[Outcome[tuple[int, T], tuple[int, R]]] = run(
        _Numbered(function), enumerate(tasks), pool, hold=lambda: len(held) > 4 * pool.size
    )
    for outcome in outcomes:
        if outcome.error is not None or outcome.value is None:
            raise BuildError(outcome.error or "a worker gave no answer")
        number, value = outcome.value
        held[number] = value
        while due in held:
            yield held.pop(due)
            due += 1


@dataclass(frozen=True, slots=True)
class _Numbered(Generic[T, R]):
    """A factory whose worker keeps the task's number beside the answer."""

    function: Callable[[T], R]

    def __call__(self) -> Worker[tuple[int, T], tuple[int, R]]:
        return lambda numbered: (numbered[0], self.function(numbered[1]))


class _Crew(Generic[T, R]):
    """The processes of one `run`: who is busy with what, and what must be tried again."""

    def __init__(self, factory: Callable[[], Worker[T, R]], pool: Pool, hold: Callable[[], bool], source: Iterator[T]) -> None:
        self.factory, self.pool, self.hold, self.source = factory, pool, hold, source
        self.seats: list[_Seat[T]] = []
        self.again: deque[_Job[T]] = deque()

    def set_to_work(self) -> bool:
        """Give every free worker a task, starting workers as needed; False when nothing is left to do."""
        while True:
            idle = next((seat for seat in self.seats if seat.job is None), None)
            if idle is None and len(self.seats) >= self.pool.size:
                return True
            job = self._next_job()
            if job is None:
                return any(seat.job for seat in self.seats)
            if idle is None:
                idle = _start(self.factory, self.pool)
                self.seats.append(idle)
            job.attempts += 1
            idle.job, idle.since = job, time.monotonic()
            # A worker that died meanwhile is noticed through its sentinel.
            with suppress(BrokenPipeError, ConnectionResetError):
                idle.pipe.send(job.task)

    def wait(self) -> Iterator[Outcome[T, R]]:
        """What the busy workers finished within a second."""
        busy = [seat for seat in self.seats if seat.job is not None]
        ready = set(wait([x for seat in busy for x in (seat.pipe, seat.process.sentinel)], timeout=1.0))
        for seat in busy:
            assert seat.job is not None
            outcome = self._heard(seat, seat.job.task, bool({seat.pipe, seat.process.sentinel} & ready))
            if outcome is None:
                continue
            job, seat.job = seat.job, None
            if outcome.fatal:
                self.seats.remove(seat)
                seat.pipe.close()
                if job.attempts < self.pool.attempts:
                    log.warning("%s: trying the task again in a new process", outcome.error)
                    self.again.append(job)
                    continue
            yield outcome

    def dismiss(self) -> None:
        """End every process: the idle ones by closing their pipe, the busy ones at once."""
        for seat in self.seats:
            seat.pipe.close()
            if seat.job is not None:
                seat.process.terminate()
        for seat in self.seats:
            seat.process.join(GRACE)
            if seat.process.is_alive():
                seat.process.kill()
                seat.process.join()

    def _next_job(self) -> _Job[T] | None:
        if self.again:
            return self.again.popleft()
        if self.hold() and any(seat.job for seat in self.seats):
            return None
        for task in self.source:
            return _Job(task)
        return None

    def _heard(self, seat: _Seat[T], task: T, ready: bool) -> Outcome[T, R] | None:
        """What a busy worker has to say now, or None while it works on."""
        # `ready` was true when it was asked for; the caller may have taken its time since.
        if ready or seat.pipe.poll():
            # OSError: killed in the middle of an answer.
            with suppress(EOFError, OSError):
                while seat.pipe.poll():
                    value, error = seat.pipe.recv()
                    if seat.up:
                        return Outcome(task, value, error)
                    # What a process takes to start is no task's time.
                    seat.up, seat.since = True, time.monotonic()
                if seat.process.is_alive():
                    return None
            seat.process.join(GRACE)
            code = seat.process.exitcode
            if code is None:
                seat.process.kill()
                seat.process.join()
            how = f"signal {-code} ({signal.Signals(-code).name})" if code is not None and code < 0 else f"exit code {code}"
            if not seat.up:
                # No task is to blame, so none may be given up for it.
                raise BuildError(
                    f"a worker process ended before it began ({how}); what it said stands above. A script that uses this "
                    "package is a file, and its work stands below: if __name__ == '__main__':"
                )
            return Outcome(task, None, f"the worker process died ({how})", fatal=True)
        if time.monotonic() - seat.since > self.pool.timeout:
            seat.process.kill()
            seat.process.join()
            return Outcome(task, None, f"the worker gave no answer in {self.pool.timeout:g} s and was ended", fatal=True)
        return None


def _start(factory: Callable[[], Worker[T, R]], pool: Pool) -> _Seat[T]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    # A spawned process imports its parent's main module before it runs a line of ours, and that may import anything: the
    # number of threads must be in the environment it is born with.
    with _environment(dict.fromkeys(THREAD_VARIABLES, str(pool.threads_per_worker))):
        process.start()
    theirs.close()
    try:
        ours.send(factory)
    except (BrokenPipeError, ConnectionResetError):
        log.debug("a worker process ended before it began")
    return _Seat(process, ours)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes that are started in the body."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(pipe: Connection) -> None:
    """The life of a worker process."""
    # Ctrl-C reaches the whole process group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    worker: Worker[object, object] | None = None
    try:
        pipe.send((None, None))
        factory = pipe.recv_bytes()
        while True:
            task = pipe.recv_bytes()
            try:
                # Unpickled here, where what cannot be imported is said as any other error of the task.
                worker = worker or pickle.loads(factory)()  # noqa: S301
                pipe.send((worker(pickle.loads(task)), None))  # noqa: S301
            except BuildError as error:
                pipe.send((None, str(error)))
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                # The boundary of the process: a bug in an adapter must end in a reject that names it, not in a dead run.
                place = traceback.extract_tb(error.__traceback__)[-1]
                pipe.send((None, f"{type(error).__name__}: {error} ({place.filename.rsplit('/', 1)[-1]}:{place.lineno})"))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _end_with(sentinel: int) -> None:
    """End this process as soon as the one that started it is gone."""
    wait([sentinel])
    os._exit(1)
