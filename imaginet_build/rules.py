"""What a collected image must be, as source cards and recipes state it: the `guard`, `screen` and `match` tables.

A key that neither the recipe's entry nor the source's card states takes its value from `GUARD` and `SCREENING`.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Checking = Literal["off", "try", "must"]
"""Whether a check is made: never; where its package is installed (what was not checked is said); or always (without the
package nothing starts)."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Guard(_Table):
    """Is it real? Applied to images whose origin is real, but for `faces`, which is applied to both classes."""

    ai_metadata: bool | None = Field(default=None, description="refuse what says of itself that a generator made it")
    taken_before: datetime.date | None = Field(default=None, description="refuse what was first seen on that day or later")
    undated: Literal["keep", "reject"] | None = Field(default=None, description="what `taken_before` means for undated images")
    watermark: Checking | None = Field(default=None, description="look for the invisible watermarks of Stable Diffusion")
    faces: Checking | None = Field(default=None, description="verify that images of the category faces show one")


class Screening(_Table):
    """What is not wanted whoever made it. The same keys as `[balance.screen]`, applied on arrival; nothing by default."""

    min_side: int | None = Field(default=None, ge=0, description="pixels of the shorter side")
    max_aspect: float | None = Field(default=None, ge=0, description="longer side over shorter; 0 means any")
    min_contrast: float | None = Field(default=None, ge=0, le=127.5, description="standard deviation of grey; less is blank")
    grayscale: bool | None = Field(default=None, description="whether grey images are welcome")
    nsfw: Literal["off", "record", "reject"] | None = Field(default=None, description="score exposed bodies; needs nudenet")
    nsfw_limit: float | None = Field(default=None, gt=0, le=1, description="the score from which `reject` refuses")


class Match(_Table):
    """Take those images whose size, aspect and subjects are nearest to what the generators of the category draw."""

    generators: list[str] = Field(default_factory=list, description="which ones; all of the category without it")
    candidates: int = Field(default=4, ge=2, le=64, description="images looked at for each one wanted")
    text: str = Field(
        default="tfidf", min_length=1, description="tfidf, off, a folder with a transformers text model, or owner/name@commit"
    )
    subject: float = Field(default=1.0, ge=0, le=100, description="weight of the subject beside size and aspect")


def _short_match(value: Any) -> Any:
    """`true`, a generator's name or a list of names in place of the table."""
    if value is True:
        return {}
    if value is False:
        return None
    return {"generators": [value]} if isinstance(value, str) else {"generators": value} if isinstance(value, list) else value


MatchField = Annotated[Match | None, BeforeValidator(_short_match)]
Strata = Literal["even"] | dict[str, Annotated[int, Field(ge=1)]]
"""`even`: the count is spread over what the source lists; or how many of each stratum."""


def check_quota(count: int | None, category: str | None, match: Match | None, strata: Strata | None) -> None:
    """Raises `ValueError` where what an entry says of how many images it wants does not fit together."""
    if match is not None and (count is None or category is None):
        raise ValueError("match needs `category` and `count`: it takes the best `count` of several times as many")
    if match is not None and strata is not None:
        raise ValueError("match and strata exclude each other: one follows the generators, the other the source")
    if strata == "even" and count is None:
        raise ValueError('strata = "even" needs `count`, which it spreads')
    if isinstance(strata, dict) and count not in (None, sum(strata.values())):
        raise ValueError(f"count = {count}, but the strata sum to {sum(strata.values())}: leave `count` out")


GUARD = Guard(ai_metadata=True, undated="keep", watermark="off", faces="off")
SCREENING = Screening(min_side=0, max_aspect=0.0, min_contrast=0.0, grayscale=True, nsfw="off", nsfw_limit=0.5)

Table = TypeVar("Table", Guard, Screening)


def merged(*layers: Table | None) -> Table:
    """One table of several: what a later one states takes the place of what an earlier one does."""
    tables = [layer for layer in layers if layer is not None]
    stated = {key: value for table in tables for key, value in table.model_dump(exclude_none=True).items()}
    return type(tables[0]).model_validate(stated)
