"""A table of facts about the images of any target, and how it grows row by row: what the audit reads.

The shape is the same for a measured image and for a line of a list that names nothing but a file; what is not known is null.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa

from imaginet_build.errors import BadImage, UsageError
from imaginet_build.pixel_probes import PIXEL_PROBES, pixel_facts
from imaginet_build.records import EXTENSIONS, ORIGINS, Facts, Refusal

FACTS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("view", pa.string()),
        pa.field("split", pa.string()),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("content_type", pa.string(), nullable=False),
        pa.field("family", pa.string()),
        pa.field("generator", pa.string()),
        pa.field("group", pa.string(), nullable=False),
        pa.field("extension", pa.string()),
        pa.field("codec", pa.string()),
        pa.field("quality", pa.int32()),
        pa.field("qtables", pa.string()),
        pa.field("subsampling", pa.string()),
        pa.field("progressive", pa.bool_()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mode", pa.string()),
        pa.field("metadata", pa.string()),
        pa.field("nbytes", pa.int64()),
    ]
)
"""One image of a target. `path` names it for a person; `group` ties what may not be counted as two witnesses; `split` is the
release's own."""


@dataclass(frozen=True, slots=True)
class Looked:
    """Facts, and the numbers of the pixel probes beside them."""

    facts: Facts
    pixels: Mapping[str, list[float]]


Measured = Facts | Looked | Refusal
Task = bytes | Path
Map = Callable[[Callable[[Task], Measured], Iterable[Task]], Iterable[Measured]]
"""How tasks are measured: the built-in `map`, or one that keeps the order and spreads the work."""

