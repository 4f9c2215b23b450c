"""Images in archives, read in place: tar in any compression, zip, 7z, Parquet, WebDataset shards, here or at an fsspec URL.

What a file is, its first bytes decide. Archives inside archives are not opened, and nothing is unpacked to disk, but for the
spares of a quota that wait their turn, in a nameless temporary file. Whatever cannot be read is one refusal: a member's, or the
rest of its archive's.
"""

from __future__ import annotations

import heapq
import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from tempfile import SpooledTemporaryFile, gettempdir
from typing import IO, Any, BinaryIO, ClassVar, cast

from imaginet_build.collectors.columns import LABEL_WORDS, Columns
from imaginet_build.collectors.inflate import Inflated, compression
from imaginet_build.collectors.members import Broken, BrokeOff, Reader, Seen, must_end, printable
from imaginet_build.collectors.parquets import Parquet
from imaginet_build.collectors.places import Places, Volume
from imaginet_build.collectors.samples import samples
from imaginet_build.collectors.sevenzip import SevenZip
from imaginet_build.collectors.tars import Tar
from imaginet_build.collectors.zips import Zip
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import Found, Origin, Refusal, Want, make_id

log = logging.getLogger(__name__)

_SPARES = 32
"""Spares looked for when the first are wanted; then four times as many each time, since each time is two readings of all."""
_MOST_SPARES = 2**16
_SPARE_BYTES = 2**30
"""What the spares that wait may take on disk (up to `_HELD_BYTES` stay in memory); those beyond are read again, each alone."""
_HELD_BYTES = 64 * 2**20
_EVERY = 2**128

Cut = tuple[int, int]
"""Numbers above the first, up to the second."""


