"""What every image model behind a paid service shares: one request, one image, a ledger before and after, and no surprise.

A vendor is a short file: a subclass that says how an order is sent (`_send`), what an answer holds (`_read`) and what an error
means (`_trouble`). Here stand keys, budgets, waiting, asking again, and what is never asked again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from imaginet_build.errors import UsageError
from imaginet_build.generators.api import scrub
from imaginet_build.generators.outcomes import Answer, Halt, Trouble, silence
from imaginet_build.generators.pace import Pace, run
from imaginet_build.paying.ledger import Busy, Ledger, Limits, Spent
from imaginet_build.paying.prices import Prices
from imaginet_build.records import Order, Refusal, random_of

log = logging.getLogger(__name__)

_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


class PaidImages(ABC):
    """Draws by requests that cost money. Its `ledger` is in memory until somebody gives it one on disk, as `generate` does.

    The key is read from the environment variable `key_variable` (empty: the server wants none) and kept nowhere. `quality` and
    `options` (whatever else the model takes) are sent as they are.

    Money: `prices` (see `Prices`), `budget_usd` and `budget_images` (hard, over all runs and processes of a work folder: the
    request that would pass them is not sent), `ask_again` (false: a request whose outcome nobody knows, since it timed out, was
    dropped or its process was killed, is refused and not sent again; true: it is, and may be billed twice).

    Waiting: `timeout`: seconds for a whole answer. `retries`: how often a request is sent again after a status of 500 and above
    (504 and 524 aside: these are timeouts) or where no connection was had. `longest_wait`: seconds that one order waits for
    rate limits in all (429, and 503 with a `Retry-After`, which is obeyed up to a year, what is more being none: what is longer
    than this ends the run, and the next run waits for the rest of it). `first_wait`: the first wait where the server names
    none, doubled up to a minute. `concurrency`: the most requests under way at once in one worker, fewer after a rate limit.
    `per_minute`: the most requests begun in a minute by all workers together.

    `mode`: `direct`, or `batch`, where the service draws whole files of orders within a day for less: at most `batch_jobs`
    orders in one of them, asked for every `poll` seconds and waited for `patience` seconds (a later run goes on waiting).

    UsageError, MissingExtra: no key, no vendor's package, a bad setting; from `draw`: a key, model or setting that the service
    does not accept. `Stopped`: quota, billing limit, budget, a server out of reach, a rate limit that lasts too long. Finished
    images before the first unfinished one are given out before either is raised; those after it stay beside the ledger for the
    next run.
    """

    needs: ClassVar[Literal["prompt", "source", "none"]] = "prompt"
    paid: ClassVar[bool] = True
    not_in_id: ClassVar[frozenset[str]] = frozenset(
        {"base_url", "key_variable", "timeout", "concurrency", "retries", "first_wait", "longest_wait", "per_minute", "prices"}
        | {"budget_usd", "budget_images", "ask_again", "mode", "batch_jobs", "poll", "patience"}
    )
    set_here: ClassVar[tuple[str, ...]] = ()
    """What `options` may not set, since orders and keys of their own do."""
    home: ClassVar[str]
    """Where the vendor's own service is, as an example in messages."""

    def __init__(
        self,
        model: str,
        base_url: str,
        key_variable: str,
        *,
        name: str = "",
        quality: str | None = None,
        options: dict[str, Any] | None = None,
        width: int | None = None,
        height: int | None = None,
        timeout: float = 180,
        concurrency: int = 4,
        retries: int = 3,
        first_wait: float = 0.5,
        longest_wait: float = 1800,
        per_minute: float | None = None,
        prices: Prices | None = None,
        budget_usd: float | None = None,
        budget_images: int | None = None,
        ask_again: bool = False,
        mode: Literal["direct", "batch"] = "direct",
        batch_jobs: int = 1000,
        poll: float = 60,
        patience: float = 2 * 86400,
    ) -> None:
        self.who, self.model, self.key_variable = name or model, model, key_variable
        self.width, self.height, self.quality, self.options = width, height, quality, dict(options or {})
        self.base_url = base_url
        self.host = self._host()
        above: dict[str, float | None] = {
            "timeout": timeout,
            "first_wait": first_wait,
            "longest_wait": longest_wait,
            "poll": poll,
            "patience": patience,
        }
        above |= {"per_minute": per_minute, "budget_usd": budget_usd}
        # `nan` is a float to TOML too, and no sum is ever above it: as a budget it would be none.
        wrong = [
            f"{key} is {value!r}; it is a number above 0"
            for key, value in above.items()
            if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf)
        ]
        least = {"concurrency": (concurrency, 1), "batch_jobs": (batch_jobs, 1), "retries": (retries, 0)}
        least |= {"budget_images": (budget_images, 1)} if budget_images is not None else {}
        wrong += [
            f"{key} is {value!r}; it is a whole number, at least {low}"
            for key, (value, low) in least.items()
            if not isinstance(value, int) or value < low
        ]
        fixed = [key for key in self.set_here if key in self.options]
        wrong += [f"options may not set {key}: the order or a key of its own does" for key in fixed]
        if wrong:
            raise UsageError(f"{self.who}: " + "; ".join(wrong))
        self.timeout, self.concurrency, self.retries = timeout, concurrency, retries
        self.first_wait, self.longest_wait = first_wait, longest_wait
        self.prices, self.ask_again, self.mode = Prices.model_validate(prices or {}), ask_again, mode
        self.batch_jobs, self.poll, self.patience = batch_jobs, poll, patience
        self.limits = Limits(budget_usd, budget_images, per_minute)
        self.ledger = Ledger()
        self._limit = concurrency
        self._halt: Halt | None = None
        self._told: set[str] = set()
        self._dearest = 0.0
        self._key()

    # --- what a vendor says -------------------------------------------------------------------------------------------

    @abstractmethod
    def _client(self, key: str) -> AbstractAsyncContextManager[Any]:
        """The vendor's client, which must not send anything twice by itself."""

    @abstractmethod
    async def _send(self, client: Any, order: Order) -> Any:
        """Send one order; what came."""

    @abstractmethod
    def _read(self, order: Order, reply: Any) -> Answer:
        """What came, looked at strictly."""

    @abstractmethod
    def _trouble(self, error: Exception, key: str) -> Trouble | None:
        """What an error of the service means; None for what is no answer at all."""

    @abstractmethod
    def _misfit(self, order: Order) -> str | None:
        """Why the model does not draw an order's size."""

    # --- keys and places ----------------------------------------------------------------------------------------------

    def _host(self) -> str:
        """Host and port alone: the rest of an address may hold what must not be repeated."""
        try:
            parts = urlsplit(self.base_url)
            secret = parts.username or parts.password or parts.query or parts.fragment
            if parts.scheme in ("http", "https") and parts.hostname and not secret:
                return parts.hostname + (f":{parts.port}" if parts.port else "")
        except ValueError:
            pass
        raise UsageError(f"{self.who}: base_url is an http(s) address without user, password or query, such as {self.home}")

    def _key(self) -> str:
        """Read anew for every batch, so that no attribute, repr or pickle of this object holds it."""
        key = os.environ.get(self.key_variable, "").strip() if self.key_variable else "none"
        if not key and urlsplit(self.base_url).hostname in _HERE:
            return "none"
        if not key:
            raise UsageError(f"{self.who} needs {self.key_variable} in the environment: export {self.key_variable}=...")
        if not (key.isascii() and key.isprintable()):
            raise UsageError(f"{self.who}: {self.key_variable} holds characters that no key has; export it again")
        return key

    # --- drawing ------------------------------------------------------------------------------------------------------

    def draw(self, orders: Sequence[Order]) -> Iterator[bytes | Refusal]:
        """One answer per order, in order: the service's own bytes. See the class for what is raised."""
        try:
            answers: list[bytes | Refusal | None] = [self.unfit(order) or self.known(order) for order in orders]
        except OSError as error:
            raise Halt(self._unwritable(error)).error(self.who) from None
        todo = {i: orders[i] for i, answer in enumerate(answers) if answer is None}
        halted: Halt | None = None
        if todo:
            drawn, halted = self._fetch(todo)
            for i, answer in drawn.items():
                answers[i] = answer
        for i, answer in enumerate(answers):
            if answer is None:
                assert halted is not None
                later = sum(isinstance(one, bytes) for one in answers[i:])
                kept = "are kept for the next run" if self.ledger.root else "were paid for and are not kept"
                raise halted.error(self.who, f"; {later} image(s) that came after it {kept}" if later else "")
            yield answer

    def _fetch(self, todo: dict[int, Order]) -> tuple[dict[int, bytes | Refusal | None], Halt | None]:
        """What came for each order, and why it is not all."""
        for order in todo.values():
            self.held(order)  # what a budget lacks is said before anything is sent
        return run(self._all(todo))

    def unfit(self, order: Order) -> Refusal | None:
        """Why an order is not worth a request."""
        if order.prompt is None or not order.prompt.text.strip():
            return Refusal("no-prompt", f"{self.who} draws from a text, and order {order.id} has none")
        return Refusal("bad-size", misfit) if (misfit := self._misfit(order)) else None

    def known(self, order: Order) -> bytes | Refusal | None:
        """What an earlier request for an order has come to; None where it may be sent."""
        entry = self.ledger.standing(order.id)
        if entry is None or entry.state in ("failed", "open"):
            return None
        if entry.state == "answered":
            if (kept := self.ledger.answers.get(order.id)) is not None:
                return kept[0]
            if self.ledger.root is None:
                return None
            detail = f"drawn and paid for before (${entry.usd:.4f}), and the image is gone since"
            return self._again(order, Refusal("bought-before", detail))
        if entry.state == "refused":
            return Refusal(entry.reason, entry.detail)
        return self._again(order, Refusal(entry.reason, entry.detail))

    def _again(self, order: Order, before: Refusal) -> Refusal | None:
        """Whether an order that may have been billed is sent again, which is never done without a word."""
        if not self.ask_again:
            return before
        log.warning("%s: order %s (%s) is asked for again and may be billed twice", self.who, order.id, before.detail)
        return None

    async def _all(self, todo: dict[int, Order]) -> tuple[dict[int, bytes | Refusal | None], Halt | None]:
        """What came for each order: an image, a refusal, or None where nothing was sent because all was halted."""
        self._halt = None
        key, pace = self._key(), Pace(self.concurrency, self._limit)
        async with self._client(key) as client:
            got = await asyncio.gather(*(self._safely(client, order, pace, key) for order in todo.values()))
        self._limit = pace.limit
        return dict(zip(todo, got, strict=True)), self._halt

    async def _safely(self, client: Any, order: Order, pace: Pace, key: str) -> bytes | Refusal | None:
        try:
            try:
                return await self._ask(client, order, pace, key)
            except OSError:
                raise
            except Exception as error:  # raised, it would take the paid images of the whole batch with it
                detail = scrub(f"{type(error).__name__}: {error}", key)
                if (entry := self.ledger.standing(order.id)) is not None and entry.state == "open":
                    self.ledger.unknown(order.id, "failed", detail)
                return Refusal("failed", detail)
        except OSError as error:  # the disk's fault, so no image may be refused for it
            open_now = (entry := self.ledger.entries.get(order.id)) is not None and entry.state == "open"
            if open_now and entry is not None and entry.sender == self.ledger.me:
                log.warning("%s: the answer to order %s, which may have been billed, could not be kept", self.who, order.id)
            await self._stop(pace, self._unwritable(error))
            return None

    def _unwritable(self, error: OSError) -> str:
        return f"the ledger in {self.ledger.root} cannot be written ({error.strerror or error}): nothing more is sent"

    async def _stop(self, pace: Pace, why: str, wrong: bool = False) -> None:
        self._halt = self._halt or Halt(why, wrong)
        await pace.halt(why)

    async def _ask(self, client: Any, order: Order, pace: Pace, key: str) -> bytes | Refusal | None:
        """Send one order until there is an answer: bounded in tries and in seconds waited."""
        failures = limits = 0
        waited = 0.0
        while True:
            async with pace.turn() as may_send:
                if not may_send or not await self._may_begin(order, pace):
                    return None
                began = time.monotonic()
                try:
                    async with asyncio.timeout(self.timeout):  # a client's own timeout is for each read, not for the whole
                        reply = await self._send(client, order)
                except Exception as error:
                    trouble = self._trouble(error, key) or silence(error, self.host, self.timeout)
                except BaseException:
                    self.ledger.unknown(order.id, "killed", "ended before the answer came")
                    raise
                else:
                    pace.well()
                    return self._settle(order, self._look(order, reply), key, time.monotonic() - began)
            self._book(order, trouble, key)
            if trouble.then == "wait":
                wait = max(trouble.seconds or 0.0, self._backoff(order, limits))
                limits, waited = limits + 1, waited + wait
                if waited > self.longest_wait:
                    await self._stop(pace, self._too_long(wait))
                    return None
                log.info("%s: rate limit; waiting %.1f s", self.who, wait)
                pace.slow(wait)
            elif failures < self.retries and (
                trouble.then in ("again", "unsent") or (trouble.then == "lost" and self.ask_again)
            ):
                again = f"{self.who}: {scrub(trouble.refusal.detail, key)}; asking again"
                # What cost nothing is said once, and not by every order that meets it.
                log.log(logging.INFO if again in self._told and trouble.then == "unsent" else logging.WARNING, "%s", again)
                self._told.add(again)
                await pace.rest(self._backoff(order, failures))
                failures += 1
            elif trouble.then in ("stop", "unsent"):
                wrong = trouble.refusal.reason in ("key", "no-model", "bad-setting")
                await self._stop(pace, scrub(trouble.refusal.detail, key), wrong)
                return None
            else:
                refusal = replace(trouble.refusal, detail=scrub(trouble.refusal.detail, key))
                if trouble.then in ("again", "lost"):  # money that may be gone is never gone without a word
                    log.warning("%s: order %s, which may have been billed, is given up: %s", self.who, order.id, refusal.detail)
                return refusal

    async def _may_begin(self, order: Order, pace: Pace) -> bool:
        """Write down that an order is about to be sent, when it is time; False where all was halted instead."""
        while pace.reason is None:
            try:
                wait = self.ledger.begin([order.id], self.held(order), self.limits, self._what(order))
            except (Spent, Busy) as error:
                await self._stop(pace, f"{error}; nothing more was sent")
                return False
            if not wait:
                return True
            if self.ledger.until - time.time() > self.longest_wait:
                await self._stop(pace, self._too_long(wait))
                return False
            await pace.rest(min(wait, 60.0))
        return False

    def _too_long(self, wait: float) -> str:
        return (
            f"{self.host} asks to wait {wait:.0f} s more, longest_wait is {self.longest_wait:.0f} s for one image: "
            "run the same command again later"
        )

    def _what(self, order: Order) -> dict[str, object]:
        return {"model": self.model, "size": f"{order.width}x{order.height}", "quality": self.quality}

    def held(self, order: Order) -> float:
        """The most that one image may cost, which a budget holds back until its answer is here."""
        expected = self.prices.expected(self.quality, f"{order.width}x{order.height}", self.mode == "batch")
        if expected is None and self.limits.usd is not None:
            raise UsageError(
                f"{self.who}: budget_usd needs the most that one image of {order.width}x{order.height} costs, and its card "
                f"does not know it: give options.prices = {{ images = {{ any = DOLLARS }} }}, or budget_images instead"
            )
        return max(expected[1], self._dearest) if expected else 0.0

    def _look(self, order: Order, reply: Any) -> Answer:
        try:
            return self._read(order, reply)
        except Exception as error:  # raised, it would take the paid images of the whole batch with it
            return Answer(Refusal("failed", f"{type(error).__name__}: {error}"))

    def _settle(self, order: Order, answer: Answer, key: str, seconds: float = 0.0) -> bytes | Refusal:
        """Keep an answer and write down what it cost. What cost more than prices say is the most that the next may cost."""
        usd, image = self.prices.cost(answer.usage, self.mode == "batch"), answer.image
        if usd is not None and self.limits.usd is not None and usd > (held := self.held(order)) + 1e-9:
            self._dearest = usd
            log.warning(
                "%s: an image cost $%.4g where budget_usd held back $%.4g by prices.images: so much is held back from now on",
                self.who,
                usd,
                held,
            )
        if isinstance(image, bytes):
            owner = self.ledger.answered(order.id, image, answer.usage, usd, seconds)
            if owner is None:
                return image
            image = Refusal("duplicate-delivery", f"the bytes are those of order {owner}")
        image = replace(image, detail=scrub(image.detail, key))
        self.ledger.refused(order.id, image.reason, image.detail, billed=answer.billed, usage=answer.usage, usd=usd)
        return image

    def _book(self, order: Order, trouble: Trouble, key: str) -> None:
        """Write down how a request ended that brought nothing."""
        reason, detail = trouble.refusal.reason, scrub(trouble.refusal.detail, key)
        if trouble.then == "refuse":
            self.ledger.refused(order.id, reason, detail, billed=False, usage={}, usd=0.0)
        elif trouble.then in ("again", "lost"):
            self.ledger.unknown(order.id, reason, detail)
        else:
            self.ledger.failed(order.id, reason)
        if trouble.then == "wait" and trouble.seconds:
            self.ledger.pause(trouble.seconds)

    def _backoff(self, order: Order, before: int) -> float:
        spread = float(random_of(order.id, f"wait {before}").uniform(1, 1.25))
        return min(60.0, self.first_wait * 2.0 ** min(before, 16)) * spread
