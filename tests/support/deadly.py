"""Workers of `collect` that are killed at the worst moments."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from typing import Any


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
