"""The cases that every generator must pass, yours included: `check(make, orders)` runs them all and returns what failed.

    from imaginet_build.generators import conformance
    faults = conformance.check(lambda: MyGenerator(model="..."), conformance.orders(8, 512, 512, needs="prompt"))
    assert not faults, "\\n".join(faults)

The cases: one answer per order, and in order; the size that was ordered; neither blank nor broken; the same batch twice
gives the same bytes, also from a second instance; another seed gives another image; an order that lacks what the generator
needs, or has a size it cannot draw, is refused and does not disturb its neighbours; an empty batch gives nothing; no known
watermarker is called. Where torch networks draw, faults are put into them from outside: without memory for a batch each image
is still drawn, without memory for one it is refused, and what are not numbers never become an image. `check_import` (apart,
since it starts a process): importing the module imports no heavy package and opens no connection. What a killed process
leaves, and what a resumed one makes of it, is tried by `build-imaginet doctor --generator NAME`, which runs all of this too.
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
from imaginet_build.generators import faults
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
    found: list[str] = []
    if generator.needs not in ("prompt", "source", "none"):
        found.append(f"needs is {generator.needs!r}; it is one of prompt, source, none")
    first = _pixels(generator, wanted, "a batch of good orders", found)
    for case in (_sized, _drawn, _ordered, _repeats, _refuses, _empty):
        found += case(generator, wanted, first)
    # Two big models do not fit beside each other: the first one goes before the second comes.
    del generator
    second = make()
    found += _afresh(second, wanted, first)
    needed = _rows_of_one(second, wanted)
    return found + (_spoiled(second, wanted) + _crammed(second, wanted, needed) if needed.rows else [])


Pixels = list["np.ndarray | Refusal | str"]


def _pixels(generator: Generator, wanted: Sequence[Order], what: str, found: list[str] | None = None) -> Pixels:
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
    if found is not None:
        found += [o for o in out if isinstance(o, str)]
        found += [f"{what}: refused ({o.reason}: {o.detail})" for o in out if isinstance(o, Refusal)]
        if len(out) != len(wanted):
            found.append(f"{what}: {len(out)} answers for {len(wanted)} orders")
    return out


def _same(a: Iterable[Any], b: Iterable[Any]) -> bool:
    pairs = list(zip(a, b, strict=False))
    return all(isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and np.array_equal(x, y) for x, y in pairs)


def _sized(_: Generator, wanted: Sequence[Order], first: Pixels) -> list[str]:
    return [
        f"ordered {order.width} x {order.height}, got {got.shape[1]} x {got.shape[0]}"
        for order, got in zip(wanted, first, strict=False)
        if isinstance(got, np.ndarray) and got.shape[:2] != (order.height, order.width)
    ]


def _drawn(_: Generator, wanted: Sequence[Order], first: Pixels) -> list[str]:
    flat = [o.id for o, got in zip(wanted, first, strict=False) if isinstance(got, np.ndarray) and got.std() < 1]
    found = [f"the image of order {name} is blank" for name in flat]
    arrays = [got.tobytes() for got in first if isinstance(got, np.ndarray)]
    if len(set(arrays)) < len(arrays):
        found.append("two orders with different seeds got the same image")
    return found


def _ordered(generator: Generator, wanted: Sequence[Order], first: Pixels) -> list[str]:
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


def _repeats(generator: Generator, wanted: Sequence[Order], first: Pixels) -> list[str]:
    with faults.marked() as markers:
        same = _same(first, _pixels(generator, wanted, "the same batch again"))
    found = [] if same else ["the same batch again, on the same instance, gave other bytes"]
    return found + [f"{name} puts a watermark into every image" for name in dict.fromkeys(markers)]


def _empty(generator: Generator, _: Sequence[Order], __: Pixels) -> list[str]:
    return ["an empty batch got answers"] if list(generator.draw([])) else []


def _afresh(generator: Generator, wanted: Sequence[Order], first: Pixels) -> list[str]:
    same = _same(first, _pixels(generator, wanted, "the same batch on a new instance"))
    return [] if same else ["the same batch on a new instance gave other bytes"]


def _spoiled(generator: Generator, wanted: Sequence[Order]) -> list[str]:
    """A network whose answers are not numbers draws nothing."""
    what = "networks that answer with no numbers"
    with faults.no_numbers():
        got = _pixels(generator, wanted, what)
    passed = sum(isinstance(answer, np.ndarray) for answer in got)
    found = [answer for answer in got if isinstance(answer, str)]
    if passed:
        found.append(f"{what}: {passed} of {len(wanted)} answers were images nevertheless; refuse them, they are black at best")
    return found if len(got) == len(wanted) or found else [f"{what}: {len(got)} answers for {len(wanted)} orders"]


def _crammed(generator: Generator, wanted: Sequence[Order], needed: faults.Sizes) -> list[str]:
    """Without memory for a batch its images are drawn in smaller ones; without memory for one image it is refused."""
    cases = (("memory for one image at a time", needed, np.ndarray), ("no memory at all", faults.Sizes(), Refusal))
    found: list[str] = []
    for what, fits, kind in cases:
        with faults.no_memory(fits):
            got = _pixels(generator, wanted, what)
        found += [answer for answer in got if isinstance(answer, str)]
        if len(got) != len(wanted) and not found:
            found.append(f"{what}: {len(got)} answers for {len(wanted)} orders")
        wrong = [a for a in got if not isinstance(a, kind | str)]
        if wrong:
            told = f" ({wrong[0].reason}: {wrong[0].detail})" if isinstance(wrong[0], Refusal) else ""
            found.append(
                f"{what}: {len(wrong)} of {len(wanted)} orders were {'refused' if told else 'drawn nevertheless'}{told}"
            )
    return found


def _rows_of_one(generator: Generator, wanted: Sequence[Order]) -> faults.Sizes:
    """What one image needs, by network; empty where no torch network draws."""
    sizes = faults.Sizes()
    with faults.watched(sizes):
        for order in wanted:
            _pixels(generator, [order], "one order alone")
    return sizes


def _refuses(generator: Generator, wanted: Sequence[Order], _: Pixels) -> list[str]:
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
    found: list[str] = []
    for what, order in bad.items():
        got = _pixels(generator, [good[0], order, good[1]], what)
        if len(got) != 3:
            found.append(got[-1] if got and isinstance(got[-1], str) else f"{what}: {len(got)} answers for 3 orders")
        elif not isinstance(got[1], Refusal) or not got[1].reason:
            found.append(f"{what}: was not refused with a reason")
        elif not (isinstance(got[0], np.ndarray) and isinstance(got[2], np.ndarray)):
            found.append(f"{what}: took its neighbours in the batch with it")
    return found


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
