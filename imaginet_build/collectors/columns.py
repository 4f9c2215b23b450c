"""What the row beside an image says of it: a data set's columns, or what stands in a WebDataset sample beside the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imaginet_build.errors import UsageError
from imaginet_build.records import ORIGINS, Found, Origin, Refusal

LABEL_WORDS: dict[str, Origin] = {
    "real": "real", "0_real": "real", "nature": "real", "synthetic": "synthetic", "fake": "synthetic", "1_fake": "synthetic",
    "ai": "synthetic",
}  # fmt: skip
"""Class names that say what they are where `labels` is silent."""

Row = Mapping[str, Any]
Names = Mapping[str, list[str]]
"""Column -> class names, for columns that hold class numbers."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a row means what. `who` is what messages call the source.

    `label`: a class whose name `labels` maps to `real`, `synthetic` or a generator; `origin` says what every image is, unless
    labels do. `caption` becomes the prompt; `group`, `generator`, `category`, `licence`, `stratum` and `date` are taken as
    words; `categories` maps a data set's own words for content types to ours. Raises `UsageError` where these contradict.
    """

    who: str
    origin: Origin | None = None
    label: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    caption: str | None = None
    group: str | None = None
    generator: str | None = None
    category: str | None = None
    categories: Mapping[str, str] = field(default_factory=dict)
    licence: str | None = None
    stratum: str | None = None
    date: str | None = None

    def __post_init__(self) -> None:
        if self.origin not in (None, *ORIGINS):
            raise UsageError(f"{self.who}: origin = {self.origin!r}: it is one of {', '.join(ORIGINS)}")
        if self.labels and self.label is None:
            raise UsageError(f"{self.who}: `labels` maps class names, but `label` names no column")
        other = {"real": {*self.labels.values()} - {"real"}, "synthetic": {*self.labels.values()} & {"real"}}
        if self.origin is not None and other[self.origin]:
            raise UsageError(
                f"{self.who}: origin = {self.origin!r}, but `labels` says {', '.join(sorted(other[self.origin]))}: "
                "leave `origin` out where labels decide"
            )

    def named(self) -> dict[str, str]:
        """Key of the card -> column, for every column that is asked for."""
        asked = {
            "label": self.label, "caption": self.caption, "group": self.group, "generator_column": self.generator,
            "category_column": self.category, "licence_column": self.licence, "stratum": self.stratum, "date": self.date,
        }  # fmt: skip
        return {key: column for key, column in asked.items() if column is not None}

    def described(self, row: Row, name: str, names: Names, category: str | None) -> Found | Refusal:
        """What a row says of its image, `data` still empty; `category` is what it is where the row does not say."""
        origin, generator = self.origin, None
        if self.label is not None:
            word = text(row, self.label, names)
            meaning = self.labels.get(word or "")
            if meaning is None and not (self.labels and self.origin):
                meaning = LABEL_WORDS.get((word or "").lower()) or (word if self.origin == "synthetic" else None)
            if meaning is None or (self.origin is not None and meaning in ORIGINS and meaning != self.origin):
                return Refusal("unknown-label", f"{self.label} says {word!r}: name it in `labels`", name)
            origin = "real" if meaning == "real" else "synthetic"
            generator = None if meaning in ORIGINS else meaning
        said = self.category_of(row, names, category)
        if isinstance(said, Refusal):
            return Refusal(said.reason, said.detail, name)
        return Found(
            source_key=name,
            data=b"",
            origin=origin,
            category=said,
            generator=(generator or text(row, self.generator, names)) if origin == "synthetic" else None,
            licence=text(row, self.licence, names),
            group=text(row, self.group, names),
            prompt=text(row, self.caption, names),
            stratum=text(row, self.stratum, names),
            date=text(row, self.date, names),
        )

    def category_of(self, row: Row, names: Names, category: str | None) -> str | Refusal | None:
        """The content type a row states, in our words; `category` where it states none."""
        said = text(row, self.category, names)
        if said is None:
            return category
        ours = self.categories.get(said, None if self.categories else said.lower())
        return ours if ours is not None else Refusal("unknown-category", f"{self.category} says {said!r}")


def text(row: Row, column: str | None, names: Names) -> str | None:
    """A column's value in words; None where there is none (a class label of -1 is one that was never given)."""
    value = None if column is None else row.get(column)
    if isinstance(value, int) and (known := names.get(column or "")):
        return known[value] if 0 <= value < len(known) else None
    return None if value is None or value == "" else str(value)
