"""Collectors for tests, found through cards in the working directory: a list of small pictures, some links dead, some wild."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pictures import jpeg, png, write

from imaginet_build.records import Found, Refusal, Want, make_id

CARD = 'adapter = "listed:{name}"\nlicence = "CC0-1.0"\nrevision = "1"\norigin = "real"\n'


def cards(place: Path) -> None:
    """Cards for the collectors of this module, to be used with `--trust-adapters`."""
    for name in ("Listed", "Wild", "Captioned"):
        write(place / "manifests" / "sources" / f"{name.lower()}.toml", CARD.format(name=name))


class Listed:
    """`count` pictures, the n-th in stratum `s{n % strata}`; those whose number is in `dead` are links to nothing.

    `filters`: whether it leaves other strata out itself. `log`: a file that gets a line for every picture delivered.
    """

    def __init__(
        self, count: int, dead: Sequence[int] = (), strata: int = 1, filters: bool = True, log: str | None = None
    ) -> None:
        self.count, self.dead, self.parts, self.filters, self.log = count, frozenset(dead), strata, filters, log

    def find(self, want: Want) -> Iterator[Found | Refusal]:
        for number in sorted(range(self.count), key=lambda n: make_id(want.seed, n)):
            stratum = f"s{number % self.parts}"
            key = f"{stratum}/{number:04}.png"
            if key in want.have or (self.filters and want.stratum not in (None, stratum)):
                continue
            if number in self.dead:
                yield Refusal("dead-link", "404 Not Found", key, stratum)
                continue
            if self.log:
                with Path(self.log).open("a") as file:
                    print(key, file=file)
            yield Found(key, png(number, 12, 12), category="photos", stratum=stratum)

    def strata(self, want: Want) -> dict[str, int]:
        return dict(Counter(f"s{n % self.parts}" for n in range(self.count)))


class Captioned:
    """`count` pictures whose size and caption follow their number: a source with many sizes and subjects."""

    def __init__(self, sizes: Sequence[tuple[int, int]], captions: Sequence[str], count: int, captioned: bool = True) -> None:
        self.sizes, self.captions, self.count, self.captioned = sizes, captions, count, captioned

    def find(self, want: Want) -> Iterator[Found | Refusal]:
        for number in sorted(range(self.count), key=lambda n: make_id(want.seed, n)):
            key = f"{number:04}.jpg"
            if key in want.have:
                continue
            if number % 11 == 3:
                yield Refusal("dead-link", "410 Gone", key)
                continue
            width, height = self.sizes[number % len(self.sizes)]
            caption = self.captions[number // len(self.sizes) % len(self.captions)] if self.captioned else None
            yield Found(key, jpeg(number, width, height), category="photos", prompt=caption)


class Wild:
    """Answers that no collector should give, `honest` good pictures among them; `raises` after so many answers."""

    def __init__(self, honest: int = 5, raises: int | None = None, error: str = "the wire was cut") -> None:
        self.honest, self.raises, self.error = honest, raises, error

    def find(self, want: Want) -> Iterator[Any]:
        for number, answer in enumerate(self._answers()):
            if number == self.raises:
                raise OSError(self.error)
            if getattr(answer, "source_key", None) not in want.have or not isinstance(answer, Found):
                yield answer

    def _answers(self) -> Iterator[Any]:
        for number in range(self.honest):
            yield Found(f"good/{number}.png", png(number, 12, 12))
        data = png("wild", 12, 12)
        digest = hashlib.sha256(data).hexdigest()
        yield Found("true.png", data, sha256=digest.upper())
        yield Found("liar.png", png("liar", 12, 12), sha256="0" * 64)
        yield Found("good/0.png", png("again", 12, 12))
        yield Found("good/0.png", png("and again", 12, 12))
        yield None
        yield "a picture"
        yield Found("", png("nameless", 12, 12))
        yield Found("text.png", "no bytes")  # type: ignore[arg-type]
        yield Found("number.png", data, licence=5)  # type: ignore[arg-type]
        yield Found("bro\udcffken.png", png("surrogate", 12, 12), prompt="caf\udce9")
        yield Found("martian.png", data, category="martians")
        yield Found("painting.png", data, category="paintings")
        yield Found("neither.png", data, origin="imagined")  # type: ignore[arg-type]
        yield Refusal("", "", "unreasoned.png")
        yield Refusal("gone", "no name")
        yield Found("empty.png", b"")


REASONS: Mapping[str, str] = {
    "liar.png": "checksum",
    "good/0.png#2": "listed-twice",
    "good/0.png#3": "listed-twice",
    "text.png": "bad-answer",
    "number.png": "bad-answer",
    "martian.png": "unknown-category",
    "painting.png": "other-category",
    "neither.png": "unknown-origin",
    "unreasoned.png": "refused",
    "empty.png": "empty",
}
"""What becomes of those answers of `Wild` that have a name."""
