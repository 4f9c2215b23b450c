"""Data sets of the Hugging Face Hub, and local folders of the same forms, streamed: the files' bytes as they were uploaded.

Nothing of a data set runs as code: `datasets` refuses loading scripts, and nothing here asks it to trust one.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from imaginet_build.errors import BuildError, MissingExtra, UsageError, suggest
from imaginet_build.records import ORIGINS, Found, Origin, Refusal, Want

log = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**20
"""A larger file is refused."""

LABEL_WORDS: dict[str, Origin] = {
    "real": "real", "0_real": "real", "nature": "real", "synthetic": "synthetic", "fake": "synthetic", "1_fake": "synthetic",
    "ai": "synthetic",
}  # fmt: skip
"""Class names that say what they are where `labels` is silent."""

_ASK_SECONDS = 10
_IN_ARCHIVE = re.compile(r"(?:zip|tar)://[^:]*")


class Hub:
    """One split of one configuration of a data set, read in its stored order.

    `dataset`: `owner/name` on the Hub at the commit `revision`, or a local folder. `root`: a local copy that is read in its
    place, under the same names. `image`, `caption`, `group`: columns (a caption becomes the prompt). `label`: a column whose
    class names `labels` maps to `real`, `synthetic` or a generator. `generator_column`, `category_column`, `licence_column`:
    the same as plain words; `categories` maps a data set's own words for content types to ours. `origin` says what every
    image is, unless labels do. An image's name is the value of the column `key`, or CONFIG/SPLIT/ROW with its file's
    suffix. Raises `UsageError` for a wrong call, `BuildError` when the stream breaks off.
    """

    def __init__(
        self,
        dataset: str,
        revision: str | None = None,
        root: str | None = None,
        config: str | None = None,
        split: str = "train",
        image: str = "image",
        label: str | None = None,
        labels: Mapping[str, str] | None = None,
        caption: str | None = None,
        key: str | None = None,
        group: str | None = None,
        generator_column: str | None = None,
        category_column: str | None = None,
        categories: Mapping[str, str] | None = None,
        licence_column: str | None = None,
        origin: Origin | None = None,
        category: str | None = None,
    ) -> None:
        self.dataset, self.revision, self.config, self.split = dataset, revision, config, split
        self.place = _place(dataset, root)
        self.labels = dict(labels or {})
        self.origin: Origin | None = origin
        self.category = category
        self.categories = dict(categories or {})
        self.image, self.key = image, key
        self.columns = {
            "image": image,
            "label": label,
            "caption": caption,
            "key": key,
            "group": group,
            "generator_column": generator_column,
            "category_column": category_column,
            "licence_column": licence_column,
        }
        self._check()

    def _check(self) -> None:
        if self.origin not in (None, *ORIGINS):
            raise UsageError(f"{self.dataset}: origin = {self.origin!r}: it is one of {', '.join(ORIGINS)}")
        label = self.columns["label"]
        if self.labels and label is None:
            raise UsageError(f"{self.dataset}: `labels` maps class names, but `label` names no column")
        if self.origin is None and label is None:
            raise UsageError(f'{self.dataset}: say what its images are: origin = "real" or "synthetic", or a column `label`')
        other = {"real": {*self.labels.values()} - {"real"}, "synthetic": {*self.labels.values()} & {"real"}}
        if self.origin is not None and other[self.origin]:
            raise UsageError(
                f"{self.dataset}: origin = {self.origin!r}, but `labels` says {', '.join(sorted(other[self.origin]))}: "
                "leave `origin` out where labels decide"
            )

    # --- rows ----------------------------------------------------------------------------------------------------------

    def find(self, want: Want) -> Iterator[Found | Refusal]:
        """The rows of `want.category` in their stored order; a run of rows at the start that is here already is skipped.

        A data set that says nothing of content types is taken to be of the type that is asked for.
        """
        if not self.columns["category_column"] and self.category and want.category not in (None, self.category):
            raise UsageError(f"{self.dataset} holds {self.category}, no {want.category}")  # it would be streamed for nothing
        usual = self.category or want.category
        stream, home = self._open()
        names = self._class_names(stream)
        rows: Iterator[tuple[int, Mapping[str, Any]]]
        start = 0 if self.key else self._leading(want.have)
        rows = enumerate(stream.skip(start) if start else stream, start)
        here = {self._bare(name) for name in want.have}
        seen: set[str] = set()
        for number, row in self._guarded(rows, start):
            name = self._name(row, number)
            if isinstance(name, Refusal) or name in seen:
                refusal = name if isinstance(name, Refusal) else Refusal("listed-twice", f"row {number}", f"{name}#{number}")
                if refusal.source_key not in want.have:
                    yield refusal
                continue
            if self.key:
                seen.add(name)
            if self._bare(name) in here:
                continue
            found = self._described(row, name, names, usual)
            if isinstance(found, Refusal) or want.category in (None, found.category):
                yield found if isinstance(found, Refusal) else self._with_bytes(found, row, home, number)

    def _guarded(self, rows: Iterator[tuple[int, Mapping[str, Any]]], number: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        while True:
            try:
                number, row = next(rows)
            except StopIteration:
                return
            except Exception as error:  # whatever the transport, Arrow or a file's reader raises; they share no base
                raise self._broken(error, number) from error
            yield number, row
            number += 1

    def _broken(self, error: Exception, number: int) -> BuildError:
        return BuildError(
            f"{self.dataset}: the stream broke off at row {number} ({_first_line(error)}). What was finished is kept: "
            "run the same command again to go on from there"
        )

    def _prefix(self) -> str:
        return f"{self.config or 'default'}/{self.split}/"

    def _bare(self, name: str) -> str:
        """A row's name without its file's suffix, which is only known once the row is read; a key is a name as it stands."""
        stem, dot, suffix = name.rpartition(".")
        return stem if dot and not self.key and "/" not in suffix else name

    def _leading(self, have: Iterable[str]) -> int:
        """How many rows from the first on are here without a gap."""
        prefix = self._prefix()
        bare = (self._bare(name).removeprefix(prefix) for name in have if name.startswith(prefix))
        numbers = {int(name) for name in bare if name.isdecimal()}
        return next(number for number in itertools.count() if number not in numbers)

    def _name(self, row: Mapping[str, Any], number: int) -> str | Refusal:
        if self.key:
            value = row[self.key]
            unnamed = f"{self._prefix()}{number}"
            return str(value) if value not in (None, "") else Refusal("no-key", f"row {number}: {self.key} is empty", unnamed)
        _, path = _stored(row[self.image])
        suffix = re.search(r"\.[A-Za-z0-9]{1,5}$", (path or "").partition("::")[0])
        return f"{self._prefix()}{number}{suffix[0].lower() if suffix else ''}"

    def _text(self, row: Mapping[str, Any], key: str, names: Mapping[str, list[str]]) -> str | None:
        """A column's value in words; None where there is none (a class label of -1 is one that was never given)."""
        column = self.columns[key]
        value = None if column is None else row[column]
        if isinstance(value, int) and (known := names.get(column or "")):
            return known[value] if 0 <= value < len(known) else None
        return None if value is None or value == "" else str(value)

    def _described(
        self, row: Mapping[str, Any], name: str, names: Mapping[str, list[str]], category: str | None
    ) -> Found | Refusal:
        """What a row says of its image, `data` still empty."""
        origin, generator = self.origin, None
        if self.columns["label"] is not None:
            word = self._text(row, "label", names)
            meaning = self.labels.get(word or "")
            if meaning is None and not (self.labels and self.origin):
                meaning = LABEL_WORDS.get((word or "").lower()) or (word if self.origin == "synthetic" else None)
            if meaning is None or (self.origin is not None and meaning in ORIGINS and meaning != self.origin):
                return Refusal("unknown-label", f"{self.columns['label']} says {word!r}: name it in `labels`", name)
            origin = "real" if meaning == "real" else "synthetic"
            generator = None if meaning in ORIGINS else meaning
        said = self._text(row, "category_column", names)
        if said is not None:
            category = self.categories.get(said, None if self.categories else said.lower())
            if category is None:
                return Refusal("unknown-category", f"{self.columns['category_column']} says {said!r}", name)
        return Found(
            source_key=name,
            data=b"",
            origin=origin,
            category=category,
            generator=(generator or self._text(row, "generator_column", names)) if origin == "synthetic" else None,
            licence=self._text(row, "licence_column", names),
            group=self._text(row, "group", names),
            prompt=self._text(row, "caption", names),
        )

    def _with_bytes(self, found: Found, row: Mapping[str, Any], home: str, number: int) -> Found | Refusal:
        name = found.source_key
        data, path = _stored(row[self.image])
        if data is None and path:
            if not _lies_in(path, home):
                return Refusal("no-bytes", f"row {number} holds no image but a place elsewhere: {path:.200}", name)
            try:
                data = _read(path)
            except FileNotFoundError:
                return Refusal("missing", f"row {number}: {path:.200}", name)
            except Exception as error:
                if self.place is None:
                    raise self._broken(error, number) from error  # the network's fault, so not the image's end
                return Refusal("unreadable", f"row {number}: {_first_line(error)}", name)
        if data is None:
            return Refusal("no-bytes", f"row {number} has no image", name)
        if len(data) > MAX_BYTES:
            return Refusal("too-large", f"row {number} has more than {MAX_BYTES:,} bytes", name)
        return Found(**{slot: getattr(found, slot) for slot in Found.__slots__} | {"data": data})

    # --- the data set --------------------------------------------------------------------------------------------------

    def _open(self) -> tuple[Any, str]:
        """The stream with its image column as stored, and the place its files lie below."""
        try:
            import datasets
        except ImportError:
            raise MissingExtra(f"the data set {self.dataset}", "datasets", "hub") from None
        datasets.disable_progress_bars()
        revision = self._commit() if self.place is None else None
        home = f"hf://datasets/{self.dataset}@{revision}" if self.place is None else str(self.place)
        path = self.dataset if self.place is None else home
        try:
            stream = datasets.load_dataset(path, name=self.config, split=self.split, revision=revision, streaming=True)
            columns = stream.column_names or list(next(iter(stream), {}))
        except Exception as error:  # bad configs, bad splits, gated sets and broken files have no common class either
            raise UsageError(f"{self.dataset} cannot be read: {_first_line(error)}") from None
        wanted = {key: column for key, column in self.columns.items() if column is not None}
        faults = [
            f"{key}: no column '{column}'{suggest(column, columns)}" for key, column in wanted.items() if column not in columns
        ]
        if faults:
            raise UsageError(f"{self.dataset}: {'; '.join(faults)}. It has {', '.join(columns)}")
        if stream.features is not None:
            if not _holds_files(stream.features[self.image], datasets):
                raise UsageError(
                    f"{self.dataset}: the column '{self.image}' holds {stream.features[self.image]}, no image files: "
                    "what must be encoded first has no bytes as delivered"
                )
            # Stops the Hub's single files from being decoded ahead; `cast_column` does not, nor a `decode` after other steps.
            stream = stream.decode(False)
        return stream.select_columns(list(dict.fromkeys(wanted.values()))), home

    def _class_names(self, stream: Any) -> dict[str, list[str]]:
        """Column -> class names, for columns that hold class numbers."""
        names = {c: list(f.names) for c, f in (stream.features or {}).items() if getattr(f, "names", None)}
        label = self.columns["label"]
        unknown = sorted(set(self.labels) - set(names[label])) if label in names else []
        if label in names and unknown:
            near = suggest(unknown[0], names[label]) or f". There are {', '.join(names[label][:20])}"
            raise UsageError(f"{self.dataset}: labels: no class '{unknown[0]}' in the column '{label}'{near}")
        return names

    def _commit(self) -> str:
        """The commit to read. Asking for it first also tells within seconds that there is no network."""
        try:
            from huggingface_hub import HfApi
        except ImportError:
            raise MissingExtra(f"the data set {self.dataset}", "huggingface_hub", "hub") from None
        try:
            info = HfApi().dataset_info(self.dataset, revision=self.revision, timeout=_ASK_SECONDS)
        except Exception as error:  # whatever its transport raises; the hub's own errors share no base with it
            raise UsageError(
                f"{self.dataset}: the hub cannot be asked for it ({_first_line(error)}). On a machine with a network: "
                f"hf download --repo-type dataset {self.dataset}, then give the folder here as `root`"
            ) from None
        commit = str(info.sha)
        if self.revision is None:
            log.warning(
                '%s: reading commit %s; to stay at it, write revision = "%s" into its card', self.dataset, commit, commit
            )
        return commit


