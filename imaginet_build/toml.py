"""TOML with strict manners: faults of a document in plain words, and tables written in one canonical way.

Ground for `recipe` and `catalog`; reading itself is the standard library's `tomllib`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from imaginet_build.errors import suggest


def write(table: Mapping[str, Any]) -> str:
    """A nested mapping of strings, numbers, booleans, lists and mappings as TOML text; keys keep their order."""
    return "\n".join(_lines(table, ())).strip() + "\n"


def is_tables(value: object) -> bool:
    """Whether TOML would write `value` as an array of tables."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def describe(error: ValidationError, model: type[BaseModel], raw: object) -> list[str]:
    """Every fault of a validation in plain words, one line each, with a near match for unknown keys."""
    found: dict[str, list[str]] = {}
    given: dict[str, str] = {}
    for one in error.errors(include_url=False):
        path = _real_path(one["loc"], raw, missing=one["type"] == "missing")
        where = ".".join(str(step) for step in path) or "the recipe"
        if one["type"] == "extra_forbidden":
            owner = _model_at(model, path[:-1])
            text = f"no such key{suggest(str(path[-1]), owner.model_fields) if owner else ''}"
        elif one["type"] == "missing":
            text = "is missing"
        else:
            text = one["msg"].removeprefix("Value error, ").replace("Input should", "should")
            text = text.replace("String", "text").replace("a valid integer, unable to parse string as an integer", "an integer")
            given[where] = f", not {one['input']!r:.60}"
        found.setdefault(where, []).append(text)
    return [f"{where}: {' or '.join(dict.fromkeys(texts))}{given.get(where, '')}" for where, texts in found.items()]


def _real_path(loc: Sequence[str | int], raw: object, missing: bool) -> tuple[str | int, ...]:
    """The part of a pydantic location that exists in the document: the names of union members are cut off."""
    path: list[str | int] = []
    for depth, step in enumerate(loc):
        try:
            raw = raw[step]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            if missing and depth == len(loc) - 1:
                path.append(step)
            break
        path.append(step)
    return tuple(path)


def _model_at(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel] | None:
    """The settings class whose table stands at `path`."""
    for step in path:
        if isinstance(step, int):
            continue
        if step not in model.model_fields:
            return None
        inner = next(_models_in(model.model_fields[step].annotation), None)
        if inner is None:
            return None
        model = inner
    return model


def _models_in(kind: object) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    elif get_origin(kind) in (list, Union, UnionType, Annotated):
        for inner in get_args(kind):
            yield from _models_in(inner)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    # JSON's strings, numbers and booleans are TOML's too, but for DEL, which TOML wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Lines of one table: plain values first, then its tables, since TOML has no way back to a parent."""
    for key, value in table.items():
        if not (isinstance(value, dict) and value) and not is_tables(value):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        inner = (*path, _key(key))
        if is_tables(value):
            for item in value:
                yield from ("", f"[[{'.'.join(inner)}]]", *_lines(item, inner))
        elif isinstance(value, dict) and value:
            yield from ("", f"[{'.'.join(inner)}]", *_lines(value, inner))
