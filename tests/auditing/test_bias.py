"""One-sided transforms: an oracle does not move, a detector that keys on JPEG moves most, what ships lies between."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from imaginet_build import catalog, images
from imaginet_build.auditing import bias
from imaginet_build.auditing.bias import one_sided
from imaginet_build.auditing.pixel_probes import pixel_facts
from imaginet_build.imagefiles import containers
from imaginet_build.records import Item


def item(name: str, seed: int, side: int = 128) -> Item:
    random = np.random.default_rng(seed)
    patches = Image.fromarray(random.integers(0, 256, (12, 12, 3)).astype(np.uint8))
    coarse = patches.resize((side, side), Image.Resampling.BICUBIC)
    grain = np.asarray(coarse, np.int16) + random.integers(-9, 10, (side, side, 3))
    image = Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))
    return Item(name, images.encode(image, "jpeg", 95), image)


@pytest.fixture(scope="module")
def both() -> tuple[list[Item], list[Item]]:
    return [item(f"real {i}", i) for i in range(8)], [item(f"fake {i}", 100 + i) for i in range(8)]


def oracle(items: list[Item]) -> np.ndarray:
    return np.array([float(i.name.startswith("fake")) for i in items])


def by_header(items: list[Item]) -> np.ndarray:
    """JPEG is real: what one learns where only photographs were ever JPEG."""
    return np.array([float(containers.sniff(i.data) != "jpeg") for i in items])


def by_blocks(items: list[Item]) -> np.ndarray:
    """The same from the pixels alone: blockiness on the grid."""
    blocky = np.array([pixel_facts(i.image)["jpeg_grid"][16] for i in items])
    return 1 / (1 + np.exp(12 * (blocky - 0.15)))


def test_an_oracle_scores_zero(both: tuple[list[Item], list[Item]]) -> None:
    found = one_sided(oracle, *both)
    assert found is not None
    assert found.score == 0
    assert found.auc == 1
    assert {(s.moved, s.flipped, s.auc) for s in found.shifts} == {(0, 0, 1)}


def test_a_detector_that_keys_on_jpeg_scores_worst(both: tuple[list[Item], list[Item]]) -> None:
    small = catalog.build(catalog.card("detectors", "onnx"))
    scores = {
        "oracle": one_sided(oracle, *both),
        "header": one_sided(by_header, *both),
        "blocks": one_sided(by_blocks, *both),
        "small": one_sided(lambda items: small.score(items).p_synthetic, *both),
    }
    reached = {name: found.score for name, found in scores.items() if found}
    assert reached["header"] == 1
    assert scores["header"] is not None
    assert scores["header"].worst.startswith("jpeg of ")
    assert reached["header"] >= reached["blocks"] > reached["small"] > reached["oracle"] == 0
    jpeg = {s.origin: s.auc for s in scores["header"].shifts if s.transform == "jpeg"}
    assert jpeg == {"real": 1, "synthetic": 0}  # one JPEG pass makes it look perfect, or perfectly wrong
    assert scores["header"].auc == 0.5


def test_every_transform_leaves_an_image_of_any_size() -> None:
    for size in [(1, 1), (2, 9), (17, 8)]:
        tiny = Item("x", b"", Image.new("RGB", size, (200, 20, 20)))
        assert all(min(images.decode(change(tiny.image)).size) >= 1 for change in bias.TRANSFORMS.values())


def test_one_class_alone_says_nothing(both: tuple[list[Item], list[Item]]) -> None:
    assert one_sided(oracle, both[0], []) is None