def _place(dataset: str, root: str | None) -> Path | None:
    """The local folder to read, or None for the Hub."""
    path = Path(root or dataset)
    if path.is_dir():
        return path.resolve()
    if root is None and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", dataset):
        return None
    near = suggest(path.name, [p.name for p in path.parent.iterdir() if p.is_dir()]) if path.parent.is_dir() else ""
    raise UsageError(f"no folder {path}{near}. Give a folder, or a data set of the Hugging Face Hub as owner/name")


def _holds_files(feature: Any, datasets: Any) -> bool:
    """Whether a column holds image files (or their places), and not pixels that would have to be encoded."""
    if isinstance(feature, dict):
        return "bytes" in feature or "path" in feature
    kinds = ("binary", "large_binary", "string", "large_string")
    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", None) in kinds


def _stored(value: Any) -> tuple[bytes | None, str | None]:
    """The bytes and the path of an image column's value."""
    if isinstance(value, bytes):
        return value, None
    if isinstance(value, Mapping):
        return value.get("bytes"), value.get("path")
    if value is None or isinstance(value, str):
        return None, value
    raise TypeError(f"an image column gave {type(value).__name__}, which is not as stored")


def _lies_in(path: str, home: str) -> bool:
    """Whether `path` is a file of the data set itself, or a member of an archive of it: a row may name any place at all."""
    member, chained, container = path.rpartition("::")
    if chained and not _IN_ARCHIVE.fullmatch(member):
        return False
    if home.startswith("hf://"):
        return container.startswith(f"{home}/") and ".." not in container.split("/")
    try:
        return Path(container).resolve().is_relative_to(home)
    except (OSError, RuntimeError, ValueError):
        return False


def _read(path: str) -> bytes:
    from datasets.utils.file_utils import xopen

    with xopen(path, "rb") as file:
        data: bytes = file.read(MAX_BYTES + 1)
    return data


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
