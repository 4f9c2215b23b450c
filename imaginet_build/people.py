"""The rule that no prompt names a living person.

Refused are: whoever `refused` in `manifests/people.toml` lists, however the name is written (any case, accents or look-alike
letters of other alphabets, joined, spaced out, with an initial for the given name, possessive); a given name followed by a
capitalised surname, initials between them or not; initials and a surname; a capitalised word after words such as "in the style
of", "photo by" or "President", and two after "by" or a royal title. Whom `long_dead` lists may be named, also by surname alone.

The rule knows spelling, not fame: a single name, or a name in lower case, is found only where it is listed, and a name in an
alphabet other than the Latin one is not found.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError

from imaginet_build import cards, toml


class _People(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    given_names: frozenset[str]
    long_dead: list[str]
    not_surnames: frozenset[str]
    not_people: list[str] = []
    refused: list[str]


_ALIKE = str.maketrans(
    "аеорсухіјѕԁһԛԝьвнкмтАВЕЗКМНОРСТУХІЈЅԌαορνικτυχγηΑΒΕΖΗΙΚΜΝΟΡΤΥΧıłŁøØđĐ\u2018\u2019\u02bc",
    "aeopcyxijsdhqwbbhkmtABE3KMHOPCTYXIJSGaopviktuxynABEZHIKMNOPTYXilLoOdD'''",
)
"""Letters of other alphabets that look like Latin ones, and those that no accent explains."""


def plain(text: str) -> str:
    """`text` in Latin letters without accents, look-alikes and invisible characters; its case stays."""
    if text.isascii():
        return text
    parted = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).translate(_ALIKE))
    return "".join(c for c in parted if unicodedata.category(c) not in ("Mn", "Cf", "Me"))


_TOKEN = re.compile(r"[a-z0-9]+")
_GAPS = str.maketrans(dict.fromkeys("_-.,;:!?()[]{}<>'\"/\\@#*&+=|~`\u2010\u2011\u2012\u2013\u2014\u2026\u201c\u201d", " "))
_SPACED = re.compile(r"(?<![A-Za-z])[A-Za-z](?:[ ._*-][A-Za-z]){3,}(?![A-Za-z])")
_INITIAL = re.compile(r"(?<![a-z])[a-z]\.")
_GAP = r"[\W_]*(?:(?:[a-z]\.|[b-z])[\W_]+){0,2}"

_WORD = r"(?:[A-Z][A-Za-z'-]+)"
_INITIALS = r"(?:[A-Z]\.?[\s_]+|[A-Z]\.)"
_SURNAME = r"((?:(?:van|von|der|den|de|da|di|del|la|le|bin|al|ben)[\s_]+)*[A-Z][A-Za-z']+)"
_CAPITALISED = re.compile(r"(?<![A-Za-z])([A-Z][A-Za-z'-]*)")
_AFTER = re.compile(rf"[\s_]+{_INITIALS}*{_SURNAME}")
_INITIALLED = re.compile(rf"(?<![A-Za-z.])((?:[A-Z]\.\s?){{1,3}}){_SURNAME}")
_MADE = (
    "[Aa]rt|[Ww]ork|[Pp]ainting|[Pp]ainted|[Dd]rawn|[Dd]rawing|[Dd]esigned|[Ii]llustrat(?:ed|ion)|[Pp]hoto(?:graph(?:ed)?)?|"
    "[Pp]ortrait|[Dd]irected"
)
_OFFICES = r"President|Prime Minister|Chancellor|Senator|Governor|Mr\.?|Mrs\.?|Ms\.?"
_ONE = re.compile(rf"\b(?:[Ss]tyle of|(?:{_MADE}) by|[Bb]y artist|{_OFFICES})\s+({_WORD})")
_TWO = re.compile(rf"\b(?:[Bb]y|Pope|King|Queen|Prince|Princess|Sir|Dame)\s+({_WORD})(?=\s+(?:{_INITIALS})*{_SURNAME})")
_A_STYLE = re.compile(r"(?:isms?|ists?|esque|ish|ese|ian|ic|ine|oque|ance)$")
_ABBREVIATIONS = frozenset({"US", "UK", "UN", "EU", "DC", "NY", "LA", "AI", "TV", "AM", "PM", "BC", "AD", "USA"})


def people_rule() -> People:
    """The rule as `manifests/people.toml` has it. Raises `UsageError` naming every fault of that file."""
    path = cards.files("manifests")["people"]
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    try:
        people = _People.model_validate(raw)
    except ValidationError as error:
        raise cards.faulty(path, toml.describe(error, _People, raw)) from None
    return People(people)


class People:
    """Called with a text, it returns the personal name for which the text is refused, or None. See the module's docstring."""

    def __init__(self, people: _People) -> None:
        self.given = {plain(name).casefold() for name in people.given_names}
        self.nobody = {plain(name).casefold() for name in people.not_surnames}
        allowed = sorted(map(plain, [*people.long_dead, *people.not_people]), key=len, reverse=True)
        self.allowed = re.compile(rf"\b(?:{'|'.join(map(re.escape, allowed))})\b", re.IGNORECASE) if allowed else None
        self.dead = {word for name in people.long_dead for word in plain(name).casefold().split()}
        # By the word that every writing of a name holds: its last, or all of it in one.
        self.listed: dict[str, list[re.Pattern[str]]] = {}
        self.names = [_TOKEN.findall(plain(name).casefold()) for name in people.refused]
        for words in self.names:
            first = rf"(?:{words[0]}|{words[0][0]}\.)" if len(words) > 1 else words[0]
            pattern = re.compile(rf"(?<![a-z0-9]){_GAP.join([first, *words[1:]])}(?:'?s)?(?![a-z0-9])")
            for key in {words[-1], words[-1] + "s", "".join(words), "".join(words) + "s"}:
                self.listed.setdefault(key, []).append(pattern)
        self.keys = frozenset(self.listed)

    def clears(self, fragments: Iterable[str]) -> bool:
        """Whether no text put together from whole words of `fragments` can hold a listed name: then `capitalised` is enough."""
        joined = " | ".join(plain(fragment).lower() for fragment in fragments)
        words = set(joined.translate(_GAPS).split())
        letters = {word for word in words if len(word) == 1}
        if _INITIAL.search(joined) or any(set("".join(name)) <= letters for name in self.names):
            return False
        return self.keys.isdisjoint(words) or not any(
            "".join(name) in words or (name[0] in words and not words.isdisjoint((name[-1], name[-1] + "s")))
            for name in self.names
        )

    def __call__(self, text: str) -> str | None:
        """The name in `text`, or None."""
        text = plain(text)
        words = text.lower().translate(_GAPS).split()
        if len([word for word in words if len(word) == 1]) > 3:
            text = _SPACED.sub(lambda found: re.sub(r"[^A-Za-z]", "", found[0]), text)
            words = text.lower().translate(_GAPS).split()
        lower = text.lower()
        if not self.keys.isdisjoint(words):
            for pattern in (pattern for key in sorted(self.keys & set(words)) for pattern in self.listed[key]):
                if found := pattern.search(lower):
                    return text[found.start() : found.end()]
        return self.capitalised(text)

    def capitalised(self, text: str) -> str | None:
        """The name that its capital letters betray, or None."""
        if text[1:] == text[1:].lower():
            return None
        text = plain(text)
        if self.allowed:
            text = self.allowed.sub(" , ", text)
        for match in _CAPITALISED.finditer(text):
            after = _AFTER.match(text, match.end()) if match[1].casefold() in self.given else None
            if after and not self._nobody(after[1]):
                return text[match.start() : after.end()]
        for match in _INITIALLED.finditer(text):
            if (
                re.sub(r"[^A-Z]", "", match[1]) not in _ABBREVIATIONS
                and not self._nobody(match[2])
                and not self._dead(match[2])
            ):
                return match[0]
        for match in _ONE.finditer(text):
            style = _A_STYLE.search(match[1]) is not None
            if not (style or self._nobody(match[1]) or self._dead(match[1])):
                after = _AFTER.match(text, match.end())
                return match[1] + (after[0] if after and not self._nobody(after[1]) else "")
        for match in _TWO.finditer(text):
            after = _AFTER.match(text, match.end())
            if after and not (self._nobody(match[1]) or self._nobody(after[1])):
                return match[1] + after[0]
        return None

    def _nobody(self, word: str) -> bool:
        return word.casefold() in self.nobody

    def _dead(self, surname: str) -> bool:
        return surname.casefold().split()[-1] in self.dead
