"""Image models behind OpenAI's images endpoint, or behind any server that speaks it: one request, one image, and money."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from imaginet_build.errors import MissingExtra, UsageError
from imaginet_build.generators.api import Pace, image_of, retry_after, run, scrub
from imaginet_build.records import Order, Refusal, random_of

if TYPE_CHECKING:
    from openai import APIConnectionError, APIStatusError, AsyncOpenAI

log = logging.getLogger(__name__)

OPENAI = "https://api.openai.com/v1"
MODERATION = frozenset({"moderation_blocked", "content_policy_violation", "content_filter"})
BILLING = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"})
_MAY_BE_BILLED = "it may have been billed and is not asked again by itself"
_SET_HERE = ("model", "prompt", "size", "n", "quality", "output_format", "stream")


class OpenAIImages:
    """Draws by `POST /images/generations` at `base_url` (default: `OPENAI_BASE_URL`, else OpenAI), one image a request.

    The key is read from the environment variable `key_variable` (empty: the server wants none) and kept nowhere. `quality`,
    `output_format` (png, jpeg or webp) and `options` (anything else the endpoint takes, such as `moderation = "low"` or, for
    servers other than OpenAI, `response_format = "b64_json"`) are sent as they are. `sizes`: the only sizes (`"1024x1024"`)
    the model draws; without it, sides that are multiples of 16, at most 3840 and at most 3:1. Neither seeds nor negative
    prompts exist at this endpoint: the same order gives another image each time it is sent.

    `timeout`: seconds for a whole answer; what takes longer is refused and never sent again. `retries`: how often a request is
    sent again after 500, 502, 503 or a dropped connection. `longest_wait`: seconds that one order waits for rate limits in all
    (`Retry-After` is obeyed, whatever its length up to that); `first_wait`: the first wait where the server names none, doubled
    up to a minute. `concurrency`: the most requests under way at once, fewer after a rate limit. `budget_images`: the most
    requests one instance (one worker, one run) sends that may be billed; a batch that would pass it is not begun.

    UsageError, MissingExtra: no key, no `openai`, a bad setting; from `draw`: quota, billing limit, budget, a key or a model
    that is not accepted, a server out of reach. Finished images before the first unfinished one are given out
    before it is raised.
    """

    needs: ClassVar[Literal["prompt", "source", "none"]] = "prompt"
    paid: ClassVar[bool] = True
    not_in_id: ClassVar[frozenset[str]] = frozenset(
        {"base_url", "key_variable", "timeout", "concurrency", "retries", "first_wait", "longest_wait", "budget_images"}
    )

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        *,
        name: str = "",
        quality: str | None = None,
        output_format: Literal["png", "jpeg", "webp"] | None = None,
        options: dict[str, Any] | None = None,
        sizes: list[str] | None = None,
        width: int | None = None,
        height: int | None = None,
        timeout: float = 180,
        concurrency: int = 4,
        retries: int = 3,
        first_wait: float = 0.5,
        longest_wait: float = 1800,
        budget_images: int | None = None,
    ) -> None:
        self.who = name or model
        if importlib.util.find_spec("openai") is None:
            raise MissingExtra(self.who, "openai", "api")
        self.model, self.key_variable, self.sizes = model, key_variable, sizes
        self.width, self.height = width, height
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
        self.host = self._host()
        wrong = [f"timeout is {timeout}; it is a number of seconds above 0"] if timeout <= 0 else []
        wrong += [f"concurrency is {concurrency}; it is at least 1"] if concurrency < 1 else []
        wrong += (
            [f"budget_images is {budget_images}; it is at least 1"] if budget_images is not None and budget_images < 1 else []
        )
        wrong += [f"retries is {retries}; it is at least 0"] if retries < 0 else []
        wrong += ["first_wait and longest_wait are seconds above 0"] if min(first_wait, longest_wait) <= 0 else []
        wrong += [
            f"options may not set {key}: the order or a key of its own does" for key in _SET_HERE if key in (options or {})
        ]
        if wrong:
            raise UsageError(f"{self.who}: " + "; ".join(wrong))
        self.sent = {"quality": quality, "output_format": output_format}
        self.options = dict(options or {})
        self.timeout, self.concurrency, self.retries = timeout, concurrency, retries
        self.first_wait, self.longest_wait, self.budget_images = first_wait, longest_wait, budget_images
        self._spent, self._limit = 0, concurrency
        self._seen: dict[str, str] = {}
        self._usage: dict[str, int] = {}
        self._key()

    def _host(self) -> str:
        """Host and port alone: the rest of an address may hold what must not be repeated."""
        try:
            parts = urlsplit(self.base_url)
            if parts.scheme in ("http", "https") and parts.hostname and not (parts.username or parts.password):
                return parts.hostname + (f":{parts.port}" if parts.port else "")
        except ValueError:
            pass
        raise UsageError(f"{self.who}: base_url is an http(s) address without user or password, such as {OPENAI}")

    def _key(self) -> str:
        """Read anew for every batch, so that no attribute, repr or pickle of this object holds it."""
        if not self.key_variable:
            return "none"
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise UsageError(f"{self.who} needs {self.key_variable} in the environment: export {self.key_variable}=...")
        if not (key.isascii() and key.isprintable()):
            raise UsageError(f"{self.who}: {self.key_variable} holds characters that no key has; export it again")
        return key

    def params(self) -> dict[str, Any]:
        """Model, host, version of the client, what was asked; and the images and tokens that the last batch was billed for."""
        asked = {k: v for k, v in self.sent.items() if v is not None} | ({"options": self.options} if self.options else {})
        about = {"model": self.model, "host": self.host, "openai": importlib.metadata.version("openai"), "seeded": False}
        return about | asked | {"batch_usage": dict(self._usage)}

    def draw(self, orders: Sequence[Order]) -> Iterator[bytes | Refusal]:
        """One answer per order, in order: the service's own bytes. See the class for what is raised."""
        answers: dict[int, bytes | Refusal | None] = {i: self._unfit(order) for i, order in enumerate(orders)}
        todo = {i: orders[i] for i, unfit in answers.items() if unfit is None}
        self._usage = {}
        if self.budget_images is not None and self._spent + len(todo) > self.budget_images:
            raise UsageError(
                f"{self.who}: budget_images = {self.budget_images}, {self._spent} of it spent, and the next batch has "
                f"{len(todo)} images: raise the budget, or ask for fewer"
            )
        halted: str | None = None
        if todo:
            drawn, halted = run(self._all(todo))
            answers |= drawn
        lost = 0
        stopped = False
        for i, order in enumerate(orders):
            answer = answers[i]
            if stopped or answer is None:
                stopped = True
                lost += isinstance(answer, bytes)
                continue
            made = self._once(order, self._image(order, answer)) if isinstance(answer, bytes) else answer
            yield replace(made, detail=scrub(made.detail, self._key())) if isinstance(made, Refusal) else made
        if stopped:
            paid = f"; {lost} image(s) of the batch came after the stop, were paid for and are not kept" if lost else ""
            raise UsageError(f"{self.who}: {halted}{paid}")

    def _unfit(self, order: Order) -> Refusal | None:
        """Why an order is not worth a request."""
        if order.prompt is None or not order.prompt.text.strip():
            return Refusal("no-prompt", f"{self.who} draws from a text, and order {order.id} has none")
        short, long = sorted((order.width, order.height))
        size = f"{order.width}x{order.height}"
        if self.sizes is not None:
            fits, rule = size in self.sizes, f"one of {', '.join(self.sizes)}"
        else:
            fits = short > 0 and not (short % 16 or long % 16) and long <= 3840 and long <= 3 * short
            rule = "multiples of 16, at most 3840 and at most 3:1"
        return None if fits else Refusal("bad-size", f"{self.who} draws {rule}; {size} was ordered")

    async def _all(self, todo: dict[int, Order]) -> tuple[dict[int, bytes | Refusal | None], str | None]:
        """What came for each order: a body, a refusal, or None where nothing was sent because all was halted."""
        import openai

        key, pace = self._key(), Pace(self.concurrency, self._limit)
        timeout = openai.Timeout(self.timeout, connect=min(30, self.timeout))
        # The client's own retries would send a request again after a timeout, and so pay twice without a word.
        async with openai.AsyncOpenAI(api_key=key, base_url=self.base_url, max_retries=0, timeout=timeout) as client:
            got = await asyncio.gather(*(self._safely(client, order, pace, key) for order in todo.values()))
        self._limit = pace.limit
        return dict(zip(todo, got, strict=True)), pace.reason

    async def _safely(self, client: AsyncOpenAI, order: Order, pace: Pace, key: str) -> bytes | Refusal | None:
        try:
            return await self._ask(client, order, pace, key)
        except Exception as error:  # raised, it would take the paid images of the whole batch with it
            return Refusal("failed", f"{type(error).__name__}: {scrub(str(error), key)}")

    async def _ask(self, client: AsyncOpenAI, order: Order, pace: Pace, key: str) -> bytes | Refusal | None:
        """Send one order until there is an answer: bounded in tries and in seconds waited."""
        import openai

        failures = limits = 0
        waited = 0.0
        while True:
            async with pace.turn() as may_send:
                if not may_send:
                    return None
                if self.budget_images is not None and self._spent >= self.budget_images:
                    await pace.halt(f"budget_images = {self.budget_images} is spent")
                    return None
                self._spent += 1
                try:
                    async with asyncio.timeout(self.timeout):  # the client's own timeout is for each read, not for the whole
                        body = await self._request(client, order)
                    pace.well()
                    return body
                except (TimeoutError, openai.APIConnectionError) as error:
                    verdict = self._connection(error)
                except openai.APIStatusError as error:
                    self._spent -= error.status_code < 500 and error.status_code != 408
                    if error.status_code == 429 and not {error.code, error.type} & BILLING:
                        wait = max(retry_after(error.response.headers) or 0.0, self._backoff(order, limits))
                        limits, waited = limits + 1, waited + wait
                        if waited > self.longest_wait:
                            await pace.halt(
                                f"{self.host} asks to wait {wait:.0f} s more, longest_wait is {self.longest_wait:.0f} s for "
                                "one image: run the same command again later"
                            )
                            return None
                        log.info("%s: rate limit; waiting %.1f s", self.who, wait)
                        pace.slow(wait)
                        continue
                    verdict = self._status(error, key)
            again, stop, refusal = verdict
            if again and failures < self.retries:
                log.warning("%s: %s; asking again", self.who, refusal.detail)
                await pace.rest(self._backoff(order, failures))
                failures += 1
            elif stop:
                await pace.halt(refusal.detail)
                return None
            else:
                return refusal

    async def _request(self, client: AsyncOpenAI, order: Order) -> bytes:
        """The answer's body as it came: the client would make an object of anything."""
        assert order.prompt is not None
        asked: dict[str, Any] = {k: v for k, v in self.sent.items() if v is not None}
        raw = await client.images.with_raw_response.generate(
            model=self.model,
            prompt=order.prompt.text,
            size=f"{order.width}x{order.height}",
            n=1,
            extra_body=self.options or None,
            **asked,
        )
        body: bytes = raw.http_response.content
        return body

    def _backoff(self, order: Order, before: int) -> float:
        spread = float(random_of(order.id, f"wait {before}").uniform(1, 1.25))
        return min(60.0, self.first_wait * 2.0 ** min(before, 16)) * spread

    def _connection(self, error: TimeoutError | APIConnectionError) -> tuple[bool, bool, Refusal]:
        """(ask again, stop everything, why) for a request without an answer."""
        import openai

        if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):  # nothing was sent, so nothing was billed
            self._spent -= 1
            return True, True, Refusal("unreachable", f"{self.host} cannot be reached: check base_url and the network")
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return False, False, Refusal("timeout", f"no whole answer from {self.host} in {self.timeout:g} s: {_MAY_BE_BILLED}")
        return True, False, Refusal("dropped", f"{self.host} dropped the connection; what was asked may have been billed")

    def _status(self, error: APIStatusError, key: str) -> tuple[bool, bool, Refusal]:
        """(ask again, stop everything, why) for an answer that is an error. Codes say more than statuses do."""
        said = scrub(error.message, key)
        words = {error.code, error.type}
        if words & MODERATION:
            return False, False, Refusal("moderation", said)
        if words & BILLING or error.status_code == 402:
            code = scrub(str(error.code or error.type or "payment required"), key)
            return (
                False,
                True,
                Refusal("billing", f"{self.host} stops at a quota or billing limit ({code}): see the account's billing"),
            )
        if error.status_code in (401, 403):  # what it says here may repeat a part of the key
            where = self.key_variable or "(no key_variable is set)"
            return (
                False,
                True,
                Refusal("key", f"{self.host} does not accept the key in {where} for {self.model} ({error.status_code})"),
            )
        if error.status_code in (404, 405):
            return False, True, Refusal("no-model", f"{self.host} has no images endpoint or no model '{self.model}': {said}")
        if error.status_code in (408, 504):
            return False, False, Refusal("timeout", f"{self.host} answered {error.status_code}: {_MAY_BE_BILLED}")
        if error.status_code in (500, 502, 503):
            return True, False, Refusal("server-error", f"{self.host} answered {error.status_code}: {said}")
        if error.param in {*_SET_HERE, *self.options} - {"prompt", "size"}:  # the card's fault: every order would meet it
            return False, True, Refusal("bad-setting", f"{self.host} does not take this {error.param}: {said}")
        return False, False, Refusal("bad-request", f"{self.host} answered {error.status_code}: {said}")

    def _image(self, order: Order, body: bytes) -> bytes | Refusal:
        """The image in a body, or why there is none; its tokens are counted either way, for they are billed either way."""
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return Refusal("not-json", f"the answer begins with {body[:60].decode('utf-8', 'replace')!r}")
        usage = answer.get("usage") if isinstance(answer, dict) else None
        for word in ("input_tokens", "output_tokens"):
            if isinstance(usage, dict) and isinstance(usage.get(word), int):
                self._usage[word] = self._usage.get(word, 0) + usage[word]
        self._usage["images"] = self._usage.get("images", 0) + 1
        data = answer.get("data") if isinstance(answer, dict) else None
        first = data[0] if isinstance(data, list) and data else None
        if not isinstance(first, dict):
            return Refusal("no-data", "the answer holds no image")
        if not first.get("b64_json") and first.get("url"):
            return Refusal("no-data", 'the answer is an address: set options = { response_format = "b64_json" } in the card')
        return image_of(first.get("b64_json"), order.width, order.height)

    def _once(self, order: Order, answer: bytes | Refusal) -> bytes | Refusal:
        """The same bytes for two orders are one answer delivered twice."""
        if isinstance(answer, Refusal):
            return answer
        owner = self._seen.setdefault(hashlib.sha256(answer).hexdigest(), order.id)
        return answer if owner == order.id else Refusal("duplicate-delivery", f"the bytes are those of order {owner}")
