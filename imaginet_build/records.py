"""What flows between the stages: the types, the part schema, and how ids and random numbers are made.

The row is the architecture: a stage reads rows and leaves rows. Nothing here touches a pixel or a vendor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from PIL.Image import Image

Origin = Literal["real", "synthetic"]
Split = Literal["train", "calibration", "test"]
ORIGINS: tuple[Origin, Origin] = ("real", "synthetic")
SPLITS: tuple[Split, Split, Split] = ("train", "calibration", "test")


def make_id(*parts: object) -> str:
    """A 32-digit hexadecimal name for whatever `parts` describe.

    The parts are written as canonical JSON (keys sorted, no spaces) and hashed with SHA-256, so that the name depends on
    nothing but their values: not on time, machine, process or dictionary order.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def seed_of(name: str, purpose: str) -> int:
    """A seed in [0, 2**63) that belongs to `name` for one `purpose` alone; two purposes never share random numbers."""
    return int.from_bytes(hashlib.sha256(f"{purpose}\n{name}".encode()).digest()[:8], "big") >> 1


def random_of(name: str, purpose: str) -> np.random.Generator:
    """The random numbers that belong to `name` for one `purpose` (PCG64): the only source of chance in this package."""
    return np.random.Generator(np.random.PCG64(seed_of(name, purpose)))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to draw. `id` is a hash of the rest."""

    id: str
    text: str
    negative: str
    category: str


@dataclass(frozen=True, slots=True)
class SourceImage:
    """The real image an aligned order starts from. `data` is empty until the worker that draws it has read it."""

    id: str
    sha256: str
    width: int
    height: int
    group: str
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Order:
    """One image to be drawn. `id` hashes what was ordered (generator card, prompt, source image, seed, size)."""

    id: str
    generator: str
    category: str
    seed: int
    width: int
    height: int
    prompt: Prompt | None = None
    source: SourceImage | None = None


@dataclass(frozen=True, slots=True)
class Want:
    """A collector's order: images of `category` (None: of any) from the source card `source`, as many as the stage takes.

    `have`: the source keys that need no more work. `stratum`: only images of this part of the source (a class, a subject, an
    album); None means of any. `count`: how many are to be held in the end, those of `have` included, so that a collector that
    reads in sequence can choose before it reads; None: all there are. `now`: how many more this call will take, where that is
    known, so that one that fetches ahead need not fetch in vain; it changes nothing of what comes, nor of its order.
    """

    source: str
    category: str | None
    seed: int
    have: frozenset[str] = frozenset()
    stratum: str | None = None
    count: int | None = None
    now: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One image as a collector delivers it: the bytes untouched, and what the source itself says of them.

    `source_key` names the image within its source for ever (a path, a URL, a row number). What is None is filled in from
    the source's card. Images that share a `group` (crops of one photograph) never straddle a split. `sha256` is what the source
    claims; a collector checks it, and so does `collect`. `stratum`: the part of its source that it stands for, whose spares may
    take its place. `date`: when it was uploaded or published, as the source states it (ISO 8601 or EXIF's form).
    """

    source_key: str
    data: bytes
    origin: Origin | None = None
    category: str | None = None
    generator: str | None = None
    source: str | None = None
    licence: str | None = None
    group: str | None = None
    prompt: str | None = None
    sha256: str | None = None
    stratum: str | None = None
    date: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no image. `reason` is a short stable word for counting; `detail` says it in a sentence. `stratum`: as in
    `Found`, where it is known."""

    reason: str
    detail: str = ""
    source_key: str = ""
    stratum: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an image from its bytes alone.

    `width`, `height`: pixels after EXIF orientation. `codec`: jpeg, png, webp, gif, bmp or tiff. `quality`: the IJG quality
    (1-100) whose tables lie nearest, JPEG only. `qtables`: a digest of the quantization tables. `subsampling`: 4:4:4, 4:2:2,
    4:2:0, 4:4:0, 4:1:1, 4:1:0, grey or other, JPEG only. `metadata`: which containers are present, sorted, of exif, xmp, icc,
    iptc, c2pa, text, comment. `pixel_hash`: SHA-256 digest of the scaled strict decode. `phash`, `phash_mirror`, `dhash`: 64
    bits, perceptual hashes (imagehash's bit order), of the image, of the image flipped left to right, and the gradient hash.
    `contrast`: standard deviation of the scaled grey image, 0-127.5; near 0 means blank. `exif`: what `embedded.exif_summary`
    says of the camera, None without EXIF. `icc`: the name of the colour profile, None without one.
    """

    sha256: str
    nbytes: int
    codec: str
    width: int
    height: int
    mode: str
    quality: int | None
    qtables: str | None
    subsampling: str | None
    progressive: bool
    metadata: tuple[str, ...]
    pixel_hash: str
    phash: int
    phash_mirror: int
    dhash: int
    contrast: float
    exif: str | None = None
    icc: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set: where it comes from, how it was made and the facts of its bytes. One row of a part.

    `generator` and `family` are None for real images. `extension` is the delivered file name's, lower case without dot
    ('' where there was no file). `params` is JSON: what else decides the pixels (steps, guidance, dtype, versions).
    """

    id: str
    origin: Origin
    category: str
    family: str | None
    generator: str | None
    source: str | None
    source_key: str | None
    licence: str
    revision: str
    prompt: str | None
    negative: str | None
    seed: int | None
    params: str
    pair_id: str | None
    group: str
    extension: str
    facts: Facts

    def row(self) -> dict[str, object]:
        """The record as one flat row of `FACT_SCHEMA`."""
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "facts"}
        return flat | asdict(self.facts) | {"metadata": ",".join(self.facts.metadata)}


@dataclass(frozen=True, slots=True)
class View:
    """How one image becomes its row of the `equalized` view; the same law draws it for both classes.

    In order: a first JPEG pass (`first_quality`, `first_subsampling`) for what was never JPEG, else None; a crop at native
    resolution (`left`, `top`, `width`, `height` in pixels of the upright image); one encoding (`codec` jpeg, webp or png;
    `quality` 1-100; `subsampling` 4:4:4, 4:2:2 or 4:2:0, JPEG only).
    """

    left: int
    top: int
    width: int
    height: int
    codec: str
    quality: int
    subsampling: str
    first_quality: int | None = None
    first_subsampling: str | None = None


EXTENSIONS = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jxl"}
)
"""File names that promise an image, lower case without the dot; the decoder decides what is behind them."""

FACT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("family", pa.string()),
        pa.field("generator", pa.string()),
        pa.field("source", pa.string()),
        pa.field("source_key", pa.string()),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("negative", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("params", pa.string(), nullable=False),
        pa.field("pair_id", pa.string()),
        pa.field("group", pa.string(), nullable=False),
        pa.field("extension", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("nbytes", pa.int64(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("quality", pa.int32()),
        pa.field("qtables", pa.string()),
        pa.field("subsampling", pa.string()),
        pa.field("progressive", pa.bool_(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("pixel_hash", pa.string(), nullable=False),
        pa.field("phash", pa.uint64(), nullable=False),
        pa.field("phash_mirror", pa.uint64(), nullable=False),
        pa.field("dhash", pa.uint64(), nullable=False),
        pa.field("contrast", pa.float32(), nullable=False),
        pa.field("exif", pa.string()),
        pa.field("icc", pa.string()),
    ]
)
"""A part without its pixels: what every stage after the first reads."""

SCHEMA = FACT_SCHEMA.append(pa.field("image", pa.binary(), nullable=False))
"""A part: the facts, and the bytes as they were born."""

REJECT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("origin", pa.string()),
        pa.field("category", pa.string()),
        pa.field("generator_or_source", pa.string()),
        pa.field("source_key", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""What did not become an image, and why."""

