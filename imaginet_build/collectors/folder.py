"""Images in a folder: a plain tree, or a tree with an index that says what each file is."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from imaginet_build.collectors import listfiles
from imaginet_build.errors import BadImage, UsageError, suggest
from imaginet_build.imagefiles import containers
from imaginet_build.records import EXTENSIONS, ORIGINS, Found, Origin, Refusal, Want, make_id

log = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**20
"""A larger file is refused unread."""

_NEXT = 'Say where the images lie: --set root=DIR with the folders recipe, options = { root = "DIR" } in a recipe of your own.'

FOLDER_ORIGINS: dict[str, Origin] = {
    "real": "real", "0_real": "real", "nature": "real", "synthetic": "synthetic", "fake": "synthetic", "1_fake": "synthetic",
    "ai": "synthetic",
}  # fmt: skip
"""Folder names that say which class lies below them (also GenImage's and CNNDetection's)."""


class Folder:
    """A folder of images.

    With an index (a CSV with the columns path, origin, content_type, source, generator, licence; others are ignored, but
    `sha256` is checked where present, and `group`, `prompt` and `date` are kept) only listed files are taken. Without one,
    folders named real, synthetic or fake give the origin, folders named like a category the category, and the next folder below
    the source or generator. `origin` and `category` answer before folder names do; where nothing says a category, an
    image is of the one that is asked for. `stratum`: the index's column that divides the images, or `/` for the folder each
    lies in.
    """

    def __init__(
        self,
        root: str,
        index: str | None = None,
        origin: Origin | None = None,
        category: str | None = None,
        stratum: str | None = None,
        categories: tuple[str, ...] = ("photos", "paintings", "faces", "uncategorized"),
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            parent = self.root.parent
            near = suggest(self.root.name, [p.name for p in parent.iterdir() if p.is_dir()]) if parent.is_dir() else ""
            raise UsageError(f"no folder {root}{near or '.'} {_NEXT}")
        if origin not in (None, *ORIGINS):
            raise UsageError(f"origin = {origin!r}: it is one of {', '.join(ORIGINS)}")
        self.index = self.root / (index or "index.csv")
        if index is not None and not self.index.is_file():
            raise UsageError(f"no index {self.index}: leave `index` out to take the folder as it lies")
        self.origin: Origin | None = origin
        self.category = category
        self.stratum = stratum
        self.categories = frozenset(categories)

    def find(self, want: Want) -> Iterator[Found | Refusal]:
        """Every image of the folder, in an order that `want.seed` alone decides."""
        for found in sorted(self._listed(want), key=lambda item: make_id(want.seed, item.source_key)):
            if found.source_key in want.have:
                continue
            if isinstance(found, Refusal):
                yield found
            elif want.category in (None, found.category) and want.stratum in (None, found.stratum):
                yield self._read(found)

    def strata(self, want: Want) -> dict[str, int]:
        """The strata of `want.category`, with how many files are listed in each; nothing is opened."""
        if self.stratum is None:
            raise UsageError(
                f'{self.root} is not divided: give `stratum`, a column of its index, or "/" for the folder each image lies in'
            )
        found = [f for f in self._listed(want) if isinstance(f, Found) and want.category in (None, f.category)]
        return dict(Counter(f.stratum for f in found if f.stratum is not None))

    def _listed(self, want: Want) -> list[Found | Refusal]:
        """Everything there is, unread; it is said where that comes to nothing."""
        listed = list(self._indexed(want.category) if self.index.is_file() else self._lying_there(want.category))
        kinds = Counter(found.category for found in listed if isinstance(found, Found))
        if not listed and self.index.is_file():
            log.warning("%s lists no image. Fill it, or take it away to use the folder as it lies.", self.index)
        elif not listed:
            log.warning("%s: there is no image in it. %s", self.root, _NEXT)
        elif kinds and want.category is not None and want.category not in kinds and want.stratum is None:
            have = ", ".join(f"{count} of {kind}" for kind, count in sorted(kinds.items()))
            log.warning("%s: none of its images is of the category %s: it holds %s", self.root, want.category, have)
        return listed

    def _lying_there(self, asked: str | None) -> Iterator[Found | Refusal]:
        """The files by their places; `data` is filled in when one is read."""
        others: Counter[str] = Counter()
        closed: list[OSError] = []
        for folder, subfolders, names in os.walk(self.root, onerror=closed.append):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in subfolders:
                if (Path(folder) / name).is_symlink():
                    key = _printable((Path(folder) / name).relative_to(self.root).as_posix())
                    yield Refusal("linked-folder", f"{key} is a link: give the folder it leads to as a source of its own", key)
            for name in sorted(names):
                place = (Path(folder) / name).relative_to(self.root).as_posix()
                key = _printable(place)
                extension = Path(key).suffix[1:].lower()
                if name.startswith("."):
                    continue
                if extension not in EXTENSIONS and (extension or not _begins_like_an_image(Path(folder) / name)):
                    others[f".{extension}" if extension else "without an extension"] += 1
                elif key != place:
                    yield Refusal("name-not-utf8", f"{key}: rename it, its name is not UTF-8", key)
                else:
                    yield self._by_place(key, asked)
        for error in closed:
            key = _printable(os.path.relpath(error.filename, self.root))
            yield Refusal("unreadable", f"{key}: {error.strerror}", key)
        if others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
            log.info("%s: passed over files that are not images by name: %s", self.root, kinds)

    def _by_place(self, key: str, asked: str | None) -> Found:
        origin, category, rest = self.origin, self.category, []
        for place in PurePosixPath(key).parts[:-1]:
            if origin is None and place.lower() in FOLDER_ORIGINS:
                origin = FOLDER_ORIGINS[place.lower()]
            elif category is None and place.lower() in self.categories:
                category = place.lower()
            else:
                rest.append(place)
        maker = rest[0] if rest else None
        return Found(
            source_key=key,
            data=b"",
            origin=origin,
            category=category or asked or "uncategorized",
            generator=(maker or self.root.resolve().name) if origin == "synthetic" else None,
            source=maker or self.root.resolve().name,
            stratum=self._folder_of(key),
        )

    def _folder_of(self, key: str) -> str | None:
        """The name of the folder a file lies in, where that is what divides the images."""
        return (PurePosixPath(key).parent.name or ".") if self.stratum == "/" else None

    def _indexed(self, asked: str | None) -> Iterator[Found | Refusal]:
        seen: set[str] = set()
        columns: list[str] = []

        def is_row(row: list[str]) -> bool:
            places = row if not columns else [row[columns.index("path")]] if len(row) == len(columns) else []
            return any(PurePosixPath(place).suffix[1:].lower() in EXTENSIONS for place in places)

        # A broken byte in a name is a row that names a missing file, not the end of the run.
        for number, cells in listfiles.records(listfiles.lines(self.index, errors="replace"), ",", is_row):
            if not columns:
                columns = self._columns(cells)
                continue
            if isinstance(cells, Refusal):
                yield Refusal(cells.reason, f"line {number}: {cells.detail}", f"{self.index.name}#{number}")
                continue
            row = dict(zip(columns, cells, strict=False))
            key = row.get("path") or ""
            if key in seen or not key:
                reason = "listed-twice" if key else "no-path"
                yield Refusal(reason, f"line {number} of {self.index.name}", f"{key}#{number}")
                continue
            seen.add(key)
            yield self._by_row(key, row, number, asked)
        if not columns:
            self._columns([])

    def _columns(self, header: list[str] | Refusal) -> list[str]:
        """The names of the index's columns. Raises `UsageError` where they cannot be read or one that is needed is missing."""
        if isinstance(header, Refusal):
            raise UsageError(f"{self.index}: its first line should name the columns, but {header.detail}")
        missing = {"path", "origin", *({self.stratum} - {"/", None, ""})} - set(header)
        if missing:
            raise UsageError(f"{self.index}: no column {', '.join(sorted(map(str, missing)))}; it has {', '.join(header)}")
        return header

    def _by_row(self, key: str, row: Mapping[str, str], number: int, asked: str | None) -> Found | Refusal:
        origin = (row.get("origin") or "").strip().lower()
        if origin not in ORIGINS:
            return Refusal("unknown-origin", f"line {number} of {self.index.name} says {origin!r}", key)
        category = (row.get("content_type") or row.get("category") or "").strip().lower() or self.category
        if category and category not in self.categories:
            return Refusal("unknown-category", f"line {number} of {self.index.name} says {category!r}", key)
        source = row.get("source") or None
        return Found(
            source_key=key,
            data=b"",
            origin="real" if origin == "real" else "synthetic",
            category=category or asked or "uncategorized",
            generator=(row.get("generator") or source or "unknown") if origin == "synthetic" else None,
            source=source,
            licence=row.get("licence") or row.get("license") or None,
            group=row.get("group") or None,
            prompt=row.get("prompt") or None,
            sha256=row.get("sha256") or None,
            stratum=self._folder_of(key) if self.stratum == "/" else (row.get(self.stratum or "") or None),
            date=row.get("date") or None,
        )

    def _read(self, found: Found) -> Found | Refusal:
        """The file's bytes, if it lies inside the root, is a plain file, and is what the index says."""
        key = found.source_key
        path = self.root / key
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            return Refusal("missing", f"{key}: {getattr(error, 'strerror', None) or error}", key)
        if not real.is_relative_to(self.root.resolve()):
            return Refusal("outside-root", f"{key} leads out of the folder", key)
        try:
            if not real.is_file():
                return Refusal("not-a-file", key, key)
            if real.stat().st_size > MAX_BYTES:
                return Refusal("too-large", f"{key} has {real.stat().st_size:,} bytes, more than {MAX_BYTES:,}", key)
            data = real.read_bytes()
        except OSError as error:
            return Refusal("unreadable", f"{key}: {error.strerror}", key)
        if found.sha256 and hashlib.sha256(data).hexdigest() != found.sha256.lower():
            return Refusal("checksum", f"{key} is not the file that {self.index.name} describes", key)
        return replace(found, data=data)


def _begins_like_an_image(path: Path) -> bool:
    """Whether a file whose name promises nothing is an image all the same."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        with path.open("rb") as file:
            containers.sniff(file.read(512))
    except BadImage:
        return False
    except OSError:
        pass  # it is looked at like the others, and refused for its reason
    return True


def _printable(place: str) -> str:
    """A file's place in letters that can be written down: itself, where its name is UTF-8."""
    return os.fsencode(place).decode("utf-8", "backslashreplace")
