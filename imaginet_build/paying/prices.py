"""What one image costs: the `[prices]` of a card, with the page they stand on and the day they were read."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MILLION = 1_000_000


class Prices(BaseModel):
    """Prices in US dollars. `images`: for one image, by `"<quality> <size>"`, `"<size>"`, `"<quality>"` or `"any"`, the first
    that fits. `input`, `output`, `text`: for a million tokens of prompt, of image, and of text beside the image. `batch`: what
    a batch costs beside that (0.5: half). `url`, `read`: where and when they were read; without both they are the user's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    images: dict[str, Dollars] = Field(default_factory=dict)
    input: Dollars | None = None
    output: Dollars | None = None
    text: Dollars | None = None
    batch: Annotated[float, Field(gt=0, le=1)] = 1.0
    url: str = ""
    read: datetime.date | None = None

    def expected(self, quality: str | None, size: str, batch: bool = False) -> tuple[float, float] | None:
        """The least and the most that one image costs, or None where only its tokens will say. Without a quality, or with
        `auto`, the service chooses, so that every quality's price counts."""
        share = self.batch if batch else 1.0
        fixed = quality not in (None, "auto")
        if fixed and (exact := self.images.get(f"{quality} {size}")) is not None:
            return exact * share, exact * share
        found = [price for name, price in self.images.items() if not fixed and name.endswith(f" {size}")]
        found = found or [self.images[name] for name in (size, quality, "any") if name is not None and name in self.images][:1]
        return (min(found) * share, max(found) * share) if found else None

    def cost(self, usage: Mapping[str, int], batch: bool = False) -> float | None:
        """What an answer's tokens cost (`input_tokens`, `output_tokens`, `text_tokens`); None where no price says so."""
        if self.output is None or not usage:
            return None
        paid = usage.get("input_tokens", 0) * (self.input or 0) + usage.get("output_tokens", 0) * self.output
        paid += usage.get("text_tokens", 0) * (self.text if self.text is not None else self.output)
        return paid / MILLION * (self.batch if batch else 1.0)

    def said(self) -> str:
        """Where the prices come from."""
        return f"read on {self.read} at {self.url}" if self.url and self.read else "given in the card or recipe, no page named"
