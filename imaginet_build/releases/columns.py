"""The columns of one shard: as `datasets` describes them, as Arrow holds them, and whether a file keeps to what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build.errors import BuildError
from imaginet_build.records import ORIGINS

Features = dict[str, dict[str, Any]]

KEY = b"huggingface"
NEEDED = (
    *("id", "label", "content_type", "family", "generator", "group", "licence"),
    *("width", "height", "sha256", "source_sha256"),
)
"""What every row of a view says."""

KNOWN = (*NEEDED, "image", "pair_id", "source", "source_key", "prompt", "phash")
"""The columns that a view has; in those that are not in `NEEDED` a row may say nothing."""

_VALUES = {name: pa.type_for_alias(name) for name in ("string", "int64", "int32", "float32", "float64", "bool")}


def schema_of(described: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    """The Arrow schema of a shard with these features."""
    fields = [pa.field(name, _arrow_type(feature)) for name, feature in described.items()]
    return pa.schema(fields, metadata={KEY: json.dumps({"info": {"features": described}})})


def _arrow_type(feature: Mapping[str, Any]) -> pa.DataType:
    match feature["_type"]:
        case "Image":
            return pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
        case "ClassLabel":
            return pa.int64()
    return _VALUES[feature["dtype"]]


def features_of(path: Path) -> Features:
    """The features one shard was written with, read back from its Parquet schema. Raises `BuildError` where it has none, or
    others than its columns."""
    schema = pq.read_schema(path)
    if KEY not in (schema.metadata or {}):
        raise BuildError(f"{path} carries no feature names: it was not written by publish; publish it again")
    try:
        found = json.loads(schema.metadata[KEY])["info"]["features"]
        same = schema_of(found).equals(schema)
        numbered = all(_are_names(feature["names"]) for feature in found.values() if feature["_type"] == "ClassLabel")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise BuildError(f"{path}: what it says of its columns is none of ours: take an intact copy") from None
    if not (same and numbered):
        raise BuildError(f"{path}: its columns are not those that it says it has: take an intact copy")
    return cast(Features, found)


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def unlike(path: Path) -> str:
    """In what the rows of a view's shard are not as they should be, '' where they are. Raises what reading it raises."""
    described = features_of(path)
    if lost := [name for name in KNOWN if name not in described]:
        return f"it has no column '{lost[0]}'"
    if described["label"].get("names") != list(ORIGINS):
        return f"its labels are {described['label'].get('names')} and not {list(ORIGINS)}"
    numbered = [name for name, feature in described.items() if feature["_type"] == "ClassLabel"]
    if lost := [name for name in ("content_type", "family", "generator") if name not in numbered]:
        return f"its column '{lost[0]}' has no class names"
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(5000, columns=list(dict.fromkeys([*NEEDED, *numbered])), use_threads=False):
            for name in NEEDED:
                if batch[name].null_count:
                    return f"a row says nothing in '{name}'"
            for name in numbered:
                ends = pc.min_max(batch[name])
                if batch.num_rows and not 0 <= ends["min"].as_py() <= ends["max"].as_py() < len(described[name]["names"]):
                    return f"a row has a number in '{name}' that is no class"
    return ""
