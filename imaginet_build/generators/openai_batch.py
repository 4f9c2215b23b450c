"""OpenAI's Batch endpoint for images: a JSONL file of requests, drawn within a day for less, its answers in any order."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imaginet_build.generators.api import scrub
from imaginet_build.generators.outcomes import Answer, Trouble
from imaginet_build.generators.paid_batch import PaidBatches, Stage, rows_of
from imaginet_build.records import Order, Refusal

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

ENDPOINT = "/v1/images/generations"
MARK = "imaginet_build"
NOT_DRAWN = frozenset({"batch_expired", "batch_cancelled", "server_error", "rate_limit_exceeded"})


class OpenAIBatches(PaidBatches):
    """What is peculiar to OpenAI's batches; `OpenAIImages` says the rest."""

    @abstractmethod
    def _asked(self, order: Order) -> dict[str, Any]:
        """One order as the endpoint takes it, `options` aside."""

    @abstractmethod
    def judged(self, order: Order, answer: object) -> Answer:
        """The image in an answer's document."""

    @abstractmethod
    def faulted(self, status: int, words: set[Any], param: str | None, said: str) -> Trouble:
        """What an error's document means."""

    def _row(self, order: Order) -> dict[str, Any]:
        return {"custom_id": order.id, "method": "POST", "url": ENDPOINT, "body": self._asked(order) | self.options}

    async def _submit(self, client: AsyncOpenAI, token: str, file: Path) -> str:
        uploaded = await client.files.create(file=file, purpose="batch")
        begun = await client.batches.create(
            completion_window="24h", endpoint=ENDPOINT, input_file_id=uploaded.id, metadata={MARK: token}
        )
        return str(begun.id)

    async def _find(self, client: AsyncOpenAI, token: str) -> str | None:
        async for batch in client.batches.list(limit=100):
            if (batch.metadata or {}).get(MARK) == token:
                return str(batch.id)
        return None

    async def _stage(self, client: AsyncOpenAI, name: str) -> Stage:
        batch = await client.batches.retrieve(name)
        if batch.status == "failed":
            faults = [str(fault.message) for fault in (batch.errors.data if batch.errors else None) or []]
            return Stage("failed", "; ".join(faults) or "no reason was given")
        if batch.status in ("completed", "expired", "cancelled"):
            files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
            return Stage("ended", batch.status, whole=batch.status == "completed", handle=files)
        return Stage("running", str(batch.status))

    async def _rows(self, client: AsyncOpenAI, stage: Stage) -> AsyncIterator[tuple[str, Any]]:
        for file in stage.handle:
            async with client.files.with_streaming_response.content(file) as response:
                async for row in rows_of(response.iter_bytes(1 << 20), "custom_id", self.who):
                    yield row

    def _judge(self, order: Order, reply: Any, key: str) -> Answer | Trouble:
        response = reply.get("response") or {}
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            return self.judged(order, body)
        inner = body.get("error") if isinstance(body, dict) else None
        fault = inner or reply.get("error") or {}
        words, said = {fault.get("code"), fault.get("type")}, scrub(str(fault.get("message")), key)
        if words & NOT_DRAWN or status == 429:
            return Trouble("again", Refusal("batch-ended", said))
        return self.faulted(int(status or 400), words, fault.get("param"), said)
