"""Google's image models (gemini-…) behind `generateContent`, one image a request, and behind its batches."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from imaginet_build.errors import MissingExtra
from imaginet_build.generators.api import capped, image_of, scrub, tokens
from imaginet_build.generators.outcomes import MAY_BE_BILLED, Answer, Trouble
from imaginet_build.generators.pace import retry_after, sane
from imaginet_build.generators.paid_batch import PaidBatches, Stage, rows_of
from imaginet_build.records import Order, Refusal

if TYPE_CHECKING:
    from google.genai.client import AsyncClient

log = logging.getLogger(__name__)

BY_RULE = frozenset(
    {"SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION", "JAILBREAK", "MODEL_ARMOR", "OTHER", "ESCALATION"}
    | {"IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER"}
)
"""Reasons for blocking a prompt or ending an answer that are the service's decision."""

NOT_DRAWN = frozenset({1, 4, 8, 13, 14, 429, 499, 500, 503, 504})
"""Codes of a batch's rows (google.rpc.Code or HTTP) that say that a request was not served: cancelled, late, no quota, down."""


class GoogleImages(PaidBatches):
    """Draws by `generateContent` of a gemini image model at `base_url` (default: Google's own).

    `shapes`: the sizes that it draws, each with the service's own words for it: `{"1024x1024" = ["1:1", "1K"]}`. `options`: the
    rest of `GenerateContentConfig`, such as `temperature`. Everything else stands at `PaidImages`.
    """

    home: ClassVar[str] = "https://generativelanguage.googleapis.com"
    set_here: ClassVar[tuple[str, ...]] = ("response_modalities", "image_config", "candidate_count", "http_options")

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key_variable: str = "GEMINI_API_KEY",
        *,
        shapes: dict[str, tuple[str, str]] | None = None,
        **shared: Any,
    ) -> None:
        try:
            there = importlib.util.find_spec("google.genai") is not None
        except ModuleNotFoundError:
            there = False
        if not there:
            raise MissingExtra(shared.get("name") or model, "google-genai", "api")
        super().__init__(model, base_url or self.home, key_variable, **shared)
        self.shapes = {"1024x1024": ("1:1", "1K")} if shapes is None else shapes

    def params(self) -> dict[str, Any]:
        """Model, host, version of the client and what was asked. What it cost stands in the ledger."""
        version = importlib.metadata.version("google-genai")
        about = {"model": self.model, "host": self.host, "google-genai": version, "seeded": False}
        return about | ({"options": self.options} if self.options else {})

    def _misfit(self, order: Order) -> str | None:
        size = f"{order.width}x{order.height}"
        return None if size in self.shapes else f"{self.who} draws one of {', '.join(self.shapes)}; {size} was ordered"

    @asynccontextmanager
    async def _opened(self, key: str) -> AsyncIterator[AsyncClient]:
        import httpx2
        from google import genai
        from google.genai import types

        # Left to itself the client takes aiohttp where that is installed, and then sends a request again where a connection
        # was dropped, without a word, and so pays twice.
        async with httpx2.AsyncClient(event_hooks={"response": [capped(":download")]}) as transport:
            options = types.HttpOptions(
                base_url=self.base_url,
                timeout=int(self.timeout * 1000),
                headers={"Connection": "close"},
                retry_options=types.HttpRetryOptions(attempts=1),
                httpx_async_client=transport,
            )
            logging.getLogger("google_genai._api_client").addFilter(_true)
            client = genai.Client(api_key=key, vertexai=False, http_options=options)
            try:
                yield client.aio
            finally:
                client.close()

    def _client(self, key: str) -> AbstractAsyncContextManager[AsyncClient]:
        return self._opened(key)

    async def _send(self, client: AsyncClient, order: Order) -> str:
        """The answer's body as it came: the client would decode what it can and hide the rest."""
        from google.genai import types

        assert order.prompt is not None
        ratio, size = self.shapes[f"{order.width}x{order.height}"]
        config = types.GenerateContentConfig(
            response_modalities=["IMAGE"],
            image_config=types.ImageConfig(aspect_ratio=ratio, image_size=size),
            should_return_http_response=True,
            **self.options,
        )
        reply = await client.models.generate_content(model=self.model, contents=order.prompt.text, config=config)
        return (reply.sdk_http_response.body if reply.sdk_http_response else None) or ""

    def _read(self, order: Order, reply: str) -> Answer:
        try:
            answer = json.loads(reply)
        except (ValueError, RecursionError):
            return Answer(Refusal("not-json", f"the answer begins with {reply[:60]!r}"))
        return self._judged(order, answer)

    def _judged(self, order: Order, answer: object) -> Answer:
        """The image in an answer's document, or why there is none."""
        if not isinstance(answer, dict):
            return Answer(Refusal("no-data", "the answer holds no image"))
        usage = _usage(answer.get("usageMetadata"))
        if blocked := (answer.get("promptFeedback") or {}).get("blockReason"):
            return Answer(Refusal("moderation", f"the prompt was blocked: {blocked}"), usage, billed=bool(usage))
        first: dict[str, Any] = next(iter(answer.get("candidates") or []), {})
        parts = [part for part in (first.get("content") or {}).get("parts") or [] if not part.get("thought")]
        drawn = next((part["inlineData"] for part in parts if part.get("inlineData")), None)
        if drawn is not None:
            return Answer(image_of(drawn.get("data"), order.width, order.height), usage)
        reason = first.get("finishReason", "none given")
        said = " ".join(str(part["text"]) for part in parts if part.get("text"))
        refusal = Refusal("moderation" if reason in BY_RULE else "no-data", f"finish reason {reason}. {said}".strip())
        return Answer(refusal, usage, billed=bool(usage))

    def _trouble(self, error: Exception, key: str) -> Trouble | None:
        from google.genai import errors

        if not isinstance(error, errors.APIError):
            return None
        details = error.details if isinstance(error.details, Mapping) else {}
        inner = details.get("error") or details
        facts = _mappings(inner.get("details") if isinstance(inner, Mapping) else None)
        said = scrub(str(error.message), key)
        header = retry_after(getattr(error.response, "headers", None) or {})
        if error.code == 429:
            return self._limited(facts, header)
        if error.code == 503 and header is not None:  # a rate limit by another name (RFC 9110, 15.6.4)
            return Trouble("wait", Refusal("rate-limit", "a rate limit"), header)
        return self._faulted(int(error.code), str(error.status), {str(fact.get("reason")) for fact in facts}, said)

    def _limited(self, facts: list[Mapping[str, Any]], header: float | None) -> Trouble:
        """A rate limit, which says how long it lasts, or the end of a day's quota."""
        violated = [str(one.get("quotaId")) for fact in facts for one in _mappings(fact.get("violations"))]
        if day := [quota for quota in violated if "PerDay" in quota]:
            why = f"{self.host} stops at today's quota ({scrub(day[0])}): run the same command again tomorrow"
            return Trouble("stop", Refusal("billing", why))
        delays = [re.fullmatch(r"(\d+(?:\.\d+)?)s", str(fact.get("retryDelay")), re.ASCII) for fact in facts]
        seconds = max([sane(float(delay[1])) or 0.0 for delay in delays if delay] + [header or 0.0])
        return Trouble("wait", Refusal("rate-limit", "a rate limit"), seconds or None)

    def _faulted(self, code: int, status: str, reasons: set[str], said: str) -> Trouble:
        if code in (401, 403) or reasons & {"API_KEY_INVALID", "API_KEY_EXPIRED"} or "API key" in said:
            where = self.key_variable or "(no key_variable is set)"
            return Trouble("stop", Refusal("key", f"{self.host} does not accept the key in {where} for {self.model} ({code})"))
        if status == "FAILED_PRECONDITION" or code == 402:
            return Trouble("stop", Refusal("billing", f"{self.host} stops at the account or its billing: {said}"))
        if code == 404:
            return Trouble("stop", Refusal("no-model", f"{self.host} has no model '{self.model}': {said}"))
        if code in (408, 499, 504, 524):
            return Trouble("lost", Refusal("timeout", f"{self.host} answered {code}: {MAY_BE_BILLED}"))
        if code >= 500:
            return Trouble("again", Refusal("server-error", f"{self.host} answered {code}: {said}"))
        return Trouble("refuse", Refusal("bad-request", f"{self.host} answered {code}: {said}"))

    # --- batches ------------------------------------------------------------------------------------------------------

    def _row(self, order: Order) -> dict[str, Any]:
        assert order.prompt is not None
        ratio, size = self.shapes[f"{order.width}x{order.height}"]
        settings = {_camel(key): value for key, value in self.options.items()}
        settings |= {"responseModalities": ["IMAGE"], "imageConfig": {"aspectRatio": ratio, "imageSize": size}}
        contents = [{"role": "user", "parts": [{"text": order.prompt.text}]}]
        return {"key": order.id, "request": {"contents": contents, "generationConfig": settings}}

    async def _submit(self, client: AsyncClient, token: str, file: Path) -> str:
        from google.genai import types

        config = types.UploadFileConfig(mime_type="application/jsonl", display_name=token)
        uploaded = await client.files.upload(file=file, config=config)
        job = await client.batches.create(
            model=self.model, src=str(uploaded.name), config=types.CreateBatchJobConfig(display_name=token)
        )
        return str(job.name)

    async def _find(self, client: AsyncClient, token: str) -> str | None:
        async for job in await client.batches.list(config={"page_size": 100}):
            if job.display_name == token:
                return str(job.name)
        return None

    async def _stage(self, client: AsyncClient, name: str) -> Stage:
        job = await client.batches.get(name=name)
        state = job.state.value.removeprefix("JOB_STATE_") if job.state else "UNSPECIFIED"
        file = job.dest.file_name if job.dest else None
        if state == "FAILED":
            return Stage("failed", str(job.error.message) if job.error else "no reason was given")
        if state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "CANCELLED", "EXPIRED"):
            return Stage("ended", state, whole=state == "SUCCEEDED", handle=file)
        return Stage("running", state)

    async def _rows(self, client: AsyncClient, stage: Stage) -> AsyncIterator[tuple[str, Any]]:
        if stage.handle is None:
            return
        assert self.ledger.root is not None
        place = self.ledger.root / f"{stage.handle.replace('/', '-')}.{self.ledger.me}.jsonl"
        try:
            # To the disk first: a batch's images may not fit in memory.
            await client.files.download(file=stage.handle, destination=place)
            async for row in rows_of(_chunks(place), "key", self.who):
                yield row
        finally:
            place.unlink(missing_ok=True)

    def _judge(self, order: Order, reply: Any, key: str) -> Answer | Trouble:
        if fault := reply.get("error"):
            code, said = int(fault.get("code") or 400), scrub(str(fault.get("message")), key)
            if code in NOT_DRAWN:
                return Trouble("again", Refusal("batch-ended", said))
            return Trouble("refuse", Refusal("bad-request", said))
        return self._judged(order, reply.get("response"))


def _mappings(listed: object) -> list[Mapping[str, Any]]:
    return [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []


def _true(record: logging.LogRecord) -> bool:
    """Whether a line of the client's is true: it says that it takes GOOGLE_API_KEY where that is set, also when it is given
    another key."""
    return "Using GOOGLE_API_KEY" not in record.getMessage()


def _usage(said: object) -> dict[str, int]:
    """Tokens as prices count them: what went in, what the image took, and the text beside it, thoughts included."""
    counts = said if isinstance(said, dict) else {}

    def count(key: str) -> int:
        return tokens(counts.get(key)) or 0

    details = counts.get("candidatesTokensDetails")
    listed = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    drawn = [one.get("tokenCount") for one in listed if one.get("modality") == "IMAGE"]
    image = sum(tokens(one) or 0 for one in drawn) if listed else count("candidatesTokenCount")
    text = count("candidatesTokenCount") - image + count("thoughtsTokenCount")
    found = {"input_tokens": count("promptTokenCount"), "output_tokens": image, "text_tokens": max(0, text)}
    return {key: value for key, value in found.items() if value}


def _camel(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(word.capitalize() for word in rest)


async def _chunks(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            yield chunk
