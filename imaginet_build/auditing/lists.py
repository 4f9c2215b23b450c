"""Lists of labelled images as people keep them: an index beside the files, or an annotation list without any file."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from imaginet_build.auditing.facts import FACTS, Target, Unreadable, both_classes, extension_of
from imaginet_build.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

_BAD_LINE = re.compile(r"line (\d+): (expected \d+ fields, saw \d+)")
LIST_SUFFIXES = frozenset({".txt", ".csv", ".tsv"})

COLUMNS = ("path", "origin", "content_type", "family", "generator")
"""The columns of a list without a header, as the ImagiNet paper publishes them (arXiv 2407.20020)."""

DIGITS: dict[str, tuple[str, ...]] = {
    "origin": ("real", "synthetic"),
    "content_type": ("photos", "paintings", "faces", "uncategorized"),
    "family": ("gan", "sd", "midjourney", "dalle3", "real"),
    "generator": (
        "progan", "stylegan_xl", "stylegan3", "sd_2_1", "sdxl", "animagine_xl", "midjourney", "dalle3", "real",
    ),
}  # fmt: skip
"""What the digits of such a list stand for."""

_ALIASES = {
    "file": "path", "filename": "path", "file_name": "path", "image": "path", "image_path": "path", "label": "origin",
    "class": "origin", "category": "content_type", "model": "generator", "prompt": "caption", "text": "caption",
    "title": "caption", "description": "caption", "tags": "caption", "keywords": "caption",
}  # fmt: skip
ORIGIN_WORDS = {
    "real": "real", "nature": "real", "0_real": "real", "human": "real", "synthetic": "synthetic", "fake": "synthetic",
    "1_fake": "synthetic", "ai": "synthetic", "generated": "synthetic",
}  # fmt: skip
"""What people call the two classes, in lower case."""


def read_list(path: Path) -> Target:
    """An annotation list: paths and labels, no images. Every row is a group of its own, unless a column `group` says otherwise.

    With a header (path and origin at least) or without one (COLUMNS, as many as there are); labels as words or as the digits
    of DIGITS. Raises `UsageError` where no row can be understood, or where two columns of one meaning disagree; rows that
    cannot be understood, name one image twice or contradict themselves are counted as unreadable.
    """
    unreadable: list[Unreadable] = []
    frame = _frame(path, unreadable)
    synthetic = frame["origin"] == "synthetic"
    columns: dict[str, pa.Array] = {
        "path": pa.array(frame["path"].tolist(), pa.string()),
        "origin": pa.array(frame["origin"].tolist(), pa.string()),
        "content_type": pa.array(frame["content_type"].tolist(), pa.string()),
        "extension": pa.array([extension_of(p) for p in frame["path"].tolist()], pa.string()),
        "group": pa.array([f"{i:09d}" for i in range(len(frame))], pa.string()),
    }
    if "group" in frame:  # a row without one is a group of its own
        named = [
            f"g:{name}" if name else alone
            for name, alone in zip(frame["group"].tolist(), columns["group"].to_pylist(), strict=True)
        ]
        columns["group"] = pa.array(named, pa.string())
    if "caption" in frame:
        columns["caption"] = pa.array(
            frame["caption"].where(frame["caption"] != "", None).tolist(), pa.string(), from_pandas=True
        )
    for name in ("family", "generator"):
        if name in frame:
            words = frame[name].where(synthetic & (frame[name] != ""), None).tolist()
            columns[name] = pa.array([w if isinstance(w, str) else None for w in words], pa.string())
    table = pa.table({f.name: columns.get(f.name, pa.nulls(len(frame), f.type)) for f in FACTS})
    return Target(str(path), "list", both_classes(table, str(path), len(unreadable)), tuple(unreadable))


def read_index(path: Path, unreadable: list[Unreadable]) -> Iterator[dict[str, object]]:
    """The rows of an index beside its images, as `facts.Growing` wants them; what cannot be understood is `unreadable`."""
    frame = _frame(path, unreadable)
    kept = [c for c in (*COLUMNS, "group", "caption") if c in frame]
    for row in frame[kept].to_dict("records"):
        one: dict[str, object] = {str(k): (v or None) for k, v in row.items()}
        if one["origin"] == "real":
            one |= {"family": None, "generator": None}
        yield one


def _frame(path: Path, unreadable: list[Unreadable]) -> pd.DataFrame:
    """The list with canonical column names and words for labels, all strings, '' where nothing stands."""
    import pandas as pd

    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first = file.readline().strip().lower().split(separator)
        named = {_ALIASES.get(w.strip(), w.strip()) for w in first}
        header = {"path", "origin"} <= named
        if not header and len(first) < 2:
            raise UsageError(
                f"{path}: {first[0][:60]!r} is no row of an annotation list (path,origin[,content_type,family,generator])"
            )
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            frame = pd.read_csv(
                path,
                sep=separator,
                header=0 if header else None,
                names=None if header else list(COLUMNS[: max(2, min(5, len(first)))]),
                index_col=False,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                encoding_errors="replace",
                on_bad_lines="warn",
            )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
        raise UsageError(f"{path} cannot be read as an annotation list: {error}") from error
    for warning in said:
        for number, what in _BAD_LINE.findall(str(warning.message)):
            unreadable.append(Unreadable(f"{path.name}:{number}", "no-row", what))
    frame = _one_column_each(frame.fillna(""), path)
    for name in ("origin", "content_type", "family", "generator"):
        if name not in frame:
            continue
        words = frame[name].str.strip()
        known = {str(i): word for i, word in enumerate(DIGITS[name])}
        if name == "origin":
            frame[name] = _origins(frame[name])
        elif words[words != ""].isin(known).all():  # digits only where no row has a word: a generator may well be called "3"
            frame[name] = words.map(known | {"": ""})
        else:
            frame[name] = words
    if "content_type" not in frame:
        frame["content_type"] = ""
    frame["content_type"] = frame["content_type"].replace("", "uncategorized")
    frame["path"] = frame["path"].str.strip()
    return frame[_understood(frame, unreadable)].reset_index(drop=True)


def _one_column_each(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Columns under their canonical names, one of each. Raises `UsageError` where two of one meaning disagree."""
    import pandas as pd

    written = [str(c).strip().lower() for c in frame.columns]
    names = [_ALIASES.get(c, c) for c in written]
    if names.count("origin") > 1:  # `class` may say dog where `origin` says real
        for place, name in enumerate(names):
            if name == "origin" and _origins(frame.iloc[:, place]).notna().mean() < 0.5:
                names[place] = "caption"
    kept: dict[str, int] = {}
    for place, name in enumerate(names):
        at = kept.setdefault(name, place)
        # A caption and a title are two things: only these say the same.
        if at == place or name not in ("path", "origin", "generator", "content_type"):
            continue
        one, other = (_origins(frame.iloc[:, i]) if name == "origin" else frame.iloc[:, i].str.strip() for i in (at, place))
        differ = (one.fillna("") != other.fillna("")).to_numpy().nonzero()[0]
        if differ.size:
            row = int(differ[0])
            raise UsageError(
                f"{path}: the columns '{written[at]}' and '{written[place]}' both say {name} and contradict each other in "
                f"{differ.size:,} rows, as row {row + 1}: {frame.iat[row, at]!r} and {frame.iat[row, place]!r}. Remove or "
                "rename one of them"
            )
    result = frame.iloc[:, list(kept.values())]
    result.columns = pd.Index(list(kept))
    return result


