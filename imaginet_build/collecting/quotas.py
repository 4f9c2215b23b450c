"""The quotas of a recipe's `[[collect]]` entries: one for each entry, or for each of its strata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imaginet_build.collecting.arrival import Terms
from imaginet_build.errors import UsageError
from imaginet_build.recipe import Collect
from imaginet_build.records import Want, make_id

if TYPE_CHECKING:
    from imaginet_build.collectors import Collector


@dataclass(frozen=True, slots=True)
class Stream:
    """One quota of one source: `count` images of a category and a stratum (None: all there are).

    `full`: what the recipe asks for, where a limit makes `count` less for this call; None for all there are.
    """

    want: Collect
    terms: Terms
    collector: Collector
    stratum: str | None
    count: int | None
    full: int | None = None

    @property
    def name(self) -> str:
        """The stream's name in the ledger; where its files lie and how many are wanted is no part of it."""
        return make_id("stream", self.terms.source, self.terms.scope, self.want.category, self.stratum)

    @property
    def title(self) -> str:
        """The stream's name for people."""
        return self.terms.source if self.stratum is None else f"{self.terms.source}, {self.stratum}"


def limited(want: Collect, limit: int | None) -> Collect:
    """The entry as it stands for a call that takes at most `limit` of it."""
    return want if limit is None else want.model_copy(update={"count": min(limit, want.quota or limit)})


def streams(entry: Collect, terms: Terms, collector: Collector, seed: int, limit: int | None = None) -> list[Stream]:
    """The quotas of one entry. Raises `UsageError` where the source cannot say what `even` would divide."""
    want = limited(entry, limit)
    if want.strata is None:
        return [Stream(want, terms, collector, None, want.count, entry.count)]
    listed: Mapping[str, int]
    if isinstance(want.strata, dict):
        listed = want.strata
    else:
        lists = getattr(collector, "strata", None)
        if lists is None:
            raise UsageError(
                f"{terms.source} cannot list its strata beforehand: name them, as in strata = {{cats = 50, dogs = 50}}"
            )
        listed = {name: count for name, count in lists(Want(terms.source, want.category, seed)).items() if count > 0}
        if not listed:
            raise UsageError(f"{terms.source} lists no stratum{f' of {want.category}' if want.category else ''}")
    full = dict(want.strata) if isinstance(want.strata, dict) else spread(listed, entry.count or 0, seed)
    # A limit for this call alone may be less than the strata's sum.
    shares = full if limit is None else spread(full, want.count or 0, seed)
    return [Stream(want, terms, collector, name, count, full[name]) for name, count in shares.items()]


def spread(listed: Mapping[str, int], count: int, seed: int) -> dict[str, int]:
    """`count` images over strata as evenly as what is listed allows; a hash of seed and name says who gets an odd one."""
    left = min(count, sum(listed.values()))
    level = 0
    while (open_ones := [name for name in listed if listed[name] > level]) and left >= len(open_ones):
        # As many full rounds as the smallest of the open strata can take part in.
        rounds = min(left // len(open_ones), min(listed[name] for name in open_ones) - level)
        level, left = level + rounds, left - rounds * len(open_ones)
    odd = sorted(open_ones, key=lambda name: make_id(seed, name))[:left]
    shares = {name: min(listed[name], level) + (name in odd) for name in sorted(listed)}
    return {name: share for name, share in shares.items() if share}
