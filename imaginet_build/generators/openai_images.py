"""Image models behind OpenAI's images endpoint, or behind any server that speaks it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from imaginet_build.errors import MissingExtra
from imaginet_build.generators.api import capped, image_of, scrub, tokens
from imaginet_build.generators.openai_batch import OpenAIBatches
from imaginet_build.generators.outcomes import MAY_BE_BILLED, Answer, Trouble
from imaginet_build.generators.pace import retry_after
from imaginet_build.records import Order, Refusal

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MODERATION = frozenset({"moderation_blocked", "content_policy_violation", "content_filter"})
LONGEST = 64 << 20
"""Bytes of an answer; a longer one is no image of ours."""
BILLING = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"})


class OpenAIImages(OpenAIBatches):
    """Draws by `POST /images/generations` at `base_url` (default: `OPENAI_BASE_URL`, else OpenAI), one image a request.

    `output_format`: png, jpeg or webp. `options`: anything else the endpoint takes, such as `moderation = "low"` or, for
    servers other than OpenAI, `response_format = "b64_json"`. `sizes`: the only ones
    that it draws ([[1024, 1024]]); without them, sides that are multiples of 16, at most 3840
    and at most 3:1. Neither seeds nor negative prompts exist at this endpoint: the same order gives another image each time it
    is sent. Everything else stands at `PaidImages`.
    """

    home: ClassVar[str] = "https://api.openai.com/v1"
    set_here: ClassVar[tuple[str, ...]] = ("model", "prompt", "size", "n", "quality", "output_format", "stream")

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        *,
        output_format: Literal["png", "jpeg", "webp"] | None = None,
        sizes: list[tuple[int, int]] | None = None,
        **shared: Any,
    ) -> None:
        if importlib.util.find_spec("openai") is None:
            raise MissingExtra(shared.get("name") or model, "openai", "api")
        super().__init__(model, base_url or os.environ.get("OPENAI_BASE_URL") or self.home, key_variable, **shared)
        self.sizes, self.output_format = sizes, output_format

    def params(self) -> dict[str, Any]:
        """Model, host, version of the client and what was asked. What it cost stands in the ledger."""
        about = {"model": self.model, "host": self.host, "openai": importlib.metadata.version("openai"), "seeded": False}
        return about | self._settings() | ({"options": self.options} if self.options else {})

    def _settings(self) -> dict[str, str]:
        return {k: v for k, v in (("quality", self.quality), ("output_format", self.output_format)) if v is not None}

    def _misfit(self, order: Order) -> str | None:
        short, long = sorted((order.width, order.height))
        size = f"{order.width}x{order.height}"
        if self.sizes is not None:
            known = [f"{width}x{height}" for width, height in self.sizes]
            fits, rule = size in known, f"one of {', '.join(known)}"
        else:
            fits = short > 0 and not (short % 16 or long % 16) and long <= 3840 and long <= 3 * short
            rule = "multiples of 16, at most 3840 and at most 3:1"
        return None if fits else f"{self.who} draws {rule}; {size} was ordered"

    def _asked(self, order: Order) -> dict[str, Any]:
        """One order as the endpoint takes it, `options` aside."""
        assert order.prompt is not None
        size = f"{order.width}x{order.height}"
        return {"model": self.model, "prompt": order.prompt.text, "size": size, "n": 1} | self._settings()

    def _client(self, key: str) -> AbstractAsyncContextManager[AsyncOpenAI]:
        import openai

        timeout = openai.Timeout(self.timeout, connect=min(30, self.timeout))
        # The client's own retries would send a request again after a timeout, and so pay twice without a word. A connection
        # that is kept open may be closed by the server just as the next request leaves, which looks like one that was lost.
        client: AbstractAsyncContextManager[AsyncOpenAI] = openai.AsyncOpenAI(
            api_key=key,
            base_url=self.base_url,
            max_retries=0,
            timeout=timeout,
            default_headers={"Connection": "close"},
            http_client=openai.DefaultAsyncHttpxClient(timeout=timeout, event_hooks={"response": [capped("/content")]}),
        )
        return client

    async def _send(self, client: AsyncOpenAI, order: Order) -> bytes:
        """The answer's body as it came: the client would make an object of anything. No more is read than an image takes."""
        body = bytearray()
        ask = client.images.with_streaming_response.generate
        async with ask(**self._asked(order), extra_body=self.options or None) as answer:
            async for chunk in answer.iter_bytes(1 << 20):
                body += chunk
                if len(body) > LONGEST:
                    break
        return bytes(body)

    def _read(self, order: Order, reply: bytes) -> Answer:
        """The image in a body, or why there is none; its tokens are counted either way, for they are billed either way."""
        if len(reply) > LONGEST:
            return Answer(Refusal("too-large", f"the answer is longer than {LONGEST:,} bytes"))
        try:
            answer = json.loads(reply)
        except (ValueError, RecursionError):
            return Answer(Refusal("not-json", f"the answer begins with {reply[:60].decode('utf-8', 'replace')!r}"))
        return self.judged(order, answer)

    def judged(self, order: Order, answer: object) -> Answer:
        """The image in an answer's document."""
        if not isinstance(answer, dict):
            return Answer(Refusal("no-data", "the answer holds no image"))
        said = answer.get("usage")
        counts = said if isinstance(said, dict) else {}
        found = {word: tokens(counts.get(word)) for word in ("input_tokens", "output_tokens")}
        usage = {word: count for word, count in found.items() if count is not None}
        data = answer.get("data")
        first = data[0] if isinstance(data, list) and data else None
        if not isinstance(first, dict):
            return Answer(Refusal("no-data", "the answer holds no image"), usage)
        if not first.get("b64_json") and first.get("url"):
            address = 'the answer is an address: set options = { response_format = "b64_json" } in the card'
            return Answer(Refusal("no-data", address), usage)
        return Answer(image_of(first.get("b64_json"), order.width, order.height), usage)

    def _trouble(self, error: Exception, key: str) -> Trouble | None:
        import openai

        if not isinstance(error, openai.APIStatusError):
            return None
        words = {error.code, error.type}
        seconds = retry_after(error.response.headers)
        # 503 with a time is a rate limit by another name (RFC 9110, 15.6.4).
        if (error.status_code == 429 and not words & BILLING) or (error.status_code == 503 and seconds is not None):
            return Trouble("wait", Refusal("rate-limit", "a rate limit"), seconds)
        return self.faulted(error.status_code, words, error.param, scrub(error.message, key))

    def faulted(self, status: int, words: set[Any], param: str | None, said: str) -> Trouble:
        """What an error's document means. Codes say more than statuses do."""
        if words & MODERATION:
            return Trouble("refuse", Refusal("moderation", said))
        if words & BILLING or status == 402:
            code = next(iter(sorted(str(word) for word in words & BILLING)), "payment required")
            why = f"{self.host} stops at a quota or billing limit ({code}): see the account's billing"
            return Trouble("stop", Refusal("billing", why))
        if status in (401, 403):  # what it says here may repeat a part of the key
            where = self.key_variable or "(no key_variable is set)"
            why = f"{self.host} does not accept the key in {where} for {self.model} ({status})"
            return Trouble("stop", Refusal("key", why))
        if status in (404, 405):
            why = f"{self.host} has no images endpoint or no model '{self.model}': {said}"
            return Trouble("stop", Refusal("no-model", why))
        if status in (408, 504, 524):  # 520 to 529 are those of proxies before a service
            return Trouble("lost", Refusal("timeout", f"{self.host} answered {status}: {MAY_BE_BILLED}"))
        if status >= 500:
            return Trouble("again", Refusal("server-error", f"{self.host} answered {status}: {said}"))
        if param in {*self.set_here, *self.options} - {"prompt", "size"}:  # the card's fault: every order would meet it
            return Trouble("stop", Refusal("bad-setting", f"{self.host} does not take this {param}: {said}"))
        return Trouble("refuse", Refusal("bad-request", f"{self.host} answered {status}: {said}"))
