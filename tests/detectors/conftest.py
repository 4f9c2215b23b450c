"""Vision models of transformers, built here with random weights: what is tested is how they are loaded and asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from imaginet_build.records import Item

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VISION = SMALL | {"image_size": 32, "patch_size": 8}


def model(kind: str) -> Any:
    import transformers as t

    if kind == "vit":
        return t.ViTForImageClassification(t.ViTConfig(**VISION, id2label={0: "human", 1: "sdxl", 2: "midjourney"}))
    if kind == "dinov2":
        return t.Dinov2Model(t.Dinov2Config(**VISION))
    if kind == "dinov3":
        return t.DINOv3ViTModel(t.DINOv3ViTConfig(**VISION))
    text = SMALL | {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if kind == "clip":
        return t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24))
    return t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=VISION))


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`vision_model(kind)`: the folder of a small vit (a classifier), dinov2, dinov3, clip or siglip with its preprocessing."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            import torch
            from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

            torch.manual_seed(0)
            made[kind] = tmp_path_factory.mktemp(kind)
            model(kind).save_pretrained(made[kind])
            ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(made[kind])
        return made[kind]

    return make


def smooth(number: int, synthetic: bool, side: int = 48) -> Item:
    """Noise; synthetic ones are blurred, for detectors that look for that, and brighter, for networks that know nothing."""
    noise = np.random.default_rng(number).integers(0, 128, (side, side, 3), dtype=np.uint8) + np.uint8(100 * synthetic)
    image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5 if synthetic else 0.4))
    return Item(f"{number}", b"", image)


@pytest.fixture
def told_apart() -> tuple[list[Item], np.ndarray, list[Item], np.ndarray]:
    """Items and labels to learn from, and others to be judged."""
    label = np.arange(60) % 2
    items = [smooth(n, bool(y)) for n, y in enumerate(label)]
    return items[:40], label[:40], items[40:], label[40:]
