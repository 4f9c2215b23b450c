"""The authors' checkpoint: renamed key by key, run as they run it, refused where one key is not theirs.

The reference is written from the layout their repository documents; its weights are random, since theirs are not here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from imaginet_build.baseline import published
from imaginet_build.detectors.selfcon import SelfCon, load
from imaginet_build.detectors.selfcon_networks import NetworkConfig, build
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import Item


class Block(nn.Module):
    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.shortcut = nn.Sequential()
        if stride != 1 or inner != 4 * width:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + self.shortcut(x))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 1, 3, bias=False), nn.BatchNorm2d(64)
        inner = 64
        for n, (width, depth, stride) in enumerate(((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)), 1):
            blocks = [Block(inner if k == 0 else 4 * width, width, stride if k == 0 else 1) for k in range(depth)]
            setattr(self, f"layer{n}", nn.Sequential(*blocks))
            inner = 4 * width
        self.selfcon_layer = nn.ModuleList([None, nn.Linear(512, 2048), None])

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 1, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))


class Theirs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 128))
        self.sub_heads = nn.ModuleList([nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 128))])


@pytest.fixture(scope="module")
def theirs() -> tuple[Theirs, nn.Sequential]:
    torch.manual_seed(3)
    model = Theirs().eval()
    classifier = nn.Sequential(
        nn.BatchNorm1d(2048), nn.Linear(2048, 1024), nn.ReLU(), nn.Dropout(0.2), nn.Linear(1024, 1)
    ).eval()
    for module in (*model.modules(), *classifier.modules()):
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model, classifier


def state(theirs: tuple[Theirs, nn.Sequential]) -> dict[str, Any]:
    return {"model": theirs[0].state_dict(), "classifier": theirs[1].state_dict(), "epoch": 5}


def test_the_published_weights_give_the_published_logit(theirs: tuple[Theirs, nn.Sequential], tmp_path: Path) -> None:
    torch.save(state(theirs), tmp_path / "imaginet_weights.pt")
    folder = published.take(tmp_path / "imaginet_weights.pt", tmp_path / "checkpoint")
    _, network = load(folder)
    x = torch.randint(0, 256, (2, 3, 48, 48), generator=torch.Generator().manual_seed(1)).double()
    seen = (x / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    network.double(), theirs[0].double(), theirs[1].double()
    with torch.no_grad():
        logit, named = network(x)
        wanted = theirs[1](theirs[0].encoder(seen))[:, 0]
        other = theirs[1](theirs[0].encoder(seen.flip(0)))[:, 0]
    theirs[0].float(), theirs[1].float()
    assert (logit - wanted).abs().max() < 1e-9
    assert (logit - other).abs().max() > 1e-4, "the inputs tell nothing apart"
    assert named.shape == (2, 0)


def test_it_judges_images_and_names_no_generator(theirs: tuple[Theirs, nn.Sequential], tmp_path: Path) -> None:
    from PIL import Image

    torch.save(state(theirs), tmp_path / "weights.pt")
    detector = SelfCon("imaginet", str(published.take(tmp_path / "weights.pt", tmp_path / "checkpoint")))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    answered = detector.score([Item("a", b"", Image.fromarray(pixels))])
    assert 0 < answered.p_synthetic[0] < 1
    assert answered.p_generator is None


def test_several_gpus_names_are_the_same(theirs: tuple[Theirs, nn.Sequential]) -> None:
    held = state(theirs)
    wrapped = {key.replace("encoder.", "encoder.module.", 1): value for key, value in held["model"].items()}
    plain = published.renamed(held["model"], held["classifier"], "here")
    assert published.renamed(wrapped, held["classifier"], "here").keys() == plain.keys()


def spoil(kind: str) -> Callable[[dict[str, Any]], None]:
    def change(held: dict[str, Any]) -> None:
        model = held["model"]
        if kind == "missing":
            del model["encoder.layer3.2.bn1.weight"]
        elif kind == "unknown":
            model["encoder.layer5.0.conv1.weight"] = torch.zeros(1)
        elif kind == "shape":
            model["encoder.conv1.weight"] = torch.zeros(64, 3, 3, 3)
        elif kind == "head":
            held["classifier"] = {
                k: v[:1].repeat(4, *[1] * (v.dim() - 1)) if k.startswith("4.") else v for k, v in held["classifier"].items()
            }
        elif kind == "no head":
            del held["classifier"]
        elif kind == "else":
            held["surprise"] = 1

    return change


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", r"layers\.2\.layer\.0\.normalization\.weight is missing"),
        ("unknown", r"not a ResNet-50: layer5\.0\.conv1\.weight"),
        ("shape", r"convolution\.weight has shape"),
        ("head", r"origin\.4\.bias has shape \(4,\), not \(1,\)"),
        ("no head", "not the published checkpoint"),
        ("else", "not the published checkpoint"),
    ],
)
def test_one_key_that_is_not_theirs_is_refused(
    kind: str, said: str, theirs: tuple[Theirs, nn.Sequential], tmp_path: Path
) -> None:
    held = state(theirs)
    held["model"] = dict(held["model"])
    spoil(kind)(held)
    torch.save(held, tmp_path / "weights.pt")
    with pytest.raises(BuildError, match=said):
        published.take(tmp_path / "weights.pt", tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("burst"),))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Bomb(), "classifier": {}}, tmp_path / "weights.pt")
    with pytest.raises(BuildError, match="code in it is not run"):
        published.take(tmp_path / "weights.pt", tmp_path / "checkpoint")
    assert not (tmp_path / "burst").exists()
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(BuildError, match="no file of weights"):
        published.take(tmp_path / "text.pt", tmp_path / "checkpoint")
    with pytest.raises(UsageError, match="does not exist"):
        published.take(tmp_path / "none.pt", tmp_path / "checkpoint")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_imagenet_checkpoint_of_torchvision_begins_a_training(
    suffix: str, theirs: tuple[Theirs, nn.Sequential], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    names = {k.replace("shortcut", "downsample"): v for k, v in theirs[0].encoder.state_dict().items() if "selfcon" not in k}
    names |= {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    path = tmp_path / f"resnet50{suffix}"
    save_file(names, path) if suffix == ".safetensors" else torch.save(names, path)
    network: Any = build(NetworkConfig("imaginet", ("a",)), str(path))
    kept = network.encoder.backbone.encoder.stages[2].layers[0].shortcut.convolution.weight
    assert torch.equal(kept, names["layer3.0.downsample.0.weight"])
    names.pop("layer1.0.conv1.weight")
    save_file(names, path) if suffix == ".safetensors" else torch.save(names, path)
    with pytest.raises(BuildError, match="is missing"):
        build(NetworkConfig("imaginet", ("a",)), str(path))
