"""A table of facts about the images of any target, and how it grows row by row: what the audit reads.

The shape is the same for a measured image and for a line of a list that names nothing but a file; what is not known is null.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from imaginet_build import cards
from imaginet_build.auditing.pixel_probes import PIXEL_PROBES, pixel_facts
from imaginet_build.auditing.tags import TAGS, tags_of
from imaginet_build.errors import BadImage, UsageError
from imaginet_build.records import EXTENSIONS, ORIGINS, Facts, Refusal, seed_of

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
        *(pa.field(name, pa.string()) for name in TAGS),
        pa.field("caption", pa.string()),
        pa.field("embedding", pa.list_(pa.float32())),
    ]
)
"""One image of a target. `path` names it for a person; `group` ties what may not be counted as two witnesses; `split` is the
release's own. `caption`: the words that came with it (a prompt, a caption, a label)."""

PIXELS = "pixels:"
"""How the group of an image begins whose owner names none: those of equal pixels are one."""

PIXEL_ROWS = 4000
"""About how many images of a view the pixel probes look at: whole groups, drawn by name. More would cost and say no more."""


@dataclass(frozen=True, slots=True)
class Look:
    """A task whose pixels are looked at too."""

    data: bytes | Path


@dataclass(frozen=True, slots=True)
class Looked:
    """Facts, the words in the metadata, and the numbers of the pixel probes where they were asked for."""

    facts: Facts
    tags: Mapping[str, str]
    pixels: Mapping[str, list[float]]


Measured = Facts | Looked | Refusal
Task = bytes | Path | Look
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
    `folders`: what to give the command that makes it anew; `remake`: that command itself, where the target knows it.
    """

    name: str
    kind: str
    table: pa.Table
    unreadable: tuple[Unreadable, ...] = ()
    folders: tuple[str, ...] = ()
    remake: str = ""

    @property
    def command(self) -> str:
        """The command that makes a release with an `equalized` view from this, at the end of the text.

        Before it stands what is to be filled in, where this does not hold its images as they came (a list, a release alone).
        """
        if self.remake:
            return self.remake
        if len(self.folders) == 2:
            return "build-imaginet run --real {} --fake {}".format(*map(shlex.quote, self.folders))
        made = "build-imaginet run pipelines/folders.toml --set "
        if self.folders:
            return made + shlex.quote(f"root={self.folders[0]}")
        held = "these images" if self.kind == "list" else "these images as they came"
        return f"give the folder that holds {held}, in the subfolders real and synthetic: {made}root=FOLDER"

    @property
    def views(self) -> list[str | None]:
        """The views there are: equalized and native where they are told apart, else None alone."""
        found = set(self.table["view"].unique().to_pylist())
        return [v for v in ("equalized", "native", None) if v in found]


def measure(task: Task) -> Measured:
    """The facts of an image given as bytes or as a file, or why there are none. Never raises for what a file holds."""
    from imaginet_build import images

    held = task.data if isinstance(task, Look) else task
    try:
        if isinstance(held, Path):
            size = held.stat().st_size
            if size > MAX_BYTES:
                return Refusal("too-large", f"{size:,} bytes, more than {MAX_BYTES:,}")
            held = held.read_bytes()
        facts = images.measure(held)
        pixels = pixel_facts(images.decode(held)) if isinstance(task, Look) else {}
        return Looked(facts, tags_of(held, facts.metadata), pixels)
    except BadImage as error:
        return Refusal(error.reason, error.detail)
    except OSError as error:
        return Refusal("unreadable", error.strerror or str(error))


def share_of(rows: int, pixels: bool) -> float:
    """The share of `rows` images that the pixel probes look at."""
    return min(1.0, PIXEL_ROWS / max(rows, 1)) if pixels else 0.0


def drawn(name: str, share: float) -> bool:
    """Whether the pixel probes look at the images of the group `name`: the same answer for the same name, always."""
    return share >= 1 or (share > 0 and seed_of(name, "audit/pixels") < share * 2.0**63)


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
    stem, dot, extension = path.rpartition("/")[2].rpartition(".")
    return extension.lower() if dot and stem else ""


@dataclass
class Growing:
    """A table that grows: what is known of an image beforehand, then what measuring it says.

    With `pixels` the numbers of the pixel probes are measured too and stand in columns of their names, lists of floats, null
    where an image was not drawn for them (PIXEL_ROWS). `withheld`: rows of a release without pixels.
    """

    pixels: bool = False
    rows: list[dict[str, object]] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    withheld: int = 0

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
        row |= looked.tags if looked is not None else {}
        row["extension"] = extension_of(str(known["path"]))
        row["content_type"] = "uncategorized"
        row |= known
        row["group"] = row.get("group") or PIXELS + facts.pixel_hash
        if row.get("generator") and not row.get("family"):
            row["family"] = cards.taxonomy().family_of(str(row["generator"]))
        if looked is not None:
            row |= looked.pixels
        self.rows.append(row)
        if len(self.rows) >= _ROWS_AT_ONCE:
            self._flush()

    def add_all(self, known: Sequence[Mapping[str, object]], tasks: Sequence[bytes | Path], map: Map) -> None:
        """Measure `tasks` and add each with what is `known` of it, in order."""
        self.add_all_of(zip(known, tasks, strict=True), share_of(len(known), self.pixels), map)

    def add_all_of(self, held: Iterable[tuple[Mapping[str, object], bytes | Path]], share: float, map: Map) -> None:
        """The same as they come: what is known of each image, and the image; `share` of the groups are looked at."""
        ahead: deque[Mapping[str, object]] = deque()

        def tasks() -> Iterator[Task]:
            for known, data in held:
                ahead.append(known)
                yield Look(data) if drawn(str(known.get("group") or known["path"]), share) else data

        for measured in map(measure, tasks()):
            self.add(ahead.popleft(), measured)

    def target(self, name: str, kind: str, folders: tuple[str, ...] = (), remake: str = "") -> Target:
        """What has been gathered. Raises `UsageError` where one of the classes is missing: nothing can be told apart."""
        self._flush()
        table = pa.concat_tables(self.tables) if self.tables else FACTS.empty_table()
        table = both_classes(table, name, len(self.unreadable), self.withheld)
        return Target(name, kind, table, tuple(self.unreadable), folders, remake)

    def _flush(self) -> None:
        if self.rows:
            names = PIXEL_PROBES if self.pixels else ()
            shape = pa.schema([*FACTS, *(pa.field(name, pa.list_(pa.float32())) for name in names)])
            self.tables.append(
                pa.table({f.name: pa.array([r.get(f.name) for r in self.rows], f.type) for f in shape}, schema=shape)
            )
            self.rows.clear()


def both_classes(table: pa.Table, name: str, unreadable: int = 0, withheld: int = 0) -> pa.Table:
    """`table`, if it holds real and synthetic images. Raises `UsageError` otherwise."""
    found = set(table["origin"].unique().to_pylist())
    missing = [o for o in ORIGINS if o not in found]
    if missing:
        lost = f" ({unreadable} could not be read)" if unreadable else ""
        if withheld:
            raise UsageError(
                f"{name} holds the pixels of {len(table)} images{lost}, but of no {' and no '.join(missing)} ones; {withheld} "
                f"rows hold none, since they may not be passed on. Restore them, then audit that: build-imaginet rebuild {name}"
            )
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
