"""Lists of labelled images as people keep them: an index beside the files, or an annotation list without any file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from imaginet_build.errors import UsageError
from imaginet_build.facts import FACTS, Target, Unreadable, both_classes, extension_of

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

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
    "class": "origin", "category": "content_type", "model": "generator",
}  # fmt: skip
_ORIGIN_WORDS = {"real": "real", "nature": "real", "synthetic": "synthetic", "fake": "synthetic", "ai": "synthetic"}


def read_list(path: Path) -> Target:
    """An annotation list: paths and labels, no images. Every row is a group of its own.

    With a header (path and origin at least) or without one (COLUMNS, as many as there are); labels as words or as the digits
    of DIGITS. Raises `UsageError` where no row can be understood; rows that cannot are counted as unreadable.
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
    for name in ("family", "generator"):
        if name in frame:
            words = frame[name].where(synthetic & (frame[name] != ""), None).tolist()
            columns[name] = pa.array([w if isinstance(w, str) else None for w in words], pa.string())
    table = pa.table({f.name: columns.get(f.name, pa.nulls(len(frame), f.type)) for f in FACTS})
    return Target(str(path), "list", both_classes(table, str(path), len(unreadable)), tuple(unreadable))


def read_index(path: Path, unreadable: list[Unreadable]) -> Iterator[dict[str, object]]:
    """The rows of an index beside its images, as `facts.Growing` wants them; what cannot be understood is `unreadable`."""
    frame = _frame(path, unreadable)
    kept = [c for c in (*COLUMNS, "group") if c in frame]
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
            on_bad_lines="skip",
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
        raise UsageError(f"{path} cannot be read as an annotation list: {error}") from error
    frame.columns = pd.Index([_ALIASES.get(str(c).strip().lower(), str(c).strip().lower()) for c in frame.columns])
    frame = frame.loc[:, ~frame.columns.duplicated()].fillna("")
    for name in ("origin", "content_type", "family", "generator"):
        if name not in frame:
            continue
        words = frame[name].str.strip()
        known = {str(i): word for i, word in enumerate(DIGITS[name])}
        if name == "origin":
            frame[name] = words.str.lower().map(known | _ORIGIN_WORDS)
        elif words.isin(known).all():  # digits only where every row has one: a generator may well be called "3"
            frame[name] = words.map(known)
        else:
            frame[name] = words
    if "content_type" not in frame:
        frame["content_type"] = ""
    frame["content_type"] = frame["content_type"].replace("", "uncategorized")
    bad = frame["origin"].isna() | (frame["path"] == "")
    for number, row in frame[bad].iterrows():
        said = "no path" if row["path"] == "" else "its origin is neither real nor synthetic (0, 1)"
        unreadable.append(Unreadable(str(row["path"]), "unknown-origin" if row["path"] else "no-path", f"row {number}: {said}"))
    return frame[~bad].reset_index(drop=True)
