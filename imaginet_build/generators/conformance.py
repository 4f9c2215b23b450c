"""The cases that every generator must pass, yours included: `check(make, orders)` runs them all and returns what failed.

    from imaginet_build.generators import conformance
    faults = conformance.check(lambda: MyGenerator(model="..."), conformance.orders(8, 512, 512, needs="prompt"))
    assert not faults, "\\n".join(faults)

The cases: one answer per order, and in order; the size that was ordered; neither blank nor broken; the same batch twice
gives the same bytes, also from a second instance; another seed gives another image; an order that lacks what the generator
needs, or has a size it cannot draw, is refused and does not disturb its neighbours; an empty batch gives nothing.
`check_import` (apart, since it starts a process): importing the module imports no heavy package and opens no connection.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from imaginet_build import images
from imaginet_build.errors import BadImage
from imaginet_build.records import Order, Prompt, Refusal, SourceImage, make_id, random_of, seed_of

Needs = Literal["prompt", "source", "none"]


class Generator(Protocol):
    """What a generator is."""

    @property
    def needs(self) -> Needs:
        """What an order must carry."""

    def draw(self, orders: Sequence[Order], /) -> Iterator[Image.Image | bytes | Refusal]:
        """One answer per order, in order."""


def orders(n: int, width: int, height: int, needs: Needs = "none", purpose: str = "conformance") -> list[Order]:
    """`n` orders for a generator that needs a prompt, a source image (smooth coloured noise, PNG) or nothing."""
    made = []
    for i in range(n):
        name = make_id(purpose, i, width, height, needs)
        prompt = Prompt(make_id("prompt", i), f"a photograph of {i + 1} red apples on a table", "", "photos")
        made.append(
            Order(
                id=name,
                generator="conformance",
                category="photos",
                seed=seed_of(name, "image") % 2**32,
                width=width,
                height=height,
                prompt=prompt if needs == "prompt" else None,
                source=_source(name, width, height) if needs == "source" else None,
            )
        )
    return made


def _source(name: str, width: int, height: int) -> SourceImage:
    coarse = random_of(name, "source").integers(0, 256, (5, 5, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = buffer.getvalue()
    return SourceImage(make_id("source", name), hashlib.sha256(data).hexdigest(), width, height, name, data)


def check(make: Callable[[], Generator], wanted: Sequence[Order]) -> list[str]:
    """Runs every case on what `make` builds (at least two good orders of one size); one sentence for each failure."""
    if len(wanted) < 2:
        raise ValueError("conformance needs at least two orders")
    generator = make()
    faults: list[str] = []
    if generator.needs not in ("prompt", "source", "none"):
        faults.append(f"needs is {generator.needs!r}; it is one of prompt, source, none")
    first = _pixels(generator, wanted, "a batch of good orders", faults)
    for case in (_sized, _drawn, _ordered, _repeats, _afresh, _refuses):
        faults += case(make, generator, wanted, first)
    if list(generator.draw([])):
        faults.append("an empty batch got answers")
    return faults


Pixels = list["np.ndarray | Refusal | str"]


def _pixels(generator: Generator, wanted: Sequence[Order], what: str, faults: list[str] | None = None) -> Pixels:
    """Every answer as (h, w, 3) uint8, a Refusal, or a sentence saying what is wrong with it."""
    out: Pixels = []
    try:
        for answer in generator.draw(wanted):
            if isinstance(answer, Refusal):
                out.append(answer)
            elif isinstance(answer, Image.Image):
                out.append(np.asarray(answer.convert("RGB")))
            elif isinstance(answer, bytes):
                out.append(np.asarray(images.decode(answer)))
            else:
                out.append(f"{what}: an answer is a {type(answer).__name__}, not an image, bytes or a refusal")
    except BadImage as e:
        out.append(f"{what}: bytes that do not decode ({e})")
    except Exception as e:  # that nothing is raised is what is tested
        out.append(f"{what}: raised {type(e).__name__}: {e}")
    if faults is not None:
        faults += [o for o in out if isinstance(o, str)]
        faults += [f"{what}: refused ({o.reason}: {o.detail})" for o in out if isinstance(o, Refusal)]
        if len(out) != len(wanted):
            faults.append(f"{what}: {len(out)} answers for {len(wanted)} orders")
    return out


def _same(a: Iterable[Any], b: Iterable[Any]) -> bool:
    pairs = list(zip(a, b, strict=False))
    return all(isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and np.array_equal(x, y) for x, y in pairs)


def _sized(_: Callable[[], Generator], __: Generator, wanted: Sequence[Order], first: Pixels) -> list[str]:
    return [
        f"ordered {order.width} x {order.height}, got {got.shape[1]} x {got.shape[0]}"
        for order, got in zip(wanted, first, strict=False)
        if isinstance(got, np.ndarray) and got.shape[:2] != (order.height, order.width)
    ]


def _drawn(_: Callable[[], Generator], __: Generator, wanted: Sequence[Order], first: Pixels) -> list[str]:
    flat = [o.id for o, got in zip(wanted, first, strict=False) if isinstance(got, np.ndarray) and got.std() < 1]
    faults = [f"the image of order {name} is blank" for name in flat]
    arrays = [got.tobytes() for got in first if isinstance(got, np.ndarray)]
    if len(set(arrays)) < len(arrays):
        faults.append("two orders with different seeds got the same image")
    return faults


def _ordered(_: Callable[[], Generator], generator: Generator, wanted: Sequence[Order], first: Pixels) -> list[str]:
    """Backwards, each image must still lie nearest to what the same order gave before (neighbours may move last bits)."""
    back = _pixels(generator, list(reversed(wanted)), "the same orders backwards")[::-1]
    arrays = [(got, was) for got, was in zip(back, first, strict=False) if isinstance(got, np.ndarray)]
    for i, (got, _was) in enumerate(arrays):
        apart = [
            np.abs(got.astype(int) - other.astype(int)).mean()
            if isinstance(other, np.ndarray) and other.shape == got.shape
            else 999.0
            for _, other in arrays
        ]
        if int(np.argmin(apart)) != i or apart[i] > 2:
            return [
                "orders given backwards do not give the same images backwards: "
                "answers are out of order, or share a random state"
            ]
    return []


def _repeats(_: Callable[[], Generator], generator: Generator, wanted: Sequence[Order], first: Pixels) -> list[str]:
    same = _same(first, _pixels(generator, wanted, "the same batch again"))
    return [] if same else ["the same batch again, on the same instance, gave other bytes"]


def _afresh(make: Callable[[], Generator], _: Generator, wanted: Sequence[Order], first: Pixels) -> list[str]:
    same = _same(first, _pixels(make(), wanted, "the same batch on a new instance"))
    return [] if same else ["the same batch on a new instance gave other bytes"]


def _refuses(_: Callable[[], Generator], generator: Generator, wanted: Sequence[Order], __: Pixels) -> list[str]:
    """A bad order in the middle is refused with a reason, and both its neighbours are drawn."""
    good = list(wanted[:2])
    bad = {"a size of 1 x 3 pixels": replace(good[0], id=make_id("bad size"), width=1, height=3)}
    if generator.needs == "prompt":
        bad["no prompt"] = replace(good[0], id=make_id("no prompt"), prompt=None)
    if generator.needs == "source":
        bad["no source"] = replace(good[0], id=make_id("no source"), source=None)
        if good[0].source:
            broken = replace(good[0].source, data=good[0].source.data[: len(good[0].source.data) // 2])
            bad["a truncated source"] = replace(good[0], id=make_id("truncated"), source=broken)
    faults: list[str] = []
    for what, order in bad.items():
        got = _pixels(generator, [good[0], order, good[1]], what)
        if len(got) != 3:
            faults.append(got[-1] if got and isinstance(got[-1], str) else f"{what}: {len(got)} answers for 3 orders")
        elif not isinstance(got[1], Refusal) or not got[1].reason:
            faults.append(f"{what}: was not refused with a reason")
        elif not (isinstance(got[0], np.ndarray) and isinstance(got[2], np.ndarray)):
            faults.append(f"{what}: took its neighbours in the batch with it")
    return faults


_PROBE = """
import socket, sys
def refuse(*_, **__):
    raise SystemExit("opened a connection at import")
socket.socket.connect = refuse
import {module}
heavy = [m for m in ("torch", "diffusers", "transformers", "datasets", "openai", "sklearn", "scipy") if m in sys.modules]
raise SystemExit("imports " + ", ".join(heavy) if heavy else 0)
"""


def check_import(module: str) -> list[str]:
    """Imports `module` in a fresh process: it must open no connection and import no heavy package."""
    done = subprocess.run(  # noqa: S603  our own interpreter and our own text
        [sys.executable, "-c", _PROBE.format(module=module)], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 0:
        return []
    lines = done.stderr.strip().splitlines()
    return [f"{module}: {lines[-1] if lines else f'exit code {done.returncode}'}"]
