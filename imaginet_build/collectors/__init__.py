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
        `Refusal` with its `source_key`, never an exception and never nothing.
        """
        ...
