"""Licences as SPDX writes them, and what each allows.

Names and categories are those of the ScanCode LicenseDB that the library `license-expression` carries: every SPDX licence and
two thousand others. What it does not know becomes a `LicenseRef-` of its own words, and nothing is known of it.

SPDX licence expressions: https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from license_expression import Licensing

NOT_STATED = "LicenseRef-not-stated"

OPEN = frozenset({"Permissive", "Public Domain", "Copyleft", "Copyleft Limited"})
"""Categories of the LicenseDB whose licences let anybody pass a work on, changed or not, and earn money with it."""

_UNSAID = frozenset({"", "-", "?", "n/a", "na", "nan", "none", "null", "other", "unknown", "noassertion"})
_FILLING = re.compile(r"\b(the|international|unported|generic|deed|legal ?code|licen[cs]e|version)\b", re.IGNORECASE)
_COMMONS = re.compile(
    r"(?:https?://)?(?:www\.)?creativecommons\.org/(licenses|publicdomain)/([a-z+-]+)/(\d\.\d)(?:/([a-z]{2,3}))?"
    r"(?:/(?:deed|legalcode)[\w.-]*)?/?(?:[?#]\S*)?",
    re.IGNORECASE,
)
_LISTED = re.compile(
    r"^(?:https?://)?(?:www\.)?(?:spdx\.org/licenses|opensource\.org/licenses?)/([\w.+-]+?)(?:\.html)?/?$", re.IGNORECASE
)
_LONGEST = 100
_MOST = 500
"""Letters of an expression; what is longer is a text, and its own licence."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What may be done with an image: pass its pixels on, and use it commercially. None: not known, which counts as no."""

    redistribute: bool | None = None
    commercial: bool | None = None

    def __and__(self, other: Rights) -> Rights:
        """What both allow: of two works that are in one."""
        return Rights(_both(self.redistribute, other.redistribute), _both(self.commercial, other.commercial))

    def __or__(self, other: Rights) -> Rights:
        """What either allows: of two licences to choose from."""
        return Rights(_either(self.redistribute, other.redistribute), _either(self.commercial, other.commercial))

    def permits(self, only: str) -> bool:
        """Whether an image may stand in a release that holds `only` what is `redistributable` or `commercial`.

        What is to be used commercially must be allowed to reach its user, so `commercial` asks for both.
        """
        return self.redistribute is True and (only != "commercial" or self.commercial is True)


def _both(a: bool | None, b: bool | None) -> bool | None:
    return False if a is False or b is False else None if a is None or b is None else True


def _either(a: bool | None, b: bool | None) -> bool | None:
    return True if a is True or b is True else None if a is None or b is None else False


@functools.lru_cache(maxsize=4096)
def spdx(text: str | None) -> str:
    """What a source calls its licence, as an SPDX expression.

    Understood are SPDX expressions in any case, names written with other marks (`cc by 2.0`, `Apache 2.0`), and the
    addresses of Creative Commons, SPDX and the OSI. Anything else is a `LicenseRef-` of its own words, and nothing at all
    `LicenseRef-not-stated`.
    """
    words = " ".join((text or "").split())
    if words.lower() in _UNSAID:
        return NOT_STATED
    if len(words) > _MOST or words.count("(") != words.count(")"):
        return _reference(words)  # what was cut off may have said more
    known = _address(words) or _expression(words) or _by_letters(words)
    return known if known and len(known) <= _MOST else _reference(words)


def _address(words: str) -> str | None:
    if found := _COMMONS.fullmatch(words):
        part, code, version, country = found.groups()
        if part.lower() == "publicdomain":
            name = {"zero": f"CC0-{version}", "mark": f"CC-PDM-{version}"}.get(code.lower())
        else:
            name = f"CC-{code}-{version}" + (f"-{country}" if country else "")
        return _known().get(_letters(name)) if name else None
    found = _LISTED.match(words)
    return _known().get(_letters(found[1])) if found else None


def _expression(words: str) -> str | None:
    """An expression whose every licence is known, or is a `LicenseRef-` already."""
    from license_expression import ExpressionError, ExpressionParseError

    try:
        parsed = _licensing().parse(words)
    except (ExpressionError, ExpressionParseError, IndexError, RecursionError):  # the last two: empty and deep parentheses
        return None
    if parsed is None:
        return None
    names = {key: _leaf(key) for key in _licensing().license_keys(parsed)}
    if None in names.values():
        return None
    renamed = parsed.subs({_symbol(key): _symbol(name) for key, name in names.items() if name and key != name})
    return str(renamed.render())


def _leaf(name: str) -> str | None:
    if name in _licensing().known_symbols:
        return name
    return _known().get(_letters(name)) or (name if re.fullmatch(r"LicenseRef-[A-Za-z0-9.-]+", name) else None)


def _by_letters(words: str) -> str | None:
    """By letters and digits alone; then without the words that only fill a licence's long name."""
    return _known().get(_letters(words)) or _known().get(_letters(_FILLING.sub("", words)))


