"""Collectors: hands that fetch images that exist already. Each knows one kind of place, and nothing of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from imaginet_build.records import Found, Refusal, Want


class Collector(Protocol):
    """What every collector offers. Built from a source card, whose free keys are the constructor's keywords."""

    def find(self, want: Want) -> Iterator[Found | Refusal]:
        """What there is of `want`, in an order that depends on the source and `want.seed` alone.

        A `source_key` in `want.have` is here already and need not be fetched or delivered again. What cannot be delivered is a
        `Refusal` with its `source_key`, never an exception and never nothing. Where `want.stratum` is set, only images of
        that stratum are of use.
        """
        ...

    # A collector may name, in a class variable `HOW`, those of its options that change how images are fetched and not which:
    # they are no part of an image's id.
    #
    # A collector that can list what it has without fetching may also offer
    #     strata(self, want: Want) -> Mapping[str, int]
    # the strata of `want.category` with the number of images listed in each. Quotas can then be spread over them evenly.
