"""The work folder: parts that are either whole or absent, and the facts that can be read from them without a pixel.

Finished means the file is there. A part is written under a temporary name, flushed to disk and linked into place, so that
killing the process at any moment loses nothing that was finished; when two writers race, the first one wins.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import FACT_SCHEMA, PLAN_SCHEMA, REJECT_SCHEMA, SCHEMA, table_of


class StoreError(BuildError):
    """The work folder cannot be written or read: the disk, not an image, is at fault, so no image may be refused for it."""


LATER = frozenset({"exif", "icc"})
"""Facts that the first parts were written without: null there."""

_PLAN_ROWS = 1 << 14

ROWS_PER_GROUP = 32
"""Small row groups: one image can be read back without its thousand neighbours."""


@contextmanager
def written(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary name beside `path`; what the body writes there appears at `path` whole, or not at all.

    With `replace` the new file takes the place of an old one. Without it the first writer wins and a later one's file is
    thrown away in silence, which is right because both hold the same rows.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        descriptor = os.open(temporary, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if replace:
            temporary.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise StoreError(f"cannot write {path}: {why}. What was finished is kept; run again to go on") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8), whole or not at all."""
    with written(path, replace=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


class Store:
    """A work folder. Opening one creates nothing; writing creates what it needs."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.recipe_path = self.root / "recipe.toml"
        self.plan_path = self.root / "plan.parquet"
        self._index: dict[str, tuple[Path, int, int]] = {}
        self._indexed: set[Path] = set()
        self._refused: dict[Path, frozenset[str]] = {}

    def write_part(self, stage: str, name: str, rows: Sequence[Mapping[str, object]], images: Sequence[bytes]) -> Path:
        """One part of `stage`: `rows` of `FACT_SCHEMA` and, in the same order, the bytes as they were born."""
        table = table_of(rows, FACT_SCHEMA).append_column(SCHEMA.field("image"), pa.array(images, pa.binary()))
        path = self.root / "parts" / stage / f"{name}.parquet"
        with written(path) as temporary:
            pq.write_table(
                table,
                temporary,
                row_group_size=ROWS_PER_GROUP,
                compression={name: "none" if name == "image" else "zstd" for name in SCHEMA.names},
                use_dictionary=[name for name in SCHEMA.names if name != "image"],
                write_statistics=False,
                write_page_checksum=True,
            )
        return path

    def write_rejects(self, stage: str, name: str, rows: Sequence[Mapping[str, object]]) -> Path:
        """What `stage` refused, with reasons. Written before the part of the same name, so that a part is never alone."""
        path = self.root / "rejects" / stage / f"{name}.parquet"
        with written(path) as temporary:
            pq.write_table(table_of(rows, REJECT_SCHEMA), temporary)
        return path

    def parts(self, stage: str | None = None) -> list[Path]:
        """Every finished part, sorted by name."""
        return sorted((self.root / "parts").glob(f"{stage or '*'}/[!.]*.parquet"))

    def facts(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of all parts without their pixels, sorted by id. Raises `StoreError` where two parts hold one id, or one
        lacks a fact."""
        names = list(dict.fromkeys(["id", *(columns or FACT_SCHEMA.names)]))
        schema = pa.schema([FACT_SCHEMA.field(name) for name in names])
        table = pa.concat_tables([_facts(path, schema) for path in self.parts()] or [schema.empty_table()])
        order, columns_by_name = pc.sort_indices(table["id"]), {}
        for name in names:
            # One column at a time, its unsorted form let go: the whole table never lies there twice.
            columns_by_name[name], table = table[name].take(order), table.drop_columns([name])
        table = pa.table(columns_by_name, schema=schema)
        # Neighbours are compared: a set of all ids would take more memory than they do.
        if pc.any(pc.equal(table["id"].slice(1), table["id"].slice(0, max(len(table) - 1, 0)))).as_py():
            counts = pc.value_counts(table["id"]).to_pylist()
            twice = min(count["values"] for count in counts if count["counts"] > 1)
            raise StoreError(f"id {twice} stands in two parts of {self.root}/parts: delete the part that was copied there")
        return table

    def facts_of(self, part: Path, columns: Sequence[str]) -> pa.Table:
        """Id and `columns` of the rows of one part, in its order. Raises `StoreError` where one lacks a fact."""
        return _facts(part, pa.schema([FACT_SCHEMA.field(name) for name in dict.fromkeys(["id", *columns])]))

    def ids(self, stage: str | None = None) -> set[str]:
        """The ids that need no more work: in a part, or refused with a reason."""
        files = [*self.parts(stage), *self._reject_files(stage)]
        return {name for path in files for name in _read(path, ["id"])["id"].to_pylist()}

    def names(self, part: Path) -> list[str]:
        """The ids in one part."""
        names: list[str] = _read(part, ["id"])["id"].to_pylist()
        return names

    def rejects(self) -> pa.Table:
        """Every refusal so far (`REJECT_SCHEMA`), sorted by stage and id; one row an id."""
        tables = [_read(path, REJECT_SCHEMA.names).cast(REJECT_SCHEMA) for path in self._reject_files(None)]
        if not any(table.num_rows for table in tables):
            return REJECT_SCHEMA.empty_table()
        table = pa.concat_tables(tables)
        table = table.take(pc.sort_indices(table, [("stage", "ascending"), ("id", "ascending")])).combine_chunks()
        # Of rows alike the last one counts, and sorting leaves them in their order.
        alike = [pc.equal(table[key].slice(0, table.num_rows - 1), table[key].slice(1)) for key in ("stage", "id")]
        return table.filter(pa.concat_arrays([pc.invert(pc.and_(*alike)).combine_chunks(), pa.array([True])]))

    def forget_rejects(self, stage: str, ids: Collection[str]) -> None:
        """Leave out refusals that are to be judged anew, file by file; of a file that held nothing else nothing stays."""
        for path in self._reject_files(stage):
            if path not in self._refused:  # what a file holds, this method alone changes
                self._refused[path] = frozenset(_read(path, ["id"])["id"].to_pylist())
            if self._refused[path].isdisjoint(ids):
                continue
            del self._refused[path]
            rows = _read(path, REJECT_SCHEMA.names).cast(REJECT_SCHEMA).to_pylist()
            left = [row for row in rows if row["id"] not in ids]
            if left:
                with written(path, replace=True) as temporary:
                    pq.write_table(table_of(left, REJECT_SCHEMA), temporary)
            else:
                path.unlink(missing_ok=True)

    def images(self, ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """The bytes of each id, in the order asked for, holding one row group at a time. Raises `StoreError` for an unknown id.

        Ids that lie together in a part are cheap to ask for together.
        """
        held: tuple[Path, int] | None = None
        column: pa.ChunkedArray | None = None
        for name in ids:
            if name not in self._index:
                # Only now: a worker that asks for nothing, or again for what it knows, would list every part for each batch.
                self._build_index()
            if name not in self._index:
                raise StoreError(
                    f"no part of {self.root}/parts holds image {name}: a part has vanished; run collect and generate again"
                )
            path, group, row = self._index[name]
            if held != (path, group) or column is None:
                with _opened(path) as file:
                    column = file.read_row_group(group, columns=["image"])["image"]
                held = (path, group)
            yield name, column[row].as_py()

    def in_part_order(self, ids: Iterable[str]) -> list[str]:
        """`ids` sorted by where they lie, so that reading them back with `images` touches every row group once."""
        self._build_index()
        return sorted(ids, key=lambda name: self._index.get(name, (Path(), 0, 0)))

    def plan(self) -> pa.Table:
        """The balancer's decisions (`PLAN_SCHEMA`), sorted by id."""
        if not self.plan_path.is_file():
            raise UsageError(f"no plan in {self.root}: run build-imaginet balance first")
        return _read(self.plan_path, PLAN_SCHEMA.names)

    def plan_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Columns of the plan, sorted by id, a few thousand rows at a time, cut alike whatever the columns."""
        if not self.plan_path.is_file():
            raise UsageError(f"no plan in {self.root}: run build-imaginet balance first")
        with _opened(self.plan_path, buffer_size=1 << 16) as file:
            _refuse_absent(set(columns) - set(file.schema_arrow.names))
            for group in range(file.num_row_groups):
                # Of one row group at a time: where a batch ends would else depend on the pages of the columns.
                yield from file.iter_batches(_PLAN_ROWS, row_groups=[group], columns=list(columns), use_threads=False)

    def write_plan(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Replace the plan by `rows` of `PLAN_SCHEMA`."""
        with written(self.plan_path, replace=True) as temporary:
            pq.write_table(table_of(sorted(rows, key=lambda r: str(r["id"])), PLAN_SCHEMA), temporary)

    def _reject_files(self, stage: str | None) -> list[Path]:
        return sorted((self.root / "rejects").glob(f"{stage or '*'}/[!.]*.parquet"))

    def _build_index(self) -> None:
        for path in self.parts():
            if path in self._indexed:
                continue
            with _opened(path) as file:
                for group in range(file.num_row_groups):
                    for row, name in enumerate(file.read_row_group(group, columns=["id"])["id"].to_pylist()):
                        self._index[name] = (path, group, row)
            self._indexed.add(path)


@contextmanager
def _opened(path: Path, buffer_size: int = 0) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, buffer_size=buffer_size) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path} cannot be read ({error}): delete it and run the same command again") from error


def _facts(path: Path, schema: pa.Schema) -> pa.Table:
    """The facts in a part, as `schema` wants them."""
    table = _read(path, schema.names)
    for name in (field.name for field in schema if not field.nullable):
        if table[name].null_count:
            rows = table.filter(pc.is_null(table[name]))
            more = f" (and {rows.num_rows - 1:,} images more)" if rows.num_rows > 1 else ""
            raise StoreError(
                f"the facts of image {rows['id'][0].as_py()} are impossible: its {name} is missing{more}; remove {path} and "
                "run build-imaginet collect or generate again"
            )
    try:
        return table.cast(schema)
    except ValueError as error:
        raise StoreError(f"{path} holds facts of another kind ({error}): delete it and run the same command again") from error


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    with _opened(path) as file:
        absent = set(columns) - set(file.schema_arrow.names)
        _refuse_absent(absent - LATER)
        table = file.read(columns=[name for name in columns if name not in absent])
        for name in absent:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
        return table.select(list(columns))


def _refuse_absent(columns: Collection[str]) -> None:
    if columns:
        raise pa.ArrowInvalid(f"it has no column {', '.join(sorted(columns))}")
