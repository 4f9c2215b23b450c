"""Workers for the engine's tests: what well and badly behaved tasks do to their process. Standard library only at the top."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from imaginet_build.errors import BuildError, MissingExtra


class Work:
    """A picklable factory: `Work(function)()` is the worker."""

    def __init__(self, function: Callable[[object], object]) -> None:
        self.function = function

    def __call__(self) -> Callable[[object], object]:
        return self.function


class Expensive:
    """A factory that leaves a mark every time it is called, and a worker that says which process it runs in."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks

    def __call__(self) -> Callable[[object], int]:
        (self.marks / str(os.getpid())).touch(exist_ok=False)
        return lambda task: os.getpid()


def broken_factory() -> Callable[[object], object]:
    raise ValueError("the weights are broken")


class Missing:
    """A factory that cannot be unpickled where its module is not installed."""

    def __reduce__(self) -> tuple[object, ...]:
        return (importlib.import_module, ("my_lab.flux",))


def double(task: int) -> int:
    return 2 * task


def leave_mark(task: tuple[str, int]) -> int:
    Path(task[0]).touch()
    return task[1]


def slow_if_even(task: int) -> int:
    time.sleep(0.15 if task % 2 == 0 else 0.0)
    return task


def first_is_slow(task: int) -> int:
    time.sleep(1.0 if task == 0 else 0.0)
    return task


def fail(task: object) -> object:
    if task == "refused":
        raise BuildError("the disk is full. Make room and run again")
    if task == "extra":
        raise MissingExtra("sdxl", "diffusers", "diffusion")
    if task == "bug":
        raise KeyError("width")
    if task == "unpicklable":
        return lambda: None
    if task == "exit":
        sys.exit(7)
    return task


def die(marks: tuple[str, str]) -> str:
    """Leave a mark, then be killed as the kernel kills a process that takes too much memory."""
    folder, name = marks
    if name == "good":
        return name
    Path(folder, f"{name}-{os.getpid()}").touch()
    if name == "once" and len(list(Path(folder).glob("once-*"))) > 1:
        return name
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def die_while_answering(task: str) -> bytes:
    """`quick` answers at once; any other waits for the file of its name, and is killed while its answer, larger than any
    pipe's buffer, is being sent.
    """
    if task == "quick":
        return b"quick"
    while not Path(task).exists():
        time.sleep(0.01)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return bytes(50_000_000)


def hang(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def hang_deaf(pid_file: str) -> None:
    """Ignore the polite signal and work on for a minute."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(pid_file).write_text(str(os.getpid()))
    time.sleep(60)


def fall_silent(_task: object) -> None:
    """What a careless library does: it closes what is not its own, and stays alive."""
    for connection in [found for found in gc.get_objects() if isinstance(found, Connection)]:
        connection.close()
    time.sleep(60)


def threads(_task: object) -> dict[str, object]:
    """What the process was told about threads, and what a numerical library that reads it only when imported made of it."""
    before = "numpy" in sys.modules
    import numpy  # noqa: F401
    from threadpoolctl import threadpool_info

    return {
        "variables": {name: os.environ.get(name) for name in sorted(os.environ) if name.endswith("_NUM_THREADS")},
        "numpy_was_there": before,
        "pools": [pool["num_threads"] for pool in threadpool_info()],
    }


def sums(task: int) -> str:
    """The bytes of a sum whose last bit would move with the number of threads."""
    import numpy as np

    from imaginet_build.records import random_of

    a = random_of(str(task), "a").standard_normal((257, 257)).astype(np.float32)
    return (a @ a.T).tobytes().hex()[:4096]
