"""What texts are about, as vectors: the subjects of real images held against those of generated ones. Rows have unit length, so
that a dot product is a cosine.

`tfidf` needs no model: words weighted by their rarity (scikit-learn). Anything else is a transformers text model, a local
folder or `owner/name@commit` on the Hub, whose last hidden states are averaged over the tokens (Reimers and Gurevych 2019).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imaginet_build.errors import MissingExtra, UsageError

TFIDF, OFF = "tfidf", "off"
_BATCH = 64
_MOST_WORDS = 20_000
_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([0-9a-f]{40}))?")


def check(how: str) -> None:
    """Raises `UsageError` where `how` names nothing that could be used, `MissingExtra` where transformers is missing."""
    import importlib.util

    if how in (TFIDF, OFF):
        return
    if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("torch") is None:
        raise MissingExtra(f"match.text = {how!r}", "transformers", "baseline")
    if Path(how).is_dir():
        return
    match = _HUB.fullmatch(how)
    if match is None:
        raise UsageError(f"match.text = {how!r}: it is '{TFIDF}', '{OFF}', a folder with a text model, or owner/name@commit")
    if match[2] is None:
        raise UsageError(f"match.text = {how!r} moves: name the commit of the model as well, {how}@<40 digits>")


def embed(texts: Sequence[str], how: str) -> Any:
    """(n, d) vectors of unit length, float32, dense or a scipy sparse matrix; an empty text is a row of zeros.

    The same texts give the same vectors on the same machine. Raises as `check`, and `UsageError` where a model does not load.
    """
    check(how)
    return _tfidf(texts) if how == TFIDF else _transformer(texts, how)


def _tfidf(texts: Sequence[str]) -> Any:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        stop_words="english", sublinear_tf=True, max_features=_MOST_WORDS, strip_accents="unicode", dtype=np.float32
    )
    try:
        return vectorizer.fit_transform(texts)
    except ValueError:  # no text has a word that is more than a stop word
        return csr_matrix(np.zeros((len(texts), 1), dtype=np.float32))


def _transformer(texts: Sequence[str], how: str) -> Any:
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as said

    said.disable_progress_bar()
    match = _HUB.fullmatch(how)
    place, revision = (how, None) if Path(how).is_dir() or match is None else (match[1], match[2])
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
        model = AutoModel.from_pretrained(place, revision=revision).eval()
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"match.text: the model {how} cannot be loaded ({first})") from None
    limit = min(int(getattr(model.config, "max_position_embeddings", 512) or 512), 512)
    # Batches of equal lengths, so that what a text is next to hardly matters and little is padded.
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i]))
    found = np.zeros((len(texts), int(model.config.hidden_size)), dtype=np.float32)
    for start in range(0, len(order), _BATCH):
        rows = [i for i in order[start : start + _BATCH] if texts[i].strip()]
        if not rows:
            continue
        batch = tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        found[rows] = torch.nn.functional.normalize(mean.float(), dim=1).numpy()
    return found