class Archive:
    """The archives at `root`: a file, a folder of them, a pattern, an fsspec URL, or several; numbered parts count as one.

    A WebDataset sample's `.json`, `.txt` and `.cls` (files of the same name up to the first dot, standing together) say of its
    images what a Parquet file's columns say of its rows, under the names of the JSON's keys, `txt` and `cls`: `label`,
    `caption` (without it `txt`, or the key `caption`), `group`, `generator_column`, `category_column`, `licence_column`,
    `stratum` and `date` name them (`stratum = "/"`: the member's folder). `image` and `key`: Parquet's column of images, and
    of their names. `include` and `exclude`: patterns of member names. `generator`: who made them, where all are of one.
    `shards`: only so many archives, chosen by the seed. An image's name is ARCHIVE/MEMBER, or ARCHIVE/ROW with its file's
    suffix. Where nothing says what is real, folder names (`real`, `fake`, …) do. `allow_loopback`: places such as
    `127.0.0.1:8000` that a URL may lead to all the same.
    """

    HOW: ClassVar[frozenset[str]] = frozenset({"allow_loopback"})
    """Keywords that say how to reach it, and nothing of what it holds."""

    def __init__(
        self,
        root: str | Sequence[str],
        origin: Origin | None = None,
        category: str | None = None,
        generator: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        image: str = "image",
        key: str | None = None,
        label: str | None = None,
        labels: Mapping[str, str] | None = None,
        caption: str | None = None,
        group: str | None = None,
        generator_column: str | None = None,
        category_column: str | None = None,
        categories: Mapping[str, str] | None = None,
        licence_column: str | None = None,
        stratum: str | None = None,
        date: str | None = None,
        shards: int | None = None,
        allow_loopback: Sequence[str] = (),
    ) -> None:
        if shards is not None and shards < 1:
            raise UsageError(f"shards = {shards}: take one archive at least, or leave it out for all of them")
        self.places = Places(root, allow_loopback)
        self.category, self.generator, self.shards = category, generator, shards
        self.include, self.exclude = tuple(include), tuple(exclude)
        self.image, self.key = image, key
        who = str(root if isinstance(root, str) else ", ".join(root))[:100]
        self.columns = Columns(
            who, origin, label, labels or {}, caption, group, generator_column, category_column, categories or {},
            licence_column, None if stratum == "/" else stratum, date,
        )  # fmt: skip
        self.by_folder = stratum == "/"

    def find(self, want: Want) -> Iterator[Found | Refusal]:
        """What there is of `want`. Raises `BuildError` where a transport fails: what came before counts.

        Without a count everything comes in stored order. With one, it is the same choice that a folder makes, by the seed and
        the names alone: first those that are taken, in stored order, then the spares, in the order of the seed.
        """
        if not self.columns.category and self.category and want.category not in (None, self.category):
            raise UsageError(f"{self.columns.who} holds {self.category}, no {want.category}")
        volumes = self._volumes(want.seed)
        if want.count is None:
            yield from self._read(volumes, want, (-1, _EVERY), tell=True)
            return
        floor, ceiling, largest = -1, self._cut(volumes, want, -1, want.count), 1
        for item in self._read(volumes, want, (floor, ceiling), tell=True):
            largest = max(largest, len(item.data) if isinstance(item, Found) else 0)
            yield item
        spares = _SPARES
        while ceiling < _EVERY:
            floor, ceiling = ceiling, self._cut(volumes, want, ceiling, spares)
            yield from self._spares(volumes, want, (floor, ceiling))
            spares = max(_SPARES, min(4 * spares, _MOST_SPARES, _SPARE_BYTES // largest))

    def strata(self, want: Want) -> dict[str, int]:
        """Stratum -> how many images of `want.category` are listed there."""
        counts: Counter[str] = Counter()
        asked = replace(want, stratum=None, have=frozenset())
        for volume in self._volumes(want.seed):
            try:
                for item, _ in self._items(volume, asked, lambda _: False):
                    if isinstance(item, Found) and item.stratum is not None:
                        counts[item.stratum] += 1
            except Broken:
                continue  # said where it is read
            except BrokeOff as error:
                raise _again([error]) from error
        return dict(sorted(counts.items()))

    def _volumes(self, seed: int) -> list[Volume]:
        volumes = self.places.volumes()
        if self.shards is None:
            return volumes
        chosen = sorted(volumes, key=lambda volume: make_id(seed, "shard", volume.name))[: self.shards]
        return sorted(chosen, key=lambda volume: volume.name)

    # --- choosing ------------------------------------------------------------------------------------------------------

    def _cut(self, volumes: Sequence[Volume], want: Want, floor: int, count: int) -> int:
        """The number up to which lie `count` images whose number is above `floor`; `_EVERY` where there are no more."""
        lowest: list[int] = []
        for volume in volumes:
            try:
                for item, number in self._items(volume, want, lambda _: False):
                    if number <= floor or isinstance(item, Refusal):
                        continue
                    if len(lowest) < count:
                        heapq.heappush(lowest, -number)
                    elif number < -lowest[0]:
                        heapq.heapreplace(lowest, -number)
            except Broken:
                continue  # said where it is read
            except BrokeOff as error:
                raise _again([error]) from error
        return -lowest[0] if len(lowest) == count else _EVERY

    def _spares(self, volumes: Sequence[Volume], want: Want, cut: Cut) -> Iterator[Found | Refusal]:
        """What lies in a cut in the order of its numbers: read once as it is stored, then fetched back one by one."""
        with SpooledTemporaryFile(_HELD_BYTES) as waiting:
            kept: list[tuple[int, int, int]] = []
            at = 0
            for item, number in self._numbered(volumes, want, cut):
                whole = pickle.dumps(item) if at < _SPARE_BYTES else b""
                _write(waiting, whole, self.columns.who)
                kept.append((number, at, len(whole)))
                at += len(whole)
            _write(waiting, b"", self.columns.who)
            for number, begin, size in sorted(kept):
                if size:
                    waiting.seek(begin)
                    yield pickle.loads(waiting.read(size))  # noqa: S301 - what was written a moment ago, in a file without a name
                else:
                    yield from self._read(volumes, want, (number - 1, number))

    # --- reading -------------------------------------------------------------------------------------------------------

    def _read(self, volumes: Sequence[Volume], want: Want, cut: Cut, tell: bool = False) -> Iterator[Found | Refusal]:
        for item, _ in self._numbered(volumes, want, cut, tell):
            yield item

    def _numbered(
        self, volumes: Sequence[Volume], want: Want, cut: Cut, tell: bool = False
    ) -> Iterator[tuple[Found | Refusal, int]]:
        """What lies in a cut and is not here yet, with its number; with `tell`, what ended an archive early too."""
        floor, ceiling = cut
        passed_over: Counter[str] = Counter()
        cut_off: list[BrokeOff] = []
        for volume in volumes:
            prefix = f"{volume.name}/"

            def taken(name: str, prefix: str = prefix) -> bool:
                key = prefix + name
                return key not in want.have and (want.count is None or floor < _number(want.seed, key) <= ceiling)

            try:
                for item, number in self._items(volume, want, taken, passed_over):
                    if floor < number <= ceiling and item.source_key not in want.have:
                        yield item, number
            except Broken as error:
                if tell:
                    log.warning("%s: %s", volume.name, error.detail)
                    if volume.name not in want.have:
                        yield Refusal(error.reason, error.detail, volume.name), ceiling
            except BrokeOff as error:
                if want.count is not None:  # a later call must choose as if nothing had happened
                    raise _again([error]) from error
                cut_off.append(error)
        if cut_off:
            raise _again(cut_off)
        if tell and passed_over:
            kinds = ", ".join(f"{count} .{kind}" for kind, count in sorted(passed_over.items()))
            log.info("%s: passed over members that are not images by name: %s", self.columns.who, kinds)

    def _items(
        self, volume: Volume, want: Want, taken: Callable[[str], bool], passed_over: Counter[str] | None = None
    ) -> Iterator[tuple[Found | Refusal, int]]:
        """Every image and every refusal of an archive, with its number; bytes only for names that are `taken`.

        Images that are not of the category or stratum asked for are left out.
        """
        seen, position, again = Seen(), 0, 0
        others: Counter[str] = Counter() if passed_over is None else passed_over
        with self._opened(volume) as reader:
            for name, answer, row in samples(reader, isinstance(reader, Parquet), taken, self._asked, others):
                key = f"{volume.name}/{name}"
                number = _number(want.seed, key) if want.count is not None else 0
                position += 1
                if not seen.add(hash(key) & (2**64 - 1)):
                    again += 1
                    if must_end(again, position):
                        raise Broken("too-many-faults", f"{again:,} of its first {position:,} members came before")
                    yield Refusal("listed-twice", f"{volume.name} has another member {name}", f"{key}#{position}"), number
                elif isinstance(answer, Refusal):
                    yield replace(answer, source_key=key), number
                else:
                    item = self._described(key, row, answer, want)
                    if isinstance(item, Refusal) or (
                        want.category in (None, item.category) and want.stratum in (None, item.stratum)
                    ):
                        yield item, number

    @contextmanager
    def _opened(self, volume: Volume) -> Iterator[Reader]:
        """The archive, as its first bytes say it is to be read. What its reader stumbles over ends it alone, as `Broken`."""
        file, length = self.places.open(volume)
        try:
            with file:
                yield self._reader(volume, file, length)
        except (Broken, BrokeOff, BuildError):
            raise
        except Exception as error:  # wild bytes make libraries raise what they do not document
            if _is_ours(error):
                raise
            said = printable(" ".join(str(error).split()))[:300]
            raise Broken("damaged", f"its reader failed with {type(error).__name__}{f': {said}' if said else ''}") from error

    def _reader(self, volume: Volume, file: BinaryIO, length: int) -> Reader:
        head = file.read(512)
        file.seek(0)
        if head[:4] == b"PAR1":
            return Parquet(file, self.image, self.key, self.columns.named())
        if head[:4] in (b"PK\3\4", b"PK\5\6", b"PK\7\x08"):
            return Zip(file)
        if head[:6] == b"7z\xbc\xaf\x27\x1c":
            return SevenZip(file, length)
        if kind := compression(head):
            return Tar(cast(BinaryIO, Inflated(file, kind)))
        if head[257:262] == b"ustar" or (len(head) == 512 and volume.name.lower().endswith(".tar")):
            return Tar(file)
        if not head:
            raise Broken("truncated", "it has no bytes")
        raise Broken("not-an-archive", f"it is none of tar, zip, 7z, Parquet; its first bytes are {head[:8].hex()}")

    # --- describing ----------------------------------------------------------------------------------------------------

    def _asked(self, name: str) -> bool:
        return (not self.include or any(fnmatchcase(name, pattern) for pattern in self.include)) and not any(
            fnmatchcase(name, pattern) for pattern in self.exclude
        )

    def _described(self, key: str, row: Mapping[str, Any], answer: bytes | None, want: Want) -> Found | Refusal:
        found = self.columns.described(row, key, {}, self.category or want.category)
        if isinstance(found, Refusal):
            return found
        origin, maker, prompt = found.origin, found.generator, found.prompt
        if origin is None:
            origin, maker = _by_place(key)
        if self.columns.caption is None and row:
            said = row.get("txt") or row.get("caption")
            prompt = said if isinstance(said, str) and said else None
        return Found(
            source_key=key,
            data=answer or b"",
            origin=origin,
            category=found.category,
            generator=(self.generator or maker) if origin == "synthetic" else None,
            licence=found.licence,
            group=found.group,
            prompt=prompt,
            stratum=key.split("/")[-2] if self.by_folder else found.stratum,
            date=found.date,
        )


def _is_ours(error: BaseException) -> bool:
    """Whether it is a fault of this program and not of the archive: one that no wild bytes cause, raised by our own lines."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    ours = at is not None and str(at.tb_frame.f_globals.get("__name__", "")).startswith("imaginet_build.")
    return ours and isinstance(error, AssertionError | AttributeError | LookupError | NameError | TypeError)


def _write(waiting: IO[bytes], data: bytes, who: str) -> None:
    """Add to the spares that wait. Raises `BuildError` where there is no room for them."""
    try:
        waiting.write(data)
        waiting.flush()
    except OSError as error:
        raise BuildError(
            f"{who}: its spares cannot wait in {gettempdir()} ({error.strerror or error}). Make room there, or set TMPDIR to a "
            "folder that has it, and run the same command again"
        ) from error


def _by_place(key: str) -> tuple[Origin | None, str | None]:
    """Origin and generator as the names of an archive and its folders say them."""
    folders = key.split("/")[:-1]
    at = next((n for n, folder in enumerate(folders) if _word(folder) in LABEL_WORDS), None)
    if at is None:
        return None, None
    origin = LABEL_WORDS[_word(folders[at])]
    return origin, next(iter(folders[at + 1 :]), None) if origin == "synthetic" else None


def _number(seed: int, key: str) -> int:
    """An image's place in the seed's order, the one that folders use: below 2**128."""
    return int(make_id(seed, key), 16)


def _word(folder: str) -> str:
    return folder.lower().partition(".")[0]


def _again(errors: Sequence[BrokeOff]) -> BuildError:
    remedies = "; ".join(dict.fromkeys(error.remedy for error in errors if error.remedy))
    return BuildError(
        f"{'; '.join(map(str, errors))}. {f'To mend it: {remedies}. ' if remedies else ''}What was finished is kept: "
        f"{'then ' if remedies else ''}run the same command again to go on from there"
    )
