"""Probes beside the gate as vectors: the pixel probes' numbers, the words of captions, embeddings that a data set brings along.

They are reported and never refuse anything: `pixel_probes.EXPECTED` says of each whether it may tell the classes apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from imaginet_build.auditing.facts import drawn, share_of
from imaginet_build.auditing.pixel_probes import JOINT, PIXEL_PROBES

WORDS = "words"
EMBEDDING = "embedding"
VOCABULARY = 500
"""The most words that are looked at: the commonest."""


@dataclass(frozen=True)
class Numbers:
    """One probe of vectors. `rows`: (n,) which rows have one; `values`: (rows.sum(), d); `curved`: whether more than a weighted
    sum of them is tried."""

    name: str
    rows: npt.NDArray[np.bool_]
    values: npt.NDArray[np.float64]
    curved: bool


def numbers_of(table: pa.Table) -> list[Numbers]:
    """The probes that `table` has vectors for: pixel probes, all of them together, words, embedding."""
    found: list[Numbers] = []
    for name, width in PIXEL_PROBES.items():
        if name in table.column_names and table[name].null_count < len(table):
            rows = np.asarray(pc.is_valid(table[name]).to_numpy(), bool)
            flat = np.asarray(pc.list_flatten(table[name]).to_numpy(), np.float64)
            found.append(Numbers(name, rows, flat.reshape(-1, width), True))
    if len(found) > 1:
        found.append(Numbers(JOINT, found[0].rows, np.concatenate([f.values for f in found], axis=1), True))
    return found + _words(table) + _embedding(table)


def _chosen(table: pa.Table, has: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Of the rows that have a vector as many whole groups as the pixel probes would look at."""
    share = share_of(int(has.sum()), True)
    if share >= 1:
        return has
    groups = table["group"].combine_chunks().dictionary_encode()
    kept = np.array([drawn(name, share) for name in groups.dictionary.to_pylist()], bool)
    return np.asarray(has & kept[groups.indices.to_numpy()], bool)


def _words(table: pa.Table) -> list[Numbers]:
    if "caption" not in table.column_names or table["caption"].null_count == len(table):
        return []
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = _chosen(table, np.asarray(pc.greater(pc.utf8_length(pc.fill_null(table["caption"], "")), 0).to_numpy(), bool))
    texts = table["caption"].filter(pa.array(rows)).to_pylist()
    vectorizer = TfidfVectorizer(max_features=VOCABULARY, min_df=2, sublinear_tf=True)
    try:
        values = vectorizer.fit_transform(texts).toarray()
    except ValueError:  # no word stands in two captions: nothing to compare
        return []
    return [Numbers(WORDS, rows, np.asarray(values, np.float64), False)]


def _embedding(table: pa.Table) -> list[Numbers]:
    if EMBEDDING not in table.column_names or table[EMBEDDING].null_count == len(table):
        return []
    length = np.asarray(pc.fill_null(pc.list_value_length(table[EMBEDDING]), 0).to_numpy(), np.int64)
    usual = int(np.bincount(length[length > 0]).argmax()) if (length > 0).any() else 0
    rows = _chosen(table, length == usual) if usual else np.zeros(len(table), bool)
    if not rows.any():
        return []
    flat = np.asarray(pc.list_flatten(table[EMBEDDING].filter(pa.array(rows))).to_numpy(zero_copy_only=False), np.float64)
    values = np.nan_to_num(flat.reshape(-1, usual))
    return [Numbers(EMBEDDING, rows, values, False)]
