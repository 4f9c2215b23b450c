"""What a list of URLs says of its images, row by row: what may be fetched, what is refused, and under which name."""

from __future__ import annotations

import base64
import binascii
import itertools
import re
import sqlite3
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from imaginet_build.collectors import listfiles
from imaginet_build.collectors.addresses import Unwelcome, Url, parse
from imaginet_build.errors import UsageError
from imaginet_build.records import ORIGINS, Found, Origin, Refusal, Want, seed_of

MAX_NAME = 1024
"""Characters of a key."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One row that can be fetched: what the list says of its image (`data` is empty) and where it lies."""

    found: Found
    url: Url
    md5: str | None = None
    etag: str | None = None


class UrlList:
    """The rows of a list. `columns`: field of `NAMES` -> the list's own name for it ('' for none of them).

    `origin` and `category` are what every image is where no column says; `categories` maps a list's words for content types to
    ours. Raises `UsageError`: no such file, an unknown form, a column that is not there.
    """

    def __init__(
        self,
        root: str,
        columns: Mapping[str, str | None],
        origin: Origin | None = None,
        category: str | None = None,
        categories: Mapping[str, str] | None = None,
    ) -> None:
        self.root = Path(root)
        self.files = listfiles.files(self.root)
        self.origin, self.category, self.categories = origin, category, dict(categories or {})
        self.columns = [(path, listfiles.columns(path, columns)) for path in self.files]
        first = self.columns[0][1]
        if origin not in (None, *ORIGINS):
            raise UsageError(f"origin = {origin!r}: it is one of {', '.join(ORIGINS)}")
        if origin is None and "origin" not in first:
            raise UsageError(f'{root}: say what its images are: origin = "real" or "synthetic", or a column `origin`')

    # --- rows ----------------------------------------------------------------------------------------------------------

    def rows(self, want: Want) -> Generator[Listed | Refusal]:
        """The rows that are wanted, in the list's order."""
        if want.stratum is not None:
            self._need_strata()
        with closing(_Seen()) as seen:
            for number, row in self._read(want.stratum):
                if isinstance(row, Refusal):
                    if row.source_key not in want.have:
                        yield row
                    continue
                key = row.found.source_key
                new = seen.add(key)
                name = key if new else f"{key}#{number}"
                if name in want.have:
                    continue
                if not new:
                    yield Refusal("listed-twice", f"row {number} of {self.root.name}", name)
                elif _is_wanted(row.found, want):
                    yield row

    def strata(self, want: Want) -> dict[str, int]:
        """The strata of `want.category`, with the number of rows in each; nothing is fetched."""
        self._need_strata()
        counts: Counter[str] = Counter()
        for _, row in self._read():
            if isinstance(row, Listed) and row.found.stratum is not None and _is_wanted(row.found, want):
                counts[row.found.stratum] += 1
        return dict(sorted(counts.items()))

    def _need_strata(self) -> None:
        if not any("stratum" in columns for _, columns in self.columns):
            raise UsageError(f"{self.root} has no column 'stratum': name the one that divides it with the option `stratum`")

    def _read(self, stratum: str | None = None) -> Iterator[tuple[int, Listed | Refusal]]:
        """The rows with their numbers; those of other strata are passed over before anything is made of them."""
        rows = itertools.count(1)
        for path, columns in self.columns:
            for number, cells in listfiles.cells(path, columns):
                place = f"{path.name}#{number}"
                if isinstance(cells, Refusal):
                    yield next(rows), Refusal(cells.reason, f"{place}: {cells.detail}", place)
                else:
                    row = next(rows)
                    if stratum is None or (cells.get("stratum") or "").strip() == stratum:
                        yield row, self._listed(cells, place)

    def _listed(self, cells: listfiles.Cells, place: str) -> Listed | Refusal:
        """What one row says; a row that cannot be used is refused under its key, else under its place in the list."""
        if any(value and not _is_text(value) for value in cells.values()):
            return Refusal("not-utf8", f"{place} holds bytes that are no UTF-8", place)
        cells = {field: value.strip() if value else None for field, value in cells.items()}
        text = cells.get("url")
        if not text:
            return Refusal("no-url", f"{place} has no URL", place)
        name = cells.get("key") or place
        try:
            url = parse(text)
        except Unwelcome as error:
            return Refusal(error.reason, f"{place}: {error.detail}", name)
        if len(name) > MAX_NAME:
            return Refusal("bad-key", f"{place}: its key has {len(name):,} characters, more than {MAX_NAME:,}", place)
        key = cells.get("key") or text.partition("#")[0]
        origin = (cells.get("origin") or self.origin or "").lower()
        if origin not in ORIGINS:
            return Refusal("unknown-origin", f"{place} says {origin[:40]!r}", key)
        said = cells.get("category")
        category = self.category if said is None else self.categories.get(said, None if self.categories else said.lower())
        if said is not None and category is None:
            return Refusal("unknown-category", f"{place} says {said[:60]!r}: name it in `categories`", key)
        cells["md5"] = _in_hexadecimal(cells.get("md5"))
        for field, digits in (("sha256", 64), ("md5", 32)):
            if cells.get(field) and not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", cells[field] or ""):
                return Refusal("bad-checksum", f"{place}: its {field} is no {digits} hexadecimal digits", key)
        found = Found(
            source_key=key,
            data=b"",
            origin="real" if origin == "real" else "synthetic",
            category=category,
            generator=cells.get("generator") if origin == "synthetic" else None,
            source=cells.get("source"),
            licence=cells.get("licence"),
            group=cells.get("group"),
            prompt=cells.get("caption"),
            sha256=cells.get("sha256"),
            stratum=cells.get("stratum"),
            date=cells.get("date"),
        )
        return Listed(found, url, cells.get("md5"), cells.get("etag"))


def _in_hexadecimal(md5: str | None) -> str | None:
    """An MD5 in hexadecimal digits, that of Open Images' and Google's lists too, which is written in base64."""
    try:
        return base64.b64decode(md5, validate=True).hex() if md5 and len(md5) == 24 else md5
    except binascii.Error:
        return md5


def _is_wanted(found: Found, want: Want) -> bool:
    return want.category in (None, found.category or want.category) and want.stratum in (None, found.stratum)


def _is_text(value: str) -> bool:
    """Whether it can be written down: bytes that were no UTF-8 are kept as lone surrogates until here."""
    if value.isascii():
        return "\0" not in value
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


class _Seen:
    """A set of names that lies on disk once it is large (SQLite's temporary data base), so that memory stays bounded."""

    def __init__(self) -> None:
        self.base = sqlite3.connect("", isolation_level=None)
        self.base.execute("PRAGMA cache_size = -8192")
        self.base.execute("CREATE TABLE seen (name INTEGER PRIMARY KEY)")
        self.base.execute("BEGIN")

    def add(self, name: str) -> bool:
        """Whether it is new. 63 bits of SHA-256: among ten million names two are mistaken once in 200,000 lists."""
        return self.base.execute("INSERT OR IGNORE INTO seen VALUES (?)", (seed_of(name, "listed"),)).rowcount == 1

    def close(self) -> None:
        self.base.close()