PLAN_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("keep", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("category", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("generator_or_source", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("group", pa.string(), nullable=False),
        pa.field("left", pa.int32()),
        pa.field("top", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("codec", pa.string()),
        pa.field("quality", pa.int32()),
        pa.field("subsampling", pa.string()),
        pa.field("first_quality", pa.int32()),
        pa.field("first_subsampling", pa.string()),
    ]
)
"""The balancer's decisions, one row for every image there is; the view's columns are null where `keep` is false."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a detector looks at: an upright RGB image, the bytes it came from, and a name for messages."""

    name: str
    data: bytes
    image: Image


@dataclass(frozen=True, slots=True)
class Scores:
    """A detector's answer. `p_synthetic`: (n,) float64 in [0, 1]; `p_generator`: (n, len(generators)) or None."""

    p_synthetic: np.ndarray
    p_generator: np.ndarray | None = None
    generators: tuple[str, ...] = ()


def view_of(row: Mapping[str, object]) -> View:
    """The `View` in one kept row of the plan."""
    return View(**{f.name: row[f.name] for f in fields(View)})  # type: ignore[arg-type]


def table_of(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table of exactly `schema`; a missing or a null non-nullable value raises `pa.ArrowInvalid`."""
    table = pa.Table.from_pylist([dict(r) for r in rows], schema=schema)
    # Arrow itself does not look at `nullable`.
    empty = [field.name for field in schema if not field.nullable and table[field.name].null_count]
    if empty:
        raise pa.ArrowInvalid(f"no value where there must be one: {', '.join(empty)}")
    return table