def _origins(column: pd.Series[str]) -> pd.Series[str]:
    """Words or digits as real and synthetic, missing where they are neither."""
    known = {str(i): word for i, word in enumerate(DIGITS["origin"])}
    return column.str.strip().str.lower().map(known | ORIGIN_WORDS)


def _understood(frame: pd.DataFrame, unreadable: list[Unreadable]) -> pd.Series[bool]:
    """Which rows can be used; the others are listed with their reason."""
    path, origin = frame["path"], frame["origin"]
    good = path.notna()
    refused = [
        (path == "", "no-path", "no path"),
        (origin.isna(), "unknown-origin", "its origin is neither real nor synthetic (0, 1)"),
    ]
    maker = frame["generator"] if "generator" in frame else frame.get("family")
    if maker is not None:
        claims = (origin == "synthetic") & (maker.str.lower() == "real")
        refused.append((claims, "contradiction", "it is synthetic, and its generator is 'real'"))
    usable = ~(origin.isna() | (path == ""))
    twice = usable & path.where(usable).duplicated(keep=False)
    labels = origin[twice].groupby(path[twice]).transform("nunique").reindex(path.index)
    origins = twice & (labels.fillna(0) > 1)
    refused += [
        (usable & origins, "contradiction", "it is listed as real and as synthetic"),
        (usable & path.where(usable).duplicated(), "listed-twice", "the list names it twice"),
    ]
    listed: list[tuple[int, Unreadable]] = []
    for rows, reason, said in refused:
        listed += [(int(str(i)), Unreadable(str(name), reason, f"row {i}: {said}")) for i, name in path[rows & good].items()]
        good &= ~rows
    unreadable += [one for _, one in sorted(listed, key=lambda item: item[0])]
    return good
