"""The two rules every prompt keeps: no near-identical ones, and no named people.

*Near-identical* prompts have the same content words, or, from eight content words on, all but one in common. *Named people*
are refused: a given name followed by a capitalised surname; two capitalised words after `by`, `style of` or a title; and
whoever `refused` lists in `manifests/people.toml`. Whom that file lists as long dead may be named. The rule knows spelling,
not fame: it misses single names and names in lower case.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from imaginet_build import cards, toml
from imaginet_build.records import Prompt, Refusal

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_STOP = {
    "a",
    "an",
    "and",
    "as",
    "at",
    "by",
    "for",
    "from",
    "her",
    "his",
    "in",
    "is",
    "its",
    "of",
    "on",
    "or",
    "over",
    "the",
    "their",
}
_STOP |= {"to", "under", "with"}
_ENOUGH_WORDS = 8


class Twins:
    """Remembers prompts and tells near-identical ones: the same content words in any order, or all but one from eight on.

    Exact for that rule, in one pass: a set of words is a sum of word hashes, so the set without one of its words is a
    subtraction, and two sets that differ in one word meet there.
    """

    def __init__(self) -> None:
        self._whole: set[int] = set()
        self._less: set[int] = set()
        self._hashes: dict[str, int] = {}

    def add(self, text: str) -> bool:
        """True when nothing near-identical was added before; only then is `text` remembered."""
        hashes = self._hashes
        words = {hashes[word] if word in hashes else self._hash(word) for word in _WORD.findall(text.lower())}
        words.discard(0)
        whole = sum(words)
        if whole in self._whole:
            return False
        if len(words) >= _ENOUGH_WORDS:
            less = {whole - word for word in words}
            if whole in self._less or not self._less.isdisjoint(less) or not self._whole.isdisjoint(less):
                return False
            self._less |= less
        self._whole.add(whole)
        return True

    def _hash(self, word: str) -> int:
        stem = word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        number = 0 if word in _STOP else int.from_bytes(hashlib.blake2b(stem.encode(), digest_size=7).digest(), "big") | 1
        self._hashes[word] = number
        return number


class _People(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    given_names: frozenset[str]
    long_dead: list[str]
    not_surnames: frozenset[str]
    refused: list[str]


_CAPITALISED = re.compile(r"\b([^\W\d_a-z][\w'\u2019-]*)")
_INTRODUCED = re.compile(
    r"\b(?:[Bb]y|[Ss]tyle of|President|Prime Minister|Chancellor|Senator|Pope|King|Queen|Prince|Princess|Sir|Dame)"
    r"\s+([^\W\d_a-z][^\W\d_]+)"
)
_NAME = re.compile(r"\s+((?:(?:van|von|der|den|de|da|di|del|la|le|bin|al|ben)\s+)*[^\W\d_a-z][^\W\d_]+)")


def people_rule() -> Callable[[str], str | None]:
    """A function that returns the personal name in a text that makes it refused, or None. See the module's docstring."""
    path = cards.files("manifests")["people"]
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    try:
        people = _People.model_validate(raw)
    except ValidationError as error:
        raise cards.faulty(path, toml.describe(error, _People, raw)) from None
    given = people.given_names
    dead = [re.compile(rf"\b{re.escape(name)}\b") for name in people.long_dead]
    refused = [re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE) for name in people.refused]

    def named(text: str) -> str | None:
        for pattern in refused:
            if match := pattern.search(text):
                return match[0]
        if text[:1].islower() and text.islower():
            return None
        if given.isdisjoint(_CAPITALISED.findall(text)) and not _INTRODUCED.search(text):
            return None
        for pattern in dead:
            text = pattern.sub("", text)
        found = [(m, _NAME.match(text, m.end())) for m in _CAPITALISED.finditer(text) if m[0] in given]
        found += [(m, _NAME.match(text, m.end())) for m in _INTRODUCED.finditer(text)]
        for match, after in found:
            if after and after[1] not in people.not_surnames:
                return match[1] + text[match.end() : after.end()]
        return None

    return named


@dataclass(frozen=True, slots=True)
class Screened:
    """Prompts that may be drawn, in their order, and those that may not: `empty`, `near-identical` or `named-person`."""

    kept: list[Prompt]
    refused: list[tuple[Prompt, Refusal]]


def screen(prompts: Iterable[Prompt]) -> Screened:
    """Apply both rules to a list. Of near-identical prompts the first is kept; nothing is dropped without a reason."""
    seen, people = Twins(), people_rule()
    kept: list[Prompt] = []
    refused: list[tuple[Prompt, Refusal]] = []
    for prompt in prompts:
        if not prompt.text.strip():
            refused.append((prompt, Refusal("empty", "there is no text")))
        elif name := people(prompt.text):
            refused.append((prompt, Refusal("named-person", f"it names {name}")))
        elif not seen.add(prompt.text):
            refused.append((prompt, Refusal("near-identical", "an earlier prompt has the same words, all but one at most")))
        else:
            kept.append(prompt)
    return Screened(kept, refused)
