"""Workers that are killed at the worst moments."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from typing import Any

from imaginet_build.finishing import Done, Drawn, Finish
from imaginet_build.orders import Batch


class Deadly:
    """Killed by one image, known by its digest, as a decoder's bug would."""

    def __init__(self, arrive: Any) -> None:
        self.arrive = arrive

    def __call__(self) -> Callable[[Any], Any]:
        return self.work

    def work(self, segment: Any) -> Any:
        for item in segment:
            if hashlib.sha256(getattr(item, "data", b"")).hexdigest() == os.environ["KILLER_SHA256"]:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.arrive.arrive(segment)


class AfterWriting(Deadly):
    """Killed every time the part is in place and the answer is not yet given."""

    def work(self, segment: Any) -> Any:
        self.arrive.arrive(segment)
        os.kill(os.getpid(), signal.SIGKILL)


class DeadAfterFinishing(Finish):
    """Killed every time a drawn batch's part is in place and the answer is not yet given."""

    def write(self, batch: Batch, drawn: Drawn) -> Done:
        super().write(batch, drawn)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


class DeadByBytes(Finish):
    """Killed by bytes that were delivered as an image, as a decoder's bug would."""

    def write(self, batch: Batch, drawn: Drawn) -> Done:
        if any(isinstance(answer, bytes) for answer in drawn.answers.values()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(batch, drawn)
