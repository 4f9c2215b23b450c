"""Other people's classifiers: their labels, their preprocessing, nothing guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fixture_types import Told

from imaginet_build import catalog
from imaginet_build.detectors.classifier import Classifier
from imaginet_build.errors import UsageError


def test_the_labels_that_mean_synthetic_are_added_up(vision_model: Callable[[str], Path], told_apart: Told) -> None:
    import torch
    from transformers import AutoImageProcessor, ViTForImageClassification

    items = told_apart[0][:5]
    folder = str(vision_model("vit"))
    processor, model = AutoImageProcessor.from_pretrained(folder), ViTForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        p = model(**processor(images=[item.image for item in items], return_tensors="pt")).logits.softmax(1).numpy()
    answered = Classifier(folder, ["sdxl", "midjourney"]).score(items)
    np.testing.assert_allclose(answered.p_synthetic, p[:, 1] + p[:, 2], atol=1e-6)
    assert answered.p_generator is None
    assert len(Classifier(folder, ["sdxl"]).score([]).p_synthetic) == 0


@pytest.mark.parametrize(
    ("labels", "said"),
    [(["fake"], "'fake' is no label of it; its labels are human, midjourney, sdxl"), ([], "some of its labels must mean"),
     (["human", "sdxl", "midjourney"], "some must not")],
)  # fmt: skip
def test_labels_are_never_guessed(labels: list[str], said: str, vision_model: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match=said):
        Classifier(str(vision_model("vit")), labels)


def test_a_card_makes_one(vision_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "manifests" / "detectors" / "theirs.toml"
    place.parent.mkdir(parents=True)
    place.write_text(
        'adapter = "imaginet_build.detectors.classifier:Classifier"\nlicence = "MIT"\nrevision = "1"\n'
        f'model = "{vision_model("vit")}"\nsynthetic = ["sdxl"]\n'
    )
    monkeypatch.chdir(tmp_path)
    assert isinstance(catalog.build(catalog.card("detectors", "theirs")), Classifier)
