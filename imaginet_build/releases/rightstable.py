"""What may be done with each row of a release, as a table: so that what its card says of rights can be counted again.

The licence of a row does not say it all: the card of its source may forbid what the licence allows, and a picture is bound by
the photograph it was made from, which need not be in the release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from imaginet_build.errors import BuildError
from imaginet_build.releases import licences, release
from imaginet_build.releases.licences import Rights
from imaginet_build.releases.rights import FETCH, Claim

FILE = "provenance/rights.parquet"
SCHEMA = pa.schema([("id", pa.string()), ("redistribute", pa.bool_()), ("commercial", pa.bool_())])
_AT_ONCE = 5000


def write(folder: Path, view: str, claims: Mapping[str, Claim], previous: Path | None = None) -> None:
    """The table of the rows of `view`, in their order. A row of which `claims` says nothing keeps what the release at
    `previous` says of it; what nobody claims is decided by its licence alone."""
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    before = _said(previous) if previous is not None and (previous / FILE).is_file() else iter(())
    older = {name: terms for name, terms in before if name not in claims}
    rows = _rows(folder, view, "licence")
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while some := list(islice(rows, _AT_ONCE)):
            terms = [
                claims[name].rights if name in claims else older.get(name) or licences.rights_of(licence)
                for name, licence in some
            ]
            columns = [[name for name, _ in some], [one.redistribute for one in terms], [one.commercial for one in terms]]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))


def counted(folder: Path, view: str, only: str | None = None) -> dict[str, int]:
    """Of the rows of `view`: `withheld`, those without pixels; `must_not_travel`, those whose pixels are here and may not be
    passed on; `beyond`, those that a release of `only` may not hold. Raises `BuildError` where the table is of other rows."""
    if not (folder / FILE).is_file():
        raise BuildError(f"{folder / FILE} is missing, so nobody can say what may be passed on: publish it once more")
    withheld = bound = beyond = 0
    said = _said(folder)
    for name, hint in _rows(folder, view, FETCH):
        other, terms = next(said, ("", Rights()))
        if other != name:
            raise BuildError(f"{folder / FILE} is not of the rows of '{view}' ({name}): take an intact copy")
        withheld += hint is not None
        bound += hint is None and terms.redistribute is False
        beyond += only is not None and not terms.permits(only)
    if extra := next(said, None):
        raise BuildError(f"{folder / FILE} is not of the rows of '{view}' ({extra[0]}): take an intact copy")
    return {"withheld": withheld, "must_not_travel": bound, "beyond": beyond}


def _said(folder: Path) -> Iterator[tuple[str, Rights]]:
    with pq.ParquetFile(folder / FILE, pre_buffer=False) as file:
        if not file.schema_arrow.equals(SCHEMA):
            raise BuildError(f"{folder / FILE} has other columns than {', '.join(SCHEMA.names)}: take an intact copy")
        for batch in file.iter_batches(_AT_ONCE, use_threads=False):
            columns = (batch[name].to_pylist() for name in SCHEMA.names)
            for name, redistribute, commercial in zip(*columns, strict=True):
                yield name, Rights(redistribute, commercial)


def _rows(folder: Path, view: str, column: str) -> Iterator[tuple[str, str | None]]:
    """The id of every row with another column of it, None where there is no such column."""
    for paths in release.shards(folder, view).values():
        for path in paths:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                names = [name for name in ("id", column) if name in file.schema_arrow.names]
                for batch in file.iter_batches(_AT_ONCE, columns=names, use_threads=False):
                    ids = batch["id"].to_pylist()
                    yield from zip(ids, batch[column].to_pylist() if column in names else [None] * len(ids), strict=True)
