"""Near-duplicates by what a vision model sees: any transformers model with an image side, cosine, every pair compared.

A perceptual hash sees the whole frame; a model recognises the picture in a crop, a frame or a new light (self-supervised ones
such as DINOv2 best: Oquab et al., 2023). What it recognises is tied into one group, and never removed: likeness is no copy.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imaginet_build.duplicates.connect import Forest
from imaginet_build.errors import BadImage, MissingExtra, UsageError
from imaginet_build.store import Store, written

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]

BATCH = 16
SIDE = 2048
"""Rows and columns of the block of cosines that is held at once: 16 MB."""

_SLACK = 1e-6


class Embedder:
    """A vision model: its pooled output, or the mean of its last tokens or map where it has none.

    `model`: a folder or a Hub id. Raises `MissingExtra` without transformers and torch, `UsageError` where there is no such
    model or it has no image side.
    """

    def __init__(self, model: str) -> None:
        try:
            import torch
            from transformers import AutoImageProcessor, AutoModel
        except ImportError as error:
            raise MissingExtra(f"balance.embedding = '{model}'", error.name or "transformers", "baseline") from error
        self._torch = torch
        if "/" not in model and not Path(model).is_dir():
            # Asking the Hub for what cannot be there takes minutes where there is no network.
            raise _unusable(model, "no such folder")
        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(model)
            self._model: Any = AutoModel.from_pretrained(model).eval()
        except (OSError, ValueError, ImportError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise _unusable(model, reason) from error
        self.identity = _identity(model, self._model)

    def __call__(self, pictures: Sequence[Any]) -> Vectors:
        """The embeddings of RGB images, each of length 1: (n, d) float32."""
        inputs = self._processor(images=list(pictures), return_tensors="pt")
        with self._torch.inference_mode():
            if hasattr(self._model, "get_image_features"):
                seen = self._model.get_image_features(pixel_values=inputs["pixel_values"])
            else:
                seen = self._model(pixel_values=inputs["pixel_values"])
        if not self._torch.is_tensor(seen):
            pooled = getattr(seen, "pooler_output", None)
            if pooled is None:
                last = seen.last_hidden_state
                pooled = last.mean(dim=1) if last.ndim == 3 else last.mean(dim=(2, 3))
            seen = pooled
        vectors = seen.flatten(1).float().cpu().numpy()
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)


def _unusable(model: str, reason: str) -> UsageError:
    return UsageError(
        f"balance.embedding = '{model}' is no vision model that transformers can load: {reason}. Give a folder with "
        "config.json, preprocessor_config.json and weights, or a Hub id such as facebook/dinov2-small"
    )


def _identity(model: str, loaded: Any) -> str:
    """A name for the weights: the commit of a Hub model, the digest of a folder's files."""
    if commit := getattr(loaded.config, "_commit_hash", None):
        return f"{model}@{commit}"
    total = hashlib.sha256()
    for path in sorted(Path(model).glob("*")):
        if path.suffix in (".json", ".safetensors", ".bin"):
            with path.open("rb") as file:
                total.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def alike(vectors: Vectors, similarity: float) -> Rows:
    """The component of each row over pairs with a cosine of at least `similarity`, named by its first row: (n,) int64.

    Exact: every pair is compared, a block at a time, so the cost grows with the square of n (100,000 rows of 384 numbers: about
    ten minutes of one core). `vectors`: (n, d), each of length 1, or all zeros for what takes no part.
    """
    n = len(vectors)
    forest = Forest(n)
    for top in range(0, n, SIDE):
        for left in range(top, n, SIDE):
            cosines = vectors[top : top + SIDE] @ vectors[left : left + SIDE].T
            # The sum of products is exact to the last digits only: a copy must not fail 1.0 for that.
            i, j = np.nonzero(cosines >= similarity - _SLACK)
            ahead = i + top < j + left
            forest.add(np.stack([i[ahead] + top, j[ahead] + left], axis=1))
    return forest.label()


def vectors_of(store: Store, ids: Sequence[str], model: str) -> Vectors:
    """The embeddings of `ids`, (n, d) float32, zeros for what cannot be read; what has been computed once is kept in the work
    folder."""
    from imaginet_build import images

    embedder = Embedder(model)
    path = store.root / "embeddings" / f"{hashlib.sha256(embedder.identity.encode()).hexdigest()[:16]}.parquet"
    known = _kept(path)
    fresh = store.in_part_order(name for name in ids if name not in known)
    if fresh:
        log.info("%s looks at %d images", model, len(fresh))
    waiting: list[tuple[str, Any]] = []
    for number, (name, data) in enumerate(store.images(fresh)):
        try:
            waiting.append((name, images.decode(data)))
        except BadImage as error:
            log.warning("%s cannot be read, though its facts were: %s", name, error)
        if waiting and (len(waiting) == BATCH or number == len(fresh) - 1):
            known |= dict(zip([name for name, _ in waiting], embedder([image for _, image in waiting]), strict=True))
            waiting.clear()
    if waiting:
        known |= dict(zip([name for name, _ in waiting], embedder([image for _, image in waiting]), strict=True))
    if fresh:
        _keep(path, known, model, embedder.identity)
    width = len(next(iter(known.values()))) if known else 1
    return np.stack([known.get(name, np.zeros(width, dtype=np.float32)) for name in ids])


def _kept(path: Path) -> dict[str, Vectors]:
    if not path.is_file():
        return {}
    table = pq.read_table(path)
    return {name: np.asarray(v, dtype=np.float32) for name, v in zip(*table.to_pydict().values(), strict=True)}


def _keep(path: Path, known: dict[str, Vectors], model: str, identity: str) -> None:
    width = len(next(iter(known.values()))) if known else 1
    names = sorted(known)
    flat = pa.array(np.concatenate([known[name] for name in names]) if names else np.zeros(0, dtype=np.float32))
    table = pa.table({"id": names, "vector": pa.FixedSizeListArray.from_arrays(flat, width)})
    said = json.dumps({"model": model, "identity": identity}).encode()
    with written(path, replace=True) as temporary:
        pq.write_table(table.replace_schema_metadata({b"imaginet-build-embedding": said}), temporary)
