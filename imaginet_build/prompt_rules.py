"""What every prompt of a list keeps: no near-identical ones, and no named people (see `people`).

*Near-identical* prompts have the same content words, or, from eight content words on, all but one in common.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from imaginet_build.people import people_rule
from imaginet_build.records import Prompt, Refusal

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_STOP = frozenset(
    [
        *("a", "an", "and", "as", "at", "by", "for", "from", "her", "his", "in", "is", "its", "of", "on", "or", "over"),
        *("the", "their", "to", "under", "with"),
    ]
)
_ENOUGH_WORDS = 8


class _Hashes(dict[str, int]):
    """The hash of each word's stem, computed once; 0 for words without content."""

    def __missing__(self, word: str) -> int:
        stem = word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        number = 0 if word in _STOP else int.from_bytes(hashlib.blake2b(stem.encode(), digest_size=7).digest(), "big") | 1
        self[word] = number
        return number


class Twins:
    """Remembers prompts and tells near-identical ones: the same content words in any order, or all but one from eight on.

    Exact for that rule, in one pass: a set of words is a sum of word hashes, so the set without one of its words is a
    subtraction, and two sets that differ in one word meet there.
    """

    def __init__(self) -> None:
        self._whole: set[int] = set()
        self._long: set[int] = set()  # those of enough words
        self._less: set[int] = set()
        self._hashes = _Hashes()

    def add(self, text: str) -> bool:
        """True when nothing near-identical was added before; only then is `text` remembered."""
        words = set(map(self._hashes.__getitem__, _WORD.findall(text.lower())))
        words.discard(0)
        whole = sum(words)
        if whole in self._whole:
            return False
        if len(words) >= _ENOUGH_WORDS:
            less = {whole - word for word in words}
            if whole in self._less or not self._less.isdisjoint(less) or not self._long.isdisjoint(less):
                return False
            self._less |= less
            self._long.add(whole)
        self._whole.add(whole)
        return True


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
