"""Generators for tests: real classes, found by dotted path, whose prompts tell them how to misbehave."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pictures import picture
from PIL import Image, ImageOps

from imaginet_build.errors import UsageError
from imaginet_build.records import Order, Refusal


class Painter:
    """Random patches from the order's seed. `delay`: seconds an image takes; `marks`: a folder for a file of each order."""

    needs: ClassVar[str] = "prompt"

    def __init__(self, width: int = 32, height: int = 32, delay: float = 0.0, key: str = "", marks: str = "") -> None:
        if key == "missing":
            raise UsageError("painter needs a key: export PAINTER_KEY=...")
        self.delay, self.marks = delay, marks

    def params(self) -> dict[str, object]:
        return {"steps": 3, "threads": os.environ["OMP_NUM_THREADS"]}

    def draw(self, orders: Sequence[Order]) -> Iterator[Image.Image | bytes | Refusal]:
        for order in orders:
            if self.marks:
                Path(self.marks, order.id).touch()
            time.sleep(self.delay)
            word = order.prompt.text.partition(":")[0] if order.prompt else ""
            yield getattr(self, f"_{word.lower()}", self._paint)(order)

    def _paint(self, order: Order) -> Image.Image:
        image = picture(order.seed, order.width, order.height)
        image.info["params"] = {"own": order.seed % 7}
        return image

    def _refuse(self, order: Order) -> Refusal:
        return Refusal("moderation", "the model would not")

    def _wrong(self, order: Order) -> Image.Image:
        return picture(order.seed, order.width + 1, order.height)

    def _blank(self, order: Order) -> Image.Image:
        return Image.new("RGB", (order.width, order.height), (40, 40, 40))

    def _broken(self, order: Order) -> bytes:
        return b"<html>Too many requests</html>"

    def _jpeg(self, order: Order) -> bytes:
        buffer = io.BytesIO()
        self._paint(order).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()

    def _nothing(self, order: Order) -> None:
        return None

    def _raise(self, order: Order) -> Image.Image:
        raise RuntimeError("out of memory: tried to allocate 20 GiB")

    def _die(self, order: Order) -> Image.Image:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    def _hang(self, order: Order) -> Image.Image:
        time.sleep(600)
        raise AssertionError("unreachable")


class Blind(Painter):
    """Takes no prompt."""

    needs = "none"


class Neighbourly(Blind):
    """An image's bytes depend on all the orders of its batch, as on real hardware the last bit may."""

    def draw(self, orders: Sequence[Order]) -> Iterator[Image.Image | bytes | Refusal]:
        time.sleep(self.delay * len(orders))
        for order in orders:
            yield picture((order.seed, [other.seed for other in orders]), order.width, order.height)


class Hasty(Blind):
    """Forgets the last order of every batch."""

    def draw(self, orders: Sequence[Order]) -> Iterator[Image.Image | bytes | Refusal]:
        yield from list(super().draw(orders))[:-1]


class Copyist(Painter):
    """Draws over a real image: the same picture, inverted."""

    needs = "source"

    def _paint(self, order: Order) -> Image.Image:
        assert order.source is not None
        with Image.open(io.BytesIO(order.source.data)) as image:
            return ImageOps.invert(image.convert("RGB"))


class Threads(Blind):
    """Records with how many threads numpy computes here."""

    def params(self) -> dict[str, object]:
        from threadpoolctl import threadpool_info

        assert "numpy" in sys.modules
        assert np.__version__
        return {"pools": sorted({pool["num_threads"] for pool in threadpool_info()})}
