"""The networks and the loss against plain versions written from the papers' descriptions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from imaginet_build.detectors import selfcon
from imaginet_build.detectors.checkpoint import grid
from imaginet_build.detectors.selfcon_networks import (
    BACKBONE_PARAMETERS,
    NetworkConfig,
    build,
    contrastive,
    dct_filters,
    multi_label_loss,
)
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import Item

NAMES = ("gan", "sd")


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return build(NetworkConfig("small", NAMES, crop=32, width=8)).eval()


def unit(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    z = torch.randn(n, 2, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return (z / z.norm(dim=2, keepdim=True)).requires_grad_()


def plain_contrastive(z: Tensor, labels: list[int], temperature: float = 0.07) -> float:
    """Khosla et al. 2020, equation 2, as two loops over anchors and positives."""
    views = [(z[i, v].tolist(), labels[i]) for v in (0, 1) for i in range(len(labels))]

    def similarity(a: int, b: int) -> float:
        return sum(x * y for x, y in zip(views[a][0], views[b][0], strict=True)) / temperature

    total = 0.0
    for a in range(len(views)):
        others = [b for b in range(len(views)) if b != a]
        log_sum = math.log(sum(math.exp(similarity(a, b)) for b in others))
        positives = [b for b in others if views[b][1] == views[a][1]]
        total -= sum(similarity(a, p) - log_sum for p in positives) / len(positives)
    return total / len(views)


@pytest.mark.parametrize("origin", [[0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]])
def test_the_loss_equals_the_plain_loops(origin: list[int]) -> None:
    z, names = unit(6), [0, 1, 1, 0, 2, 0]
    loss = multi_label_loss(z, torch.tensor(origin), torch.tensor(names))
    made = [i for i, y in enumerate(origin) if y]
    wanted = plain_contrastive(z, origin) + (plain_contrastive(z[made], [names[i] for i in made]) if made else 0.0)
    assert loss.item() == pytest.approx(wanted, rel=1e-12)
    loss.backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_no_synthetic_image_adds_nothing() -> None:
    z, origin = unit(4), torch.zeros(4, dtype=torch.long)
    assert multi_label_loss(z, origin, origin).item() == contrastive(z, origin).item()


@pytest.mark.parametrize("n", [0, 1])
def test_an_empty_batch_and_a_single_image_cost_nothing(n: int) -> None:
    z = unit(n)
    loss = contrastive(z, torch.zeros(n, dtype=torch.long))
    loss.backward()
    assert loss.item() == pytest.approx(0)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_like_images_drawn_together_cost_less() -> None:
    near = torch.eye(6)[:4].repeat_interleave(2, 0).reshape(4, 2, 6)
    assert contrastive(near, torch.tensor([0, 1, 2, 3])) < contrastive(near, torch.tensor([0, 0, 1, 1]))


class Bottleneck(nn.Module):
    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        self.c = nn.ModuleList(
            [
                nn.Conv2d(inner, width, 1, bias=False),
                nn.Conv2d(width, width, 3, stride, 1, bias=False),
                nn.Conv2d(width, 4 * width, 1, bias=False),
            ]
        )
        self.n = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.BatchNorm2d(4 * width)])
        self.short = None
        if stride != 1 or inner != 4 * width:
            self.short = nn.Sequential(nn.Conv2d(inner, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for k in range(3):
            y = self.n[k](self.c[k](y))
            y = torch.relu(y) if k < 2 else y
        return torch.relu(y + (x if self.short is None else self.short(x)))


class Reference(nn.Module):
    """The paper's encoder: ResNet-50 whose stem and max-pool have stride 1, left after stage 2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 1, 3, bias=False), nn.BatchNorm2d(64))
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.stages = nn.ModuleList()
        inner = 64
        for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            blocks = [Bottleneck(inner if k == 0 else 4 * width, width, stride if k == 0 else 1) for k in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
            inner = 4 * width
        self.exit = nn.Linear(512, 2048)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = (x / 255 - mean[:, None, None]) / deviation[:, None, None]
        x = self.pool(torch.relu(self.stem(x)))
        half = self.stages[1](self.stages[0](x))
        deep = self.stages[3](self.stages[2](half))
        return deep.mean((2, 3)), self.exit(half.mean((2, 3)))


def copied(network: Any) -> Reference:
    """The same weights in the reference."""
    theirs, ours = network.encoder.backbone, Reference()

    def take(into: nn.Module, layer: Any, normal: Any) -> None:
        into[0].load_state_dict(layer.state_dict())
        into[1].load_state_dict(normal.state_dict())

    take(ours.stem, theirs.embedder.embedder.convolution, theirs.embedder.embedder.normalization)
    for mine, stage in zip(ours.stages, theirs.encoder.stages, strict=True):
        for block, layer in zip(mine, stage.layers, strict=True):
            for k in range(3):
                take([block.c[k], block.n[k]], layer.layer[k].convolution, layer.layer[k].normalization)
            if block.short is not None:
                take(block.short, layer.shortcut.convolution, layer.shortcut.normalization)
    ours.exit.load_state_dict(network.encoder.shallow.state_dict())
    return ours


def test_the_imaginet_network_is_the_papers() -> None:
    torch.manual_seed(0)
    network: Any = build(NetworkConfig("imaginet", NAMES))
    assert sum(p.numel() for p in network.encoder.backbone.parameters()) == BACKBONE_PARAMETERS == 23_508_032
    reference = copied(network)
    x = torch.randint(0, 256, (2, 3, 24, 24), generator=torch.Generator().manual_seed(1)).double()
    # In double precision, so that what is compared is the networks and not fifty layers of rounding.
    network.double(), reference.double()
    for mode in (True, False):
        network.train(mode), reference.train(mode)
        with torch.no_grad():
            for mine, theirs in zip(network.views(x), reference(x), strict=True):
                assert mine.shape == (2, 2048)
                assert (mine - theirs).abs().max() < 1e-5
    network.eval()
    with torch.no_grad():
        assert network.project(*network.views(x)).shape == (2, 2, 128)
    projection = [type(m).__name__ for m in network.projections[0]]
    head = [type(m).__name__ for m in network.origin]
    assert (projection, head) == (["Linear", "ReLU", "Linear"], ["BatchNorm1d", "Linear", "ReLU", "Dropout", "Linear"])


def test_the_small_network_has_about_four_hundred_thousand_parameters() -> None:
    network = build(NetworkConfig("small", NAMES))
    assert 350_000 < sum(p.numel() for p in network.parameters()) < 500_000


def test_the_small_network_does_not_see_brightness_or_flat_colour(small: nn.Module) -> None:
    x = torch.rand(3, 3, 32, 32) * 100
    with torch.no_grad():
        torch.testing.assert_close(small(x + torch.tensor([40.0, 5.0, 20.0])[:, None, None]), small(x), atol=1e-3, rtol=1e-3)


def test_as_rgb_the_small_network_sees_brightness_and_has_no_statistics() -> None:
    torch.manual_seed(0)
    plain = build(NetworkConfig("small", NAMES, crop=32, width=8, sees="rgb")).eval().encoder
    x = torch.rand(3, 3, 32, 32) * 100
    with torch.no_grad():
        bright, dark = plain(x + 100)[0], plain(x)[0]
    assert (bright - dark).norm() > 0.3 * dark.norm()
    assert not [key for key in plain.state_dict() if "counted" in key]


def test_the_dct_basis_is_orthonormal() -> None:
    flat = dct_filters().reshape(63, 64).astype(np.float64)
    np.testing.assert_allclose(flat @ flat.T, np.eye(63), atol=1e-6)
    np.testing.assert_allclose(flat.sum(1), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "crops", "side"), [((32, 32), 1, 32), ((33, 70), 6, 32), ((400, 400), 9, 32), ((20, 50), 3, 20)]
)
def test_the_grid_covers_an_image_with_native_pixels(size: tuple[int, int], crops: int, side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    found = grid(Image.fromarray(pixels), 32, 3)
    assert found.shape == (crops, 3, side, side)
    if crops > 1:
        np.testing.assert_array_equal(found[0], pixels[:side, :side].transpose(2, 0, 1))
        np.testing.assert_array_equal(found[-1], pixels[-side:, -side:].transpose(2, 0, 1))


CONFIG = {"preset": "small", "names": list(NAMES), "crop": 32, "width": 8, "card": "small"}


def item(number: int, size: tuple[int, int] = (50, 40)) -> Item:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Item(str(number), b"", Image.fromarray(pixels))


def test_a_checkpoint_comes_back_as_it_was(small: nn.Module, tmp_path: Path) -> None:
    selfcon.save(tmp_path, small, CONFIG)
    _, again = selfcon.load(tmp_path)
    assert again.state_dict().keys() == small.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), small.state_dict().values(), strict=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_scores_do_not_depend_on_the_company(small: nn.Module, tmp_path: Path) -> None:
    selfcon.save(tmp_path, small, CONFIG)
    detector = selfcon.SelfCon(model=str(tmp_path))
    items = [item(n, size) for n, size in enumerate([(50, 40), (32, 32), (100, 90), (40, 20), (33, 70), (64, 64)])]
    together = detector.score(items)
    assert together.p_generator is not None
    assert together.generators == NAMES
    np.testing.assert_allclose(together.p_generator.sum(1), 1)
    alone = [detector.score([i]) for i in items]
    np.testing.assert_allclose(together.p_synthetic, [a.p_synthetic[0] for a in alone], atol=1e-6)
    assert np.array_equal(together.p_synthetic, detector.score(items).p_synthetic)
    assert together.p_synthetic[3] == 0.5, "20 pixels are too few to say anything"
    assert len(detector.score([]).p_synthetic) == 0


