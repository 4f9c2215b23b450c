"""Batches of a paid service: files of orders that it draws within a day, submitted once, waited for, and read row by row.

A batch's token is in the ledger before it is submitted and travels with it, so that after a kill at any moment it is found
again at the service and never submitted twice. What comes is kept beside the ledger image by image; `draw` takes it from there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import uuid4

from imaginet_build.errors import UsageError
from imaginet_build.generators.api import scrub
from imaginet_build.generators.outcomes import Answer, Halt, Trouble, silence
from imaginet_build.generators.pace import run
from imaginet_build.generators.paid import PaidImages
from imaginet_build.paying.ledger import Bundle, Busy, Limits, Spent, Stopped
from imaginet_build.records import Order, Refusal

log = logging.getLogger(__name__)
T = TypeVar("T")

LONGEST_ROW = 64 << 20
"""Bytes of one row of a batch's answer; a longer one is no image of ours."""


@dataclass(frozen=True, slots=True)
class Stage:
    """How far a batch is: `running`, `ended` (its rows can be read) or `failed` (it was never begun); what the service says;
    whether every order should have a row; and what the vendor needs to read them."""

    state: Literal["running", "ended", "failed"]
    said: str
    whole: bool = False
    handle: Any = None


class PaidBatches(PaidImages):
    """A paid service that takes orders in batches too (`mode = "batch"`)."""

    most_jobs = 50_000
    most_bytes = 190_000_000
    settle_seconds = 60.0
    """How old a batch must be that the service does not list before it counts as never submitted."""

    @abstractmethod
    def _row(self, order: Order) -> dict[str, Any]:
        """An order as a row of the batch's file."""

    @abstractmethod
    async def _submit(self, client: Any, token: str, file: Path) -> str:
        """Upload the file and begin a batch that carries the token; the vendor's name for it."""

    @abstractmethod
    async def _find(self, client: Any, token: str) -> str | None:
        """The batch that carries a token, among all that the service lists."""

    @abstractmethod
    async def _stage(self, client: Any, name: str) -> Stage:
        """How far a batch is."""

    @abstractmethod
    def _rows(self, client: Any, stage: Stage) -> AsyncIterator[tuple[str, Any]]:
        """A finished batch's rows: order and reply, as they come."""

    @abstractmethod
    def _judge(self, order: Order, reply: Any, key: str) -> Answer | Trouble:
        """What one row holds."""

    def _fetch(self, todo: dict[int, Order]) -> tuple[dict[int, bytes | Refusal | None], Halt | None]:
        if self.mode == "direct":
            return super()._fetch(todo)
        halted = self.ahead(list(todo.values()))
        if halted is None:
            halted = Halt("the service ended every batch that held these orders without them: run the same command again later")
        return {i: self.known(order) for i, order in todo.items()}, halted

    def ahead(self, orders: Sequence[Order]) -> Halt | None:
        """Draw all of these in batches, so that `draw` finds them beside the ledger; why it is not all of them."""
        if self.ledger.root is None:
            raise UsageError(f'{self.who}: mode = "batch" needs a work folder for its answers')
        if self.batch_jobs > self.most_jobs:
            raise UsageError(f"{self.who}: batch_jobs is {self.batch_jobs}; the service takes at most {self.most_jobs}")
        wanted = {order.id: order for order in orders if self.unfit(order) is None}
        for order in wanted.values():
            self.held(order)
        try:
            return run(self._ahead(wanted))
        except Stopped as error:
            return Halt(str(error))
        except OSError as error:
            return Halt(f"the ledger in {self.ledger.root} cannot be written ({error.strerror})")

    async def _ahead(self, wanted: Mapping[str, Order]) -> Halt | None:
        key, halted = self._key(), None
        async with self._client(key) as client:
            for _ in range(self.retries + 1):
                await self._collect(client, wanted, key)
                todo = [order for order in wanted.values() if self._unsent(order)]
                if not todo:
                    return halted
                halted = await self._submit_all(client, todo, key)
                await self._collect(client, wanted, key)
                if halted is not None:
                    return halted
        return None

    def _unsent(self, order: Order) -> bool:
        entry = self.ledger.standing(order.id)
        return (entry is None or entry.state != "open") and self.known(order) is None

    # --- submitting ---------------------------------------------------------------------------------------------------

    async def _submit_all(self, client: Any, todo: Sequence[Order], key: str) -> Halt | None:
        held = max(map(self.held, todo))
        count = self.ledger.affordable(held, self.limits)
        for chunk in self._chunks(todo[:count]):
            token = uuid4().hex
            assert self.ledger.root is not None
            file = self.ledger.root / f"{token}.jsonl"
            try:
                file.write_bytes(b"".join(row for _, row in chunk))
                names = [order.id for order, _ in chunk]
                what = {"model": self.model, "quality": self.quality}
                while wait := self.ledger.begin(names, held, Limits(self.limits.usd, self.limits.images), what, token):
                    if wait > self.longest_wait:
                        raise Stopped(self._too_long(wait))
                    await asyncio.sleep(min(wait, self.poll))
                await self._begin(client, self.ledger.bundles[token], file, key)
            except (Spent, Busy) as error:
                return Halt(str(error))
            finally:
                file.unlink(missing_ok=True)
        left = len(todo) - count
        return Halt(f"the budget allows no more: {left} image(s) were not ordered") if left > 0 else None

    def _chunks(self, orders: Sequence[Order]) -> list[list[tuple[Order, bytes]]]:
        chunks: list[list[tuple[Order, bytes]]] = []
        size = 0
        for order in orders:
            row = json.dumps(self._row(order)).encode() + b"\n"
            if not chunks or len(chunks[-1]) >= self.batch_jobs or size + len(row) > self.most_bytes:
                chunks.append([])
                size = 0
            chunks[-1].append((order, row))
            size += len(row)
        return chunks

    async def _begin(self, client: Any, bundle: Bundle, file: Path, key: str) -> None:
        """Submit a batch, or find out that it was: what has no answer may have been accepted all the same."""
        try:
            name = await self._submit(client, bundle.token, file)
        except Exception as error:
            trouble = self._trouble(error, key) or silence(error, self.host, self.timeout)
            if trouble.then in ("again", "lost"):
                said = scrub(trouble.refusal.detail, key)
                log.warning("%s: %s; looking whether the batch was accepted", self.who, said)
                await self._identify(client, bundle, key)
                return
            self._drop(bundle.orders, trouble.refusal.reason)
            if trouble.then == "wait":
                self.ledger.pause(trouble.seconds or self.poll)
                return
            raise Stopped(scrub(trouble.refusal.detail, key)) from None
        self.ledger.submitted(bundle.token, name)
        log.info("%s: batch %s of %d images submitted", self.who, name, len(bundle.orders))

    async def _identify(self, client: Any, bundle: Bundle, key: str) -> None:
        """The vendor's name of a batch whose submission has no answer; without one it was never begun."""
        # Clocks jump: what was submitted just now is waited for from now on, and what others submitted no longer than that.
        age = 0.0 if bundle.sender == self.ledger.me else max(0.0, time.time() - bundle.at)
        end = time.monotonic() + self.settle_seconds - age
        while True:
            name = await self._patiently(lambda: self._find(client, bundle.token), key)
            if name is not None:
                self.ledger.submitted(bundle.token, name)
                log.warning("%s: batch %s had been accepted and is not submitted again", self.who, name)
                return
            if (left := end - time.monotonic()) <= 0:
                self._drop(bundle.orders, "not-submitted")
                return
            await asyncio.sleep(min(left, self.poll))

    def _drop(self, orders: Sequence[str], reason: str) -> None:
        for order in orders:
            if (entry := self.ledger.standing(order)) is not None and entry.state == "open":
                self.ledger.failed(order, reason)

    # --- collecting ---------------------------------------------------------------------------------------------------

    async def _collect(self, client: Any, wanted: Mapping[str, Order], key: str) -> None:
        """Wait for every batch that holds a wanted order, and keep what it brought."""
        deadline = time.monotonic() + self.patience
        while waiting := self._open_bundles(wanted):
            for bundle in waiting:
                if bundle.name is None:
                    if bundle.sender != self.ledger.me and self.ledger.lives(bundle.sender):
                        continue  # another process is submitting it just now
                    await self._identify(client, bundle, key)
                    continue
                name = bundle.name
                stage = await self._patiently(lambda name=name: self._stage(client, name), key)  # type: ignore[misc]
                if stage.state != "running":
                    await self._receive(client, bundle, stage, wanted, key)
            if not (left := self._open_bundles(wanted)):
                return
            if time.monotonic() > deadline:
                named = ", ".join(str(bundle.name) for bundle in left)
                raise Stopped(f"not finished within patience = {self.patience:g} s: {named}; run the same command again later")
            await asyncio.sleep(self.poll)

    def _open_bundles(self, wanted: Mapping[str, Order]) -> list[Bundle]:
        entries = self.ledger.read().entries
        open_now = {entries[name].batch for name in wanted if name in entries and entries[name].state == "open"}
        return [bundle for token, bundle in self.ledger.bundles.items() if token in open_now]

    async def _receive(self, client: Any, bundle: Bundle, stage: Stage, wanted: Mapping[str, Order], key: str) -> None:
        """Read a finished batch row by row. What is known of an order stands: a second row for it changes nothing."""
        if stage.state == "failed":
            self._drop(bundle.orders, "batch-failed")
            raise Stopped(f"batch {bundle.name} failed: {scrub(stage.said, key)}")
        members, ours = set(bundle.orders), set(bundle.orders) & wanted.keys()
        try:
            async for name, reply in self._rows(client, stage):
                if name not in members:
                    log.warning("%s: batch %s holds a row for %.40r, which was not ordered", self.who, bundle.name, name)
                elif name in ours:
                    self._take(wanted[name], reply, key)
        except (UsageError, Stopped, OSError):
            raise
        except Exception as error:
            trouble = self._trouble(error, key) or silence(error, self.host, self.timeout)
            log.warning("%s: reading batch %s again: %s", self.who, bundle.name, scrub(trouble.refusal.detail, key))
            if trouble.then == "stop":
                raise Stopped(scrub(trouble.refusal.detail, key)) from None
            return
        for name in sorted(ours):
            entry = self.ledger.standing(name)
            if entry is None or entry.state != "open" or entry.batch != bundle.token:
                continue
            if stage.whole:
                detail = f"batch {bundle.name} ended without a row for it: it may have been billed"
                self.ledger.unknown(name, "lost-in-batch", detail)
            else:
                self.ledger.failed(name, "batch-ended")

    def _take(self, order: Order, reply: Any, key: str) -> None:
        entry = self.ledger.standing(order.id)
        if entry is None or entry.state != "open":
            log.warning("%s: order %s was delivered twice; the first answer is kept", self.who, order.id)
            return
        try:
            answer = self._judge(order, reply, key)
        except Exception as error:  # one row that nobody can read must not take the others with it
            answer = Answer(Refusal("failed", f"{type(error).__name__}: {error}"))
        if isinstance(answer, Answer):
            self._settle(order, answer, key)
        elif answer.then == "stop":
            self.ledger.failed(order.id, answer.refusal.reason)
            raise Stopped(scrub(answer.refusal.detail, key))
        elif answer.then == "refuse":
            self._book(order, answer, key)
        else:  # the service says itself that it did not draw it
            self.ledger.failed(order.id, answer.refusal.reason)

    async def _patiently(self, call: Callable[[], Awaitable[T]], key: str) -> T:
        """A question that costs nothing, asked again until there is an answer."""
        deadline = time.monotonic() + self.patience
        for tries in range(1_000_000):
            try:
                async with asyncio.timeout(self.timeout):
                    return await call()
            except Exception as error:
                trouble = self._trouble(error, key) or silence(error, self.host, self.timeout)
                if trouble.then in ("stop", "refuse") or time.monotonic() > deadline:
                    raise Stopped(scrub(trouble.refusal.detail, key)) from None
                wait = trouble.seconds or min(60.0, self.first_wait * 2.0 ** min(tries, 16))
                if wait > self.longest_wait:
                    raise Stopped(self._too_long(wait)) from None
                await asyncio.sleep(wait)
        raise AssertionError("unreachable")


async def lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream, holding one at a time; one that is longer than `LONGEST_ROW` is left out and said."""
    held = bytearray()
    skipping = False
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            held += part
            if held and not skipping:
                yield bytes(held)
            held.clear()
            skipping = False
        held += rest
        if len(held) > LONGEST_ROW:
            log.warning("left out a row of more than %d bytes", LONGEST_ROW)
            held.clear()
            skipping = True
    if held and not skipping:
        yield bytes(held)


async def rows_of(chunks: AsyncIterator[bytes], key: str, who: str) -> AsyncIterator[tuple[str, Any]]:
    """The rows of a stream of JSON lines, each with the order's name, which stands under `key`. What cannot be read is said."""
    async for line in lines_of(chunks):
        try:
            row = json.loads(line)
            name = row[key]
        except (ValueError, KeyError, TypeError, RecursionError):
            log.warning("%s: left out a row that cannot be read (%r)", who, line[:60])
            continue
        yield str(name), row
