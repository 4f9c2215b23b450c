"""A linear probe on whatever vision model transformers knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fixture_types import Told
from PIL import Image
from sklearn.metrics import roc_auc_score

from imaginet_build.detectors import transformers_models
from imaginet_build.detectors.probe import Probe
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import Item


@pytest.mark.parametrize("kind", ["vit", "dinov2", "dinov3", "clip", "siglip"])
def test_a_head_learns_on_any_backbone(kind: str, vision_model: Callable[[str], Path], told_apart: Told) -> None:
    learn, label, judge, wanted = told_apart
    probe = Probe(str(vision_model(kind)))
    with pytest.raises(UsageError, match="has learned nothing yet"):
        probe.score(judge)
    probe.fit(learn, label)
    p = probe.score(judge).p_synthetic
    assert roc_auc_score(wanted, p) > 0.9
    assert np.array_equal(p, probe.score(judge).p_synthetic)
    np.testing.assert_allclose(p[3:4], probe.score(judge[3:4]).p_synthetic, atol=1e-5)
    assert len(probe.score([]).p_synthetic) == 0


def test_features_are_the_models_own(vision_model: Callable[[str], Path], told_apart: Told) -> None:
    import torch
    from transformers import AutoImageProcessor, CLIPModel

    items = told_apart[0][:3]
    folder = str(vision_model("clip"))
    processor, model = AutoImageProcessor.from_pretrained(folder), CLIPModel.from_pretrained(folder).eval()
    centres = [item.image.crop((8, 8, 40, 40)) for item in items]
    with torch.no_grad():
        wanted = model.get_image_features(**processor(images=centres, return_tensors="pt")).pooler_output.numpy()
    np.testing.assert_allclose(Probe(folder).features(items), wanted, atol=1e-5)
    whole = Probe(folder, native=False).features(items)
    assert np.abs(whole - wanted).max() > 1e-3, "scaled down, it is another picture"


def test_what_is_smaller_than_the_input_is_scaled_up(vision_model: Callable[[str], Path]) -> None:
    small = Item("small", b"", Image.new("RGB", (20, 44), (9, 99, 199)))
    assert Probe(str(vision_model("dinov2"))).features([small]).shape == (1, 32)


def test_weights_that_do_not_fit_exactly_are_refused(vision_model: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = vision_model("dinov2")
    kept = load_file(folder / "model.safetensors")
    name = sorted(kept)[0]
    for said, tensors in (
        ("is missing", {k: v for k, v in kept.items() if k != name}),
        ("is not part of it", kept | {"extra.weight": kept[name].clone()}),
    ):
        for file in folder.iterdir():
            if file.suffix == ".json":
                (tmp_path / file.name).write_bytes(file.read_bytes())
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(BuildError, match=said):
            transformers_models.load(str(tmp_path), None, "the linear probe")


def test_a_class_that_the_library_does_not_have_is_refused(vision_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = vision_model("dinov2")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes().replace(b'"Dinov2Model"', b'"Surprise"'))
    with pytest.raises(BuildError, match="none of transformers' models"):
        Probe(str(tmp_path))


def test_a_model_that_is_not_here_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="hf download me/nothing"):
        Probe("me/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="cannot be loaded"):
        Probe(str(tmp_path / "empty"))