def test_calibration_in_the_config_moves_the_probability(small: nn.Module, tmp_path: Path) -> None:
    selfcon.save(tmp_path / "a", small, CONFIG)
    selfcon.save(tmp_path / "b", small, CONFIG | {"calibration": {"scale": 2.0, "bias": -1.0, "rows": 50}})
    p, q = (selfcon.SelfCon(model=str(tmp_path / n)).score([item(0)]).p_synthetic[0] for n in "ab")
    assert math.log(q / (1 - q)) == pytest.approx(2 * math.log(p / (1 - p)) - 1)


def test_weights_that_do_not_fit_key_by_key_are_refused(small: nn.Module, tmp_path: Path) -> None:
    selfcon.save(tmp_path, small, CONFIG)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"names": ["gan", "sd", "vae"]}))
    with pytest.raises(BuildError, match=r"named\.4\.bias has shape \(2,\), not \(3,\)"):
        selfcon.load(tmp_path)
    state = dict(small.state_dict())
    state["extra"] = state.pop("origin.4.bias")
    with pytest.raises(BuildError, match=r"origin\.4\.bias is missing; extra is not part of it.*Nothing was loaded"):
        selfcon.fit(small, state, "here")


def test_what_is_no_checkpoint_is_named_with_the_next_step(small: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="baseline train"):
        selfcon.SelfCon()
    with pytest.raises(UsageError, match=r"no config\.json.*baseline train"):
        selfcon.SelfCon(model=str(tmp_path))
    selfcon.save(tmp_path, small, CONFIG)
    with pytest.raises(UsageError, match="holds a 'small' network, not 'imaginet'"):
        selfcon.SelfCon(preset="imaginet", model=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BuildError, match="damaged"):
        selfcon.SelfCon(model=str(tmp_path))
