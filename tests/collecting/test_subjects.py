"""Texts about the same thing lie near each other, with and without a model; what cannot be used is said in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imaginet_build.collecting.subjects import check, embed
from imaginet_build.errors import UsageError

TEXTS = ["a cat asleep in the sun", "two cats asleep", "a tram at night", "", "the of and"]


def cosines(vectors: object) -> np.ndarray:
    dense = vectors.toarray() if hasattr(vectors, "toarray") else np.asarray(vectors)  # type: ignore[attr-defined]
    return dense @ dense.T


def test_tfidf_puts_texts_of_one_subject_together_and_empty_ones_nowhere() -> None:
    found = cosines(embed(TEXTS, "tfidf"))
    assert found[0, 1] > found[0, 2] == 0
    assert np.diag(found) == pytest.approx([1, 1, 1, 0, 0])
    assert cosines(embed(["", "of"], "tfidf")).tolist() == [[0, 0], [0, 0]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 20 kB with random weights, saved as any text model is."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("model")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "cat",
        "cats",
        "asleep",
        "tram",
        "at",
        "night",
        "in",
        "the",
        "sun",
        "two",
    ]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_any_transformers_model_in_a_folder_embeds(model: Path) -> None:
    found = np.asarray(embed([*TEXTS, TEXTS[0], "a cat " * 200], str(model)))
    assert found.shape == (7, 16)
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1, 1, 0, 1, 1, 1], abs=1e-5)
    assert found[0] == pytest.approx(found[5], abs=1e-5)
    assert not np.allclose(found[0], found[2], atol=1e-3)
    assert np.array_equal(found, np.asarray(embed([*TEXTS, TEXTS[0], "a cat " * 200], str(model))))


def test_padding_does_not_move_a_text(model: Path) -> None:
    alone = np.asarray(embed(["a cat"], str(model)))
    beside = np.asarray(embed(["a cat", "two cats asleep in the sun at night"], str(model)))
    assert beside[0] == pytest.approx(alone[0], abs=1e-5)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("word2vec", "it is 'tfidf', 'off', a folder with a text model, or owner/name@commit"),
        ("sentence-transformers/all-MiniLM-L6-v2", "moves: name the commit of the model as well"),
    ],
)
def test_what_names_no_fixed_model_is_refused_before_anything_starts(how: str, said: str) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UsageError, match=said):
        check(how)


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UsageError, match="cannot be loaded"):
        embed(["a cat"], str(tmp_path))
