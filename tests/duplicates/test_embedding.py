"""Near-duplicates by a vision model: a tiny one of transformers, built here, nothing fetched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import ImageOps

from imaginet_build.duplicates import embedding
from imaginet_build.errors import MissingExtra, UsageError
from imaginet_build.store import Store


@pytest.fixture(scope="module", params=["vit", "convnext", "clip"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three kinds of output: pooled tokens, a pooled map, and a model with a text side too."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    small = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    if request.param == "vit":
        made = transformers.ViTModel(transformers.ViTConfig(**small, intermediate_size=32), add_pooling_layer=False)
    elif request.param == "convnext":
        made = transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1]))
    else:
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
        vision = {**small, "intermediate_size": 32}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        made = transformers.CLIPModel(config)
    made.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_any_vision_model_embeds(model: Path) -> None:
    embedder = embedding.Embedder(str(model))
    one, again, other = embedder([picture(1), picture(1), ImageOps.invert(picture(2))])
    assert one.dtype == np.float32
    assert np.allclose([one @ one, other @ other], 1, atol=1e-5)
    assert np.allclose(one, again, atol=1e-5)
    assert one @ other < 0.99999


def test_the_work_folder_keeps_what_was_seen(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    held = {f"{i}": encoded(picture(i % 3)) for i in range(20)} | {"broken": b"no image"}
    monkeypatch.setattr(Store, "in_part_order", lambda self, ids: sorted(ids))
    monkeypatch.setattr(Store, "images", lambda self, ids: ((name, held[name]) for name in ids))
    first = embedding.vectors_of(store, list(held), str(model))
    assert not first[-1].any(), "what cannot be read resembles nothing"
    monkeypatch.setattr(embedding.Embedder, "__call__", None)
    monkeypatch.delitem(held, "broken")
    again = embedding.vectors_of(store, list(held)[::-1], str(model))
    assert np.array_equal(again[::-1], first[:20])
    label = embedding.alike(first, 0.9999999)
    assert all(label[i] == i % 3 for i in range(20))
    assert label[20] == 20


@pytest.mark.parametrize("similarity", [0.5, 0.9, 1.0])
def test_every_pair_is_compared(similarity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "SIDE", 7)
    random = np.random.default_rng(0)
    vectors = np.concatenate([random.normal(size=(30, 6)), np.zeros((2, 6))]).astype(np.float32)
    vectors[:30] /= np.linalg.norm(vectors[:30], axis=1, keepdims=True)
    vectors[20] = vectors[3]
    near = vectors @ vectors.T >= similarity - 1e-6
    expected = list(range(32))
    for i, j in np.argwhere(np.triu(near, 1)).tolist():
        old, new = max(expected[i], expected[j]), min(expected[i], expected[j])
        expected = [new if label == old else label for label in expected]
    assert embedding.alike(vectors, similarity).tolist() == expected


def test_what_is_no_vision_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "config.json").write_text("{}")
    for name in (str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(UsageError, match="is no vision model that transformers can load"):
            embedding.Embedder(name)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"needs transformers: pip install 'imaginet-build\[baseline\]'"):
        embedding.Embedder("facebook/dinov2-small")
