"""Which `[[collect]]` entry of a recipe an image came from: its id says so, for whoever knows the entry's scope."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imaginet_build import catalog
from imaginet_build.cards import Card
from imaginet_build.recipe import Collect
from imaginet_build.records import make_id

PLACES = frozenset({"root", "index"})
"""Options that say where a source lies: no part of what its images are called."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry with its card. `scope` is what tells its images' ids from those of other entries; `options`: all that decides
    which images there are and what they are called, the card's and the recipe's, without places."""

    want: Collect
    card: Card
    scope: str
    options: Mapping[str, Any]

    def id_of(self, source_key: str) -> str:
        """The id of one of its images."""
        return make_id("collect", self.card.name, self.scope, source_key)


def entries(wants: Sequence[Collect], trust: bool = False) -> list[Entry]:
    """The entries of a recipe. Those that differ only in where their folder lies would name equal paths alike: all but the
    first are numbered. Raises `UsageError` for a card that is not there or whose adapter cannot be found."""
    places: dict[tuple[str, str], list[Path]] = {}
    found = []
    for one in _plain(wants, trust):
        known = places.setdefault((one.card.name, one.scope), [])
        place = Path(str(one.want.options.get("root", ""))).resolve()
        if place not in known:
            known.append(place)
        number = known.index(place)
        found.append(replace(one, scope=f"{one.scope}#{number}") if number else one)
    return found


def _plain(wants: Sequence[Collect], trust: bool) -> Iterator[Entry]:
    for want in wants:
        card = catalog.card("sources", want.source)
        # Places are left out of the name, so that the same images have the same ids wherever the folder lies.
        # So is how they are fetched, such as how many at once (an adapter's `HOW`).
        aside = PLACES | getattr(catalog.adapter(card, trust=trust), "HOW", frozenset[str]())
        options = {key: value for key, value in {**card.options, **want.options}.items() if key not in aside}
        yield Entry(want, card, json.dumps(options, sort_keys=True, default=str), options)


class Origins:
    """Whose image is whose."""

    def __init__(self, known: Sequence[Entry]) -> None:
        self._entries = list(known)

    def of(self, name: str, source_key: str) -> Entry | None:
        """The entry whose image `source_key` has the id `name`; None where the recipe has no such entry any more."""
        for at, entry in enumerate(self._entries):
            if entry.id_of(source_key) == name:
                # Images of one entry come in rows: the next is likely of the same.
                self._entries.insert(0, self._entries.pop(at))
                return entry
        return None
