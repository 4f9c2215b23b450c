"""What a label can be guessed from without looking at a pixel: the facts of a file as small integer codes.

A probe is one fact of the file (its extension, its quantization tables, its width). Every probe becomes a column of codes 0-63,
so that counting tables and gradient boosting both work on it as it is; coding never sees a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from imaginet_build.auditing.tags import PLACES, TAGS

Codes = npt.NDArray[np.int64]

ALL = "all"
"""The scope of everything, as against one content type; also the probe of all facts together."""

CONTAINERS: tuple[str, ...] = ("exif", "xmp", "icc", "iptc", "c2pa", "text", "comment")
"""The metadata containers whose presence is a probe each."""

MAX_CODES = 48
"""Most codes a probe may have: rarer categories become one `other`, numbers become quantile bins."""

FEWEST_ROWS = 5
"""A word of the metadata on fewer rows is no value of its own: it stands with the others of its key."""

_WORD_CELLS = 50_000_000
"""Keys of the metadata times rows, at most; the keys that most rows have come first."""

BYTES_PER_PIXEL = "bytes_per_pixel"
"""Reported beside the no-pixel probes, never in the gate: how well a picture compresses speaks of its content."""

_CODEC_OF_EXTENSION = {"jpg": "jpeg", "jpe": "jpeg", "jfif": "jpeg", "tif": "tiff", "": "none"}

_WHY_REENCODE = "publish the `equalized` view, which gives both classes one law of codec, quality and chroma subsampling"
_WHY_RESIZE = "publish the `equalized` view, which crops both classes at native resolution by one law of size"
_WHY_STRIP = "publish the `equalized` view, which writes pixels and nothing else"

REMEDIES: dict[str, str] = (
    dict.fromkeys(
        (
            "extension",
            "extension_case",
            "mime",
            "codec",
            "mime_mismatch",
            "quality",
            "qtables",
            "subsampling",
            "progressive",
            "mode",
        ),
        _WHY_REENCODE,
    )
    | dict.fromkeys(("width", "height", "aspect", "megapixels"), _WHY_RESIZE)
    | dict.fromkeys((*CONTAINERS, *TAGS, *PLACES), _WHY_STRIP)
    | {
        "content_type": "make the cells category x origin equal",
        "extension+content_type": _WHY_REENCODE + ", in every category alike",
        "all": "the facts tell it together: make the cells category x origin equal and publish the `equalized` view",
    }
)
"""What removes a leak, by probe; `remedy` adds the command."""


@dataclass(frozen=True)
class Probe:
    """One fact of every row.

    `codes`: (n,) int64 in [0, MAX_CODES], for counting and fitting. `ordered`: larger codes are larger numbers. `values`: (n,)
    int64 index into `names`, the exact values before binning: what the search for markers goes through.
    """

    name: str
    codes: Codes
    ordered: bool
    values: Codes
    names: tuple[str, ...]
    gate: bool = True

    def take(self, rows: npt.NDArray[np.bool_]) -> Probe:
        """The same probe over some of the rows only; codes keep their meaning."""
        return Probe(self.name, self.codes[rows], self.ordered, self.values[rows], self.names, self.gate)


def remedy(probe: str, view: str | None, command: str) -> str:
    """What removes the leak `probe` found in `view`, ending in the command that does it."""
    if view == "equalized":
        return f"both classes must come from one plan; draw it and the view anew: {command}"
    what = REMEDIES.get(probe.partition(" ")[0], _WHY_REENCODE)
    return f"{what}; train and test on `equalized`: {command}" if view == "native" else f"{what}: {command}"


def _categorical(name: str, column: pa.ChunkedArray | pa.Array, gate: bool = True) -> Probe:
    """A probe of unordered values; null is a value of its own, written `none`. Codes go by frequency, then by name."""
    encoded = pc.fill_null(pc.cast(column, pa.string()), "none")
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    encoded = encoded.dictionary_encode()
    words = [str(w) for w in encoded.dictionary.to_pylist()]
    raw = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), np.int64)
    counts = np.bincount(raw, minlength=len(words))
    order = sorted(range(len(words)), key=lambda i: (-int(counts[i]), words[i]))
    place = np.empty(len(words), np.int64)
    place[order] = np.arange(len(words))
    values = place[raw]
    return Probe(name, np.minimum(values, MAX_CODES), False, values, tuple(words[i] for i in order), gate)


def _numeric(name: str, numbers: npt.NDArray[np.float64], gate: bool = True, digits: int | None = None) -> Probe:
    """A probe of ordered values (NaN: missing, code 0), in at most MAX_CODES quantile bins."""
    exact = numbers if digits is None else np.round(numbers, digits)
    distinct, values = np.unique(exact, return_inverse=True)  # NaN sorts last and is one value
    names = tuple("none" if np.isnan(v) else f"{v:g}" for v in distinct.tolist())
    known = exact[~np.isnan(exact)]
    if len(distinct) < MAX_CODES:
        edges = np.unique(known)
    else:
        edges = np.unique(np.quantile(known, np.linspace(0, 1, MAX_CODES)[:-1], method="lower"))
    codes = np.where(np.isnan(exact), 0, np.searchsorted(edges, exact, side="right"))
    return Probe(name, codes.astype(np.int64), True, values.astype(np.int64), names, gate)


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    return np.asarray(pc.cast(table[name], pa.float64()).to_numpy(), np.float64)


def _known(table: pa.Table, name: str) -> bool:
    return name in table.column_names and table[name].null_count < len(table)


def _metadata(table: pa.Table) -> list[Probe]:
    encoded = pc.fill_null(table["metadata"], "").combine_chunks().dictionary_encode()
    held = [frozenset(words.split(",")) for words in encoded.dictionary.to_pylist()]
    return [
        _categorical(name, pa.array(["yes" if name in h else "no" for h in held], pa.string()).take(encoded.indices))
        for name in CONTAINERS
    ]


def _mime(extension: pa.ChunkedArray) -> Probe:
    """The MIME type that the file name declares."""
    encoded = pc.fill_null(extension, "").combine_chunks().dictionary_encode()
    words = [_CODEC_OF_EXTENSION.get(e, e) for e in encoded.dictionary.to_pylist()]
    types = pa.array([w if w == "none" else f"image/{w}" for w in words], pa.string())
    return _categorical("mime", types.take(encoded.indices))


def _mismatch(table: pa.Table) -> Probe:
    """Whether the file name promises another format (MIME type) than the bytes hold."""
    pairs = pc.binary_join_element_wise(pc.fill_null(table["extension"], ""), pc.fill_null(table["codec"], ""), "/")
    encoded = pairs.combine_chunks().dictionary_encode()
    split = [pair.rpartition("/") for pair in encoded.dictionary.to_pylist()]
    said = ["no" if not e or _CODEC_OF_EXTENSION.get(e, e) == c else "yes" for e, _, c in split]
    return _categorical("mime_mismatch", pa.array(said, pa.string()).take(encoded.indices))


def probes_of(table: pa.Table) -> list[Probe]:
    """Every probe that `table` (`targets.FACTS`) has values for, `content_type` and `bytes_per_pixel` last.

    An annotation list knows extensions alone; whatever has been measured knows all of them.
    """
    found: list[Probe] = []
    if _known(table, "extension"):
        found += [_categorical("extension", table["extension"]), _mime(table["extension"])]
    if _known(table, "codec"):
        found += [_categorical("codec", table["codec"]), _mismatch(table), _numeric("quality", _numbers(table, "quality"))]
        found += [_categorical(name, table[name]) for name in ("qtables", "subsampling", "progressive", "mode")]
    if _known(table, "width") and _known(table, "height"):
        width, height = _numbers(table, "width"), _numbers(table, "height")
        found += [_numeric("width", width), _numeric("height", height), _numeric("aspect", width / height, digits=3)]
        halves = np.round(np.log2(width * height / 1e6) * 2) / 2  # buckets half an octave wide
        found.append(_numeric("megapixels", 2**halves, digits=3))
    if _known(table, "metadata"):
        found += _metadata(table)
    found += [_categorical(name, table[name]) for name in TAGS[:-1] if _known(table, name)]
    if _known(table, "content_type"):
        found.append(_categorical("content_type", table["content_type"]))
    if _known(table, "nbytes") and _known(table, "width"):
        ratio = _numbers(table, "nbytes") / (_numbers(table, "width") * _numbers(table, "height"))
        found.append(_numeric(BYTES_PER_PIXEL, ratio, gate=False))
    return found


def extension_case(table: pa.Table) -> Probe:
    """Whether the file name shouts its extension. For the search for markers alone: a list need not name files as they were."""
    upper = pc.match_substring_regex(table["path"], r"\.[A-Za-z]*[A-Z][A-Za-z]*$")
    return _categorical("extension_case", pc.if_else(upper, "upper", "lower"))


def words_of(table: pa.Table) -> list[Probe]:
    """Every key of the metadata (`tags`) that FEWEST_ROWS rows have, as a probe of its values: for the search for markers
    alone, since there may be hundreds. Of keys that part the rows alike the first stands for all.
    """
    if not _known(table, "words"):
        return []
    said = table["words"].combine_chunks().dictionary_encode()
    row = np.asarray(pc.fill_null(said.indices, -1).to_numpy(zero_copy_only=False), np.int64)
    times = np.bincount(row[row >= 0], minlength=len(said.dictionary))
    lines = pc.split_pattern(said.dictionary, "\n")
    owner = np.asarray(pc.list_parent_indices(lines).to_numpy(zero_copy_only=False), np.int64)
    words = pc.list_flatten(lines).dictionary_encode()
    word = np.asarray(words.indices.to_numpy(zero_copy_only=False), np.int64)
    parted = [text.partition("=")[::2] for text in words.dictionary.to_pylist()]
    keys = sorted({key for key, _ in parted})
    number = {key: k for k, key in enumerate(keys)}
    key = np.array([number[key] for key, _ in parted], np.int64)[word]
    rows_of_key = np.bincount(key, weights=times[owner], minlength=len(keys))
    rows_of_word = np.bincount(word, weights=times[owner], minlength=len(parted))
    often = np.argsort(-rows_of_key, kind="stable")[: max(1, _WORD_CELLS // len(table))]
    found: dict[bytes, Probe] = {}
    order = np.argsort(key, kind="stable")
    ends = np.searchsorted(key[order], np.arange(len(keys) + 1))
    for k in often[rows_of_key[often] >= FEWEST_ROWS].tolist():
        mine = order[ends[k] : ends[k + 1]]
        common, place = np.unique(np.where(rows_of_word[word[mine]] < FEWEST_ROWS, -1, word[mine]), return_inverse=True)
        names = ["(absent)", *("(another)" if w < 0 else parted[w][1] or "(empty)" for w in common.tolist())]
        value = np.zeros(len(said.dictionary) + 1, np.int64)
        value[owner[mine]] = place + 1
        values = value[row]
        if values.min() < values.max():
            found.setdefault(sha256(values.tobytes()).digest(), Probe(keys[k], values, False, values, tuple(names)))
    return list(found.values())


def matrix(probes: Sequence[Probe]) -> npt.NDArray[np.uint8]:
    """The codes of several probes side by side, (n, len(probes)) uint8."""
    return np.stack([p.codes for p in probes], axis=1).astype(np.uint8)