MAX_BYTES = 256 * 2**20
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image that was announced and could not be measured: `reason` is a short stable word."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Target:
    """What is audited. `kind`: release, work, folder, pair or list. `table`: FACTS, in the target's own order.
    `folders`: what to give the command that makes it anew.
    """

    name: str
    kind: str
    table: pa.Table
    unreadable: tuple[Unreadable, ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that makes a release with an `equalized` view from this."""
        places = [shlex.quote(folder) for folder in self.folders]
        if self.kind == "pair" and len(places) == 2:
            return f"build-imaginet run --real {places[0]} --fake {places[1]}"
        if self.kind in ("pair", "folder", "list"):
            return f"build-imaginet run pipelines/folders.toml --set root={places[0] if places else 'DIR'}"
        return "build-imaginet balance && build-imaginet publish"

    @property
    def views(self) -> list[str | None]:
        """The views there are: equalized and native where they are told apart, else None alone."""
        found = set(self.table["view"].unique().to_pylist())
        return [v for v in ("equalized", "native", None) if v in found]


def measure(task: Task) -> Measured:
    """The facts of an image given as bytes or as a file, or why there are none. Never raises for what a file holds."""
    from imaginet_build import images

    try:
        if isinstance(task, Path):
            size = task.stat().st_size
            if size > MAX_BYTES:
                return Refusal("too-large", f"{size:,} bytes, more than {MAX_BYTES:,}")
            task = task.read_bytes()
        return images.measure(task)
    except BadImage as error:
        return Refusal(error.reason, error.detail)
    except OSError as error:
        return Refusal("unreadable", error.strerror or str(error))


def look(task: Task) -> Measured:
    """As `measure`, and the pixel probes besides: several times the cost."""
    from imaginet_build import images

    try:
        facts = measure(task)
        if isinstance(facts, Facts):
            return Looked(facts, pixel_facts(images.decode(task.read_bytes() if isinstance(task, Path) else task)))
        return facts
    except BadImage as error:
        return Refusal(error.reason, error.detail)
    except OSError as error:
        return Refusal("unreadable", error.strerror or str(error))


def inside(root: Path, key: str) -> Path | Refusal:
    """The file `key` below `root`, or why it may not be read: missing, outside-root or not-a-file."""
    try:
        real = (root / key).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name with a zero byte
        return Refusal("missing", f"{getattr(error, 'strerror', None) or error}", key)
    if not real.is_relative_to(root.resolve()):
        return Refusal("outside-root", "leads out of the folder", key)
    return real if real.is_file() else Refusal("not-a-file", "is no plain file", key)


def extension_of(path: str) -> str:
    """The extension in lower case without the dot, '' where there is none."""
    return PurePosixPath(path).suffix[1:].lower()


@dataclass
class Growing:
    """A table that grows: what is known of an image beforehand, then what measuring it says.

    With `pixels` the numbers of the pixel probes are measured too and stand in columns of their names, lists of floats.
    """

    pixels: bool = False
    rows: list[dict[str, object]] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)

    def refuse(self, path: str, refusal: Refusal) -> None:
        """Count `path` as announced and not measured."""
        self.unreadable.append(Unreadable(path, refusal.reason, refusal.detail))

    def add(self, known: Mapping[str, object], measured: Measured) -> None:
        """One image: `known` holds path, origin and what else its owner says; `group` defaults to its pixels."""
        if isinstance(measured, Refusal):
            self.refuse(str(known["path"]), measured)
            return
        looked = measured if isinstance(measured, Looked) else None
        facts = measured.facts if isinstance(measured, Looked) else measured
        row: dict[str, object] = {
            name: getattr(facts, name)
            for name in ("codec", "quality", "qtables", "subsampling", "progressive", "width", "height", "mode", "nbytes")
        }
        row["metadata"] = ",".join(facts.metadata)
        row["extension"] = extension_of(str(known["path"]))
        row["content_type"] = "uncategorized"
        row |= known
        row["group"] = row.get("group") or f"pixels:{facts.pixel_hash}"
        if looked is not None:
            row |= looked.pixels
        self.rows.append(row)
        if len(self.rows) >= _ROWS_AT_ONCE:
            self._flush()

    def add_all(self, known: Iterable[Mapping[str, object]], tasks: Iterable[Task], map: Map) -> None:
        """Measure `tasks` and add each with what is `known` of it, in order."""
        for one, measured in zip(known, self.measured(tasks, map), strict=True):
            self.add(one, measured)

    def measured(self, tasks: Iterable[Task], map: Map) -> Iterator[Measured]:
        """What `tasks` measure, in order."""
        return iter(map(look if self.pixels else measure, tasks))

    def target(self, name: str, kind: str, folders: tuple[str, ...] = ()) -> Target:
        """What has been gathered. Raises `UsageError` where one of the classes is missing: nothing can be told apart."""
        self._flush()
        table = pa.concat_tables(self.tables) if self.tables else FACTS.empty_table()
        return Target(name, kind, both_classes(table, name, len(self.unreadable)), tuple(self.unreadable), folders)

    def _flush(self) -> None:
        if self.rows:
            names = PIXEL_PROBES if self.pixels else ()
            shape = pa.schema([*FACTS, *(pa.field(name, pa.list_(pa.float32())) for name in names)])
            self.tables.append(
                pa.table({f.name: pa.array([r.get(f.name) for r in self.rows], f.type) for f in shape}, schema=shape)
            )
            self.rows.clear()


def both_classes(table: pa.Table, name: str, unreadable: int = 0) -> pa.Table:
    """`table`, if it holds real and synthetic images. Raises `UsageError` otherwise."""
    found = set(table["origin"].unique().to_pylist())
    missing = [o for o in ORIGINS if o not in found]
    if missing:
        lost = f" ({unreadable} could not be read)" if unreadable else ""
        raise UsageError(
            f"{name} holds {len(table)} images{lost}, but no {' and no '.join(missing)} ones: an audit compares the two. "
            "Give two folders: build-imaginet audit --real DIR --fake DIR"
        )
    return table


def walk(root: Path) -> Iterator[tuple[str, Path | Refusal]]:
    """Every file below `root` that is an image by name, sorted; links that lead out of it come as refusals."""
    import os

    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(n for n in subfolders if not n.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and extension_of(name) in EXTENSIONS:
                key = (Path(folder) / name).relative_to(root).as_posix()
                yield key, inside(root, key)