def _reference(words: str) -> str:
    """The words as a `LicenseRef-`, told apart where letters are lost or cut off, or where another licence has that name."""
    own = words.removeprefix("LicenseRef-").replace("+", "-plus")
    name = re.sub(r"[^A-Za-z0-9.]+", "-", own).strip("-.")
    taken = bool(name) and _expression(f"LicenseRef-{name}") != f"LicenseRef-{name}"
    if len(name) > _LONGEST or not name or not own.isascii() or taken:
        name = f"{name[:_LONGEST]}-{hashlib.sha256(words.encode('utf-8', 'replace')).hexdigest()[:8]}".strip("-")
    return f"LicenseRef-{name}"


def joined(one: str, other: str) -> str:
    """The expression of a work that holds two others, such as a picture made from a photograph: both licences bind it."""
    if one == other:
        return one
    licensing = _licensing()
    return str(licensing.AND(licensing.parse(one), licensing.parse(other)).simplify().render())


@functools.lru_cache(maxsize=4096)
def rights_of(expression: str) -> Rights:
    """What an SPDX expression allows, by the category of each of its licences; Creative Commons by the letters of its name.

    A licence without derivatives (ND) allows no crop and no new encoding to be passed on, and a release holds both.
    """
    return _rights(_licensing().parse(expression))


def _rights(node: Any) -> Rights:
    licensing = _licensing()
    if isinstance(node, licensing.AND):
        return functools.reduce(Rights.__and__, map(_rights, node.args))
    if isinstance(node, licensing.OR):
        return functools.reduce(Rights.__or__, map(_rights, node.args))
    if exception := getattr(node, "exception_symbol", None):
        rights = _rights(node.license_symbol)
        return rights if _exceptions().get(exception.key) in OPEN else rights & Rights()
    key = node.key
    if re.match(r"(?:LicenseRef-scancode-)?CC-BY", key, re.IGNORECASE):
        marks = key.upper().split("-")
        return Rights("ND" not in marks, "NC" not in marks)
    return Rights(True, True) if _entry(key).get("category") in OPEN else Rights()


def page_of(name: str) -> str:
    """Where the text of one licence is to be read; '' for what only its source knows."""
    if not _entry(name):
        return ""
    if name.startswith("LicenseRef-scancode-"):
        return f"https://scancode-licensedb.aboutcode.org/{_entry(name)['license_key']}.html"
    return f"https://spdx.org/licenses/{name}.html"


def names_in(expression: str) -> list[str]:
    """The licences an expression is made of."""
    return list(dict.fromkeys(map(str, _licensing().license_keys(_licensing().parse(expression)))))


def told(expression: str, cards: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What a reader is told of a licence: `pages`, each licence in it with the address of its text; `redistribute` and
    `commercial`: yes, no or not known. `cards`: what the cards behind a release state (licence, licence_url, redistribute,
    commercial), for licences of their own."""
    own = {spdx(card["licence"]): card for card in cards}
    pages = [(name, page_of(name) or own.get(name, {}).get("licence_url") or "") for name in names_in(expression)]
    by_licence, card = rights_of(expression), own.get(expression, {})
    words = {True: "yes", False: "no", None: "not known"}
    found: dict[str, Any] = {"pages": pages}
    for what, allowed in (("redistribute", by_licence.redistribute), ("commercial", by_licence.commercial)):
        said = card.get(what)
        found[what] = words[False if False in (said, allowed) else said if allowed is None else allowed]
    return found


# --- the LicenseDB ----------------------------------------------------------------------------------------------------


@functools.cache
def _licensing() -> Licensing:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def _symbol(key: str) -> Any:
    from license_expression import LicenseSymbol

    return _licensing().known_symbols.get(key) or LicenseSymbol(key)


@functools.cache
def _index() -> dict[str, dict[str, Any]]:
    from license_expression import get_license_index

    return {
        entry["spdx_license_key"]: entry
        for entry in get_license_index()
        if entry.get("spdx_license_key") and not entry["is_deprecated"] and not entry["is_exception"]
    }


@functools.cache
def _exceptions() -> dict[str, str]:
    """What may stand behind `WITH`, and its category: most give more, and a few take away."""
    from license_expression import get_license_index

    return {e["spdx_license_key"]: e["category"] for e in get_license_index() if e["is_exception"] and e["spdx_license_key"]}


def _entry(name: str) -> dict[str, Any]:
    return _index().get(name, {})


@functools.cache
def _known() -> dict[str, str]:
    """Letters and digits of every name a licence goes by -> its SPDX key; names that mean two licences are left out."""
    names = set()
    for key, entry in _index().items():
        own = entry["license_key"]
        # Of SPDX's own licences a bare word may mean another one: `attribution` is not what Flickr means by it.
        plain = key.startswith("LicenseRef-") or any(letter.isdigit() for letter in own)
        names |= {(_letters(name), key) for name in (key, *entry.get("other_spdx_license_keys", ()), *[own] * plain)}
    meanings = Counter(letters for letters, _ in names)
    return {letters: key for letters, key in names if meanings[letters] == 1} | {"cc0": "CC0-1.0", "pdm": "CC-PDM-1.0"}


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9+]+", "", name.lower())
