"""Data sets of the Hugging Face Hub, and local folders of the same forms, streamed: the files' bytes as they were uploaded.

Nothing of a data set runs as code: `datasets` refuses loading scripts, and nothing here asks it to trust one.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from imaginet_build.collectors.columns import Columns, Row
from imaginet_build.collectors.members import BrokeOff
from imaginet_build.collectors.streams import Answer, Data, drawn, first_line
from imaginet_build.errors import BuildError, MissingExtra, UsageError, suggest
from imaginet_build.records import Found, Origin, Refusal, Want, make_id

log = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**20
"""A larger file is refused."""

_ASK_SECONDS = 10
_IN_ARCHIVE = re.compile(r"(?:zip|tar)://[^:]*")


class Hub:
    """One split of one configuration of a data set.

    `dataset`: `owner/name` on the Hub at the commit `revision`, or `owner/name@COMMIT` (branches and tags move: they are
    refused), or a local folder. `root`: a local copy that is read in its place, under the same names. `image`, `caption`,
    `group`, `stratum`, `date`: columns (a caption becomes the prompt). `label`: a column whose class names `labels` maps to
    `real`, `synthetic` or a generator. `generator_column`, `category_column`, `licence_column`: the same as plain words;
    `categories` maps a data set's own words for content types to ours. `origin` says what every image is, unless labels do;
    `generator` who made them, unless a column does. An image's name is the value of the column `key`, or CONFIG/SPLIT/ROW
    with its file's suffix; where the split lies in several shards (files), CONFIG/SPLIT/SHARD/ROW.
    Raises `UsageError` for a wrong call.
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
        stratum: str | None = None,
        date: str | None = None,
        origin: Origin | None = None,
        category: str | None = None,
        generator: str | None = None,
    ) -> None:
        if "@" in dataset and not Path(dataset).is_dir():
            dataset, _, revision = dataset.partition("@")
        self.dataset, self.revision, self.config, self.split = dataset, revision, config, split
        self.place = _place(dataset, root)
        if self.place is None and revision is not None and not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise UsageError(
                f"{dataset}: no commit is named{'' if revision == 'listed' else f': {revision!r} may move'}. Give all 40 "
                f"digits of one, which https://huggingface.co/datasets/{dataset}/commits/main lists, in the recipe's entry: "
                f'options = {{ dataset = "{dataset}@COMMIT" }}'
            )
        self.category, self.image, self.key, self.generator = category, image, key, generator
        self.columns = Columns(
            dataset, origin, label, labels or {}, caption, group, generator_column, category_column, categories or {},
            licence_column, stratum, date,
        )  # fmt: skip
        if origin is None and label is None:
            raise UsageError(f'{dataset}: say what its images are: origin = "real" or "synthetic", or a column `label`')

    # --- rows ----------------------------------------------------------------------------------------------------------

    def find(self, want: Want) -> Iterator[Found | Refusal]:
        """The rows of `want.category`.

        Without a count all of them come, in stored order. With one, `want.seed` decides: the shards are taken in its order,
        and within a shard it draws from a window of `WINDOW` rows, so that a part of a data set that is sorted by class is not
        its first classes alone; a data set of one shard is read from its beginning all the same. What is here already is left
        out and changes nothing else. A shard whose every row is here is not read again where its length is known (Parquet).
        A data set that says nothing of content types is taken to be of the type that is asked for. A stream
        of the Hub that breaks off is a `BuildError`, and the next call goes on from there; a damaged file of a local copy is
        one refusal, and the other files are read.
        """
        if not self.columns.category and self.category and want.category not in (None, self.category):
            raise UsageError(f"{self.dataset} holds {self.category}, no {want.category}")  # it would be streamed for nothing
        data = self._open()
        prefixes = [self._prefix(shard, data) for shard in range(data.shards)]
        order = list(range(data.shards))
        if want.count is not None:
            order.sort(key=lambda shard: make_id(want.seed, "shard", prefixes[shard]))
        here = {self._bare(name) for name in want.have}
        seen: set[str] = set()
        for shard in order:
            prefix = prefixes[shard]
            done = 0 if self.key else next(n for n in itertools.count() if f"{prefix}{n}" not in here)
            if done and done == data.length(shard):
                continue
            start = done if want.count is None else 0
            rows = self._rows(data, shard, start, prefix, want, seen, here)
            try:
                if want.count is None:
                    yield from (answer for _, answer in rows if answer is not None)
                else:
                    yield from drawn(rows, want.seed, keep=self.place is not None)
            except BrokeOff as error:
                if self.place is None:  # the next shard would come over the same line
                    raise BuildError(f"{self.dataset}: {error}") from error
                log.warning("%s: %s", self.dataset, error)
                if prefix.rstrip("/") not in want.have:
                    yield Refusal("unreadable", str(error), prefix.rstrip("/"))

    def _rows(
        self, data: Data, shard: int, start: int, prefix: str, want: Want, seen: set[str], here: Container[str]
    ) -> Iterator[Answer]:
        """The rows of one shard from `start` on, without bytes where they are here already. Raises `BrokeOff`."""
        after = start
        rows = data.rows(shard, start)
        while True:
            try:
                number, row, fault = next(rows)
            except StopIteration:
                return
            except Exception as error:  # whatever the transport, Arrow or a file's reader raises; they share no base
                raise _broken(error, f"{prefix}{after}") from error
            after = number + 1
            if isinstance(row, str) or fault is not None:
                named = row if isinstance(row, str) else str(number)
                name = f"{prefix}{named}"
                yield name, None if name in want.have else Refusal(*(fault or ("no-row", named)), name)
            else:
                yield from self._row(row, f"{prefix}{number}", number, data, want, seen, here)

    def _row(
        self, row: Row, place: str, number: int, data: Data, want: Want, seen: set[str], here: Container[str]
    ) -> Iterator[Answer]:
        name = self._name(row, place, number)
        if isinstance(name, Refusal) or name in seen:
            answer = (
                name
                if isinstance(name, Refusal)
                else Refusal("listed-twice", f"row {place}", f"{name}#{place.rpartition('/')[2]}")
            )
            yield answer.source_key, None if answer.source_key in want.have else answer
            return
        if self.key:
            seen.add(name)
        if self._bare(name) in here:
            yield name, None
            return
        found = self.columns.described(row, name, data.names, self.category or want.category)
        if isinstance(found, Refusal):
            yield name, found
        elif want.category in (None, found.category) and want.stratum in (None, found.stratum):
            yield name, self._with_bytes(found, row, data.home, number)

    def _prefix(self, shard: int, data: Data) -> str:
        return f"{self.config or 'default'}/{self.split}/" + (f"{shard}/" if data.shards > 1 else "")

    def _bare(self, name: str) -> str:
        """A row's name without its file's suffix, which is only known once the row is read; a key is a name as it stands."""
        stem, dot, suffix = name.rpartition(".")
        return stem if dot and not self.key and "/" not in suffix else name

    def _name(self, row: Row, place: str, number: int) -> str | Refusal:
        if self.key:
            value = row[self.key]
            return str(value) if value not in (None, "") else Refusal("no-key", f"row {number}: {self.key} is empty", place)
        _, path = _stored(row[self.image])
        suffix = re.search(r"\.[A-Za-z0-9]{1,5}$", (path or "").partition("::")[0])
        return f"{place}{suffix[0].lower() if suffix else ''}"

    def _with_bytes(self, found: Found, row: Row, home: str, number: int) -> Found | Refusal:
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
                if self.place is None:  # the network's fault, so not the image's end
                    raise _broken(error, name) from error
                return Refusal("unreadable", f"row {number}: {first_line(error)}", name)
        if data is None:
            return Refusal("no-bytes", f"row {number} has no image", name)
        if len(data) > MAX_BYTES:
            return Refusal("too-large", f"row {number} has more than {MAX_BYTES:,} bytes", name)
        made_by = (found.generator or self.generator) if found.origin == "synthetic" else None
        return replace(found, data=data, generator=made_by)

    # --- the data set --------------------------------------------------------------------------------------------------

    def _open(self) -> Data:
        """The stream with its image column as stored, and what is known of it."""
        try:
            import datasets
        except ImportError:
            raise MissingExtra(f"the data set {self.dataset}", "datasets", "hub") from None
        datasets.disable_progress_bars()
        revision = self._commit() if self.place is None else None
        home = f"hf://datasets/{self.dataset}@{revision}" if self.place is None else str(self.place)
        path = self.dataset if self.place is None else home
        try:
            builder = datasets.load_dataset_builder(path, name=self.config, revision=revision)
            stream = builder.as_streaming_dataset(split=self.split)
            columns = stream.column_names or list(next(iter(stream), {}))
        except Exception as error:  # bad configs, bad splits, gated sets and broken files have no common class either
            raise UsageError(f"{self.dataset} cannot be read: {first_line(error)}") from None
        wanted = {"image": self.image} | ({"key": self.key} if self.key else {}) | self.columns.named()
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
        names = self._class_names(stream)
        files = list((builder.config.data_files or {}).get(self.split, [])) if builder.info.builder_name == "parquet" else []
        columns = list(dict.fromkeys(wanted.values()))
        return Data(stream.select_columns(columns), home, names, int(stream.num_shards), files, columns)

    def _class_names(self, stream: Any) -> dict[str, list[str]]:
        """Column -> class names, for columns that hold class numbers."""
        names = {c: list(f.names) for c, f in (stream.features or {}).items() if getattr(f, "names", None)}
        label = self.columns.label
        unknown = sorted(set(self.columns.labels) - set(names[label])) if label in names else []
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
                f"{self.dataset}: the hub cannot be asked for it ({first_line(error)}). On a machine with a network: "
                f"hf download --repo-type dataset {self.dataset}, then give the folder here as `root`"
            ) from None
        commit = str(info.sha)
        if self.revision is None:
            log.warning(
                '%s: reading commit %s; to stay at it, write revision = "%s" into its card', self.dataset, commit, commit
            )
        return commit


def _broken(error: Exception, place: str) -> BrokeOff:
    return BrokeOff(
        f"the stream broke off at row {place} ({first_line(error)}). What was finished is kept: "
        "run the same command again to go on from there"
    )


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
