"""What can go wrong on purpose: every expected failure, each with the exit code the command returns for it.

A message names the thing, the reason and the next step. Anything that is not a `BuildError` is a bug in this package.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BuildError(Exception):
    """Something could not be read, drawn or written. Exit code 1."""

    exit_code = 1


class UsageError(BuildError):
    """The call, a card or a recipe is wrong; nothing was started. Exit code 2."""

    exit_code = 2


class MissingExtra(UsageError):
    """An optional package is needed that is not installed. Exit code 2."""

    def __init__(self, who: str, package: str, extra: str) -> None:
        super().__init__(f"{who} needs {package}: pip install 'imaginet-build[{extra}]'")
        self.who, self.package, self.extra = who, package, extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str, str]]:
        return (type(self), (self.who, self.package, self.extra))


class GateRefused(BuildError):
    """The audit found that labels can be guessed without looking at the picture. Exit code 3."""

    exit_code = 3


class BadImage(BuildError):
    """An image that may not enter a data set.

    `reason` is a short stable word, such as `truncated` or `too-large`, for counting; `detail` says it in a sentence.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return (type(self), (self.reason, self.detail))


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'sdxl'?` for the nearest of `known`, or an empty string when nothing is near."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
