"""The engine without its processes, for properties that need many runs: one task after the other, at will interrupted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from imaginet_build.engine import Outcome, Pool
from imaginet_build.errors import BuildError


class Interrupted(Exception):
    """The run was killed."""


class Inline:
    """Takes the place of `engine.run`. Tasks are done in a shuffled order, as workers of different speed would, and after
    `patience` tasks the run is killed."""

    def __init__(self, seed: int = 0, patience: int | None = None) -> None:
        self.random = random.Random(seed)
        self.patience = patience

    def __call__(
        self, factory: Callable[[], Callable], tasks: Iterable, pool: Pool, hold: object = None, ahead: bool = False
    ) -> Iterator[Outcome]:
        worker = factory()
        waiting = list(tasks)
        self.random.shuffle(waiting)
        for task in waiting:
            if self.patience == 0:
                raise Interrupted
            if self.patience is not None:
                self.patience -= 1
            try:
                yield Outcome(task, worker(task))
            except BuildError as error:
                yield Outcome(task, None, str(error))
            except Exception as error:
                yield Outcome(task, None, f"{type(error).__name__}: {error}")
