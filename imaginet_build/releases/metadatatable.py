"""The config `metadata` of a release: every column but the pixels, small enough to be loaded whole, searched and counted.

It is copied from the shards of the first view, row for row in their order, and belongs to no digest: it can always be made
again. A split has one file for each version that added rows to it, so that a later version leaves the earlier ones' files as
they are.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq

from imaginet_build.releases import release
from imaginet_build.releases.shardwriter import CHUNKING
from imaginet_build.store import written

FOLDER = "metadata"


def write(folder: Path, view: str) -> list[str]:
    """Write `metadata/<split>[-<version>]-00000-of-00001.parquet` into the release at `folder`, from the shards of `view`.

    Returns their paths. One shard's rows are in memory at a time. Raises `StoreError` where the disk is full.
    """
    made = []
    for shards in release.shards(folder, view).values():
        for version, some in groupby(shards, lambda path: path.name.rpartition("-of-")[0].rpartition("-")[0]):
            paths = list(some)
            path = folder / FOLDER / f"{version}-00000-of-00001.parquet"
            features = {name: kind for name, kind in release.newest_features(paths).items() if kind["_type"] != "Image"}
            schema = release.schema_of(features)
            with (
                written(path, replace=True) as temporary,
                pq.ParquetWriter(
                    temporary, schema, compression="zstd", write_page_index=True, use_content_defined_chunking=CHUNKING
                ) as writer,
            ):
                for shard in paths:
                    with pq.ParquetFile(shard) as file:
                        table = file.read(columns=list(features), use_threads=False)
                    writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=max(table.num_rows, 1))
            made.append(path.relative_to(folder).as_posix())
    return made
