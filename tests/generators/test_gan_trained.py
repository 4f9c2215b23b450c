"""Trained GANs that others made, from their packages: converted, drawn here and by their own code from the same latents."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from imaginet_build import catalog
from imaginet_build.convert import convert
from imaginet_build.generators import conformance
from imaginet_build.generators.gan import Gan

ROOT = Path(__file__).resolve().parents[2]


def code(path: Path):
    """Their module by its file: importing the package would load weights and trackers."""
    spec = importlib.util.spec_from_file_location(f"theirs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sharpness(image) -> float:
    """Mean difference of neighbouring pixels over the image's deviation: near 1.1 for noise, far below for a picture."""
    values = np.asarray(image, dtype=float)
    return float(np.abs(np.diff(values, axis=0)).mean() / values.std())


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """`omniart-eye-generator`: a DCGAN with eight classes, 128 pixels, in the format of torch before 1.6."""
    package = Path(importlib.util.find_spec("omniart_eye_generator").origin).parent
    weights = package / "generator_model_state.pth"
    out = tmp_path_factory.mktemp("eyes") / "eyes"
    assert digest(weights) == "dd486abbd738bfe3d28ddd46987bec11e3842ddcc8c28ccc5251b52c6ecf4da0"
    done = convert(weights, out, digest(weights), trust=True, classes=8)
    assert (done.architecture, done.resolution, done.classes) == ("dcgan", 128, 8)
    return package, weights, out


def test_eyes_are_those_that_their_own_code_draws(eyes):
    package, weights, out = eyes
    theirs = code(package / "generator.py").Generator().eval()
    theirs.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    ours = Gan(str(out))._net
    z = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8)
    with torch.inference_mode():
        wanted = theirs(z[:, :, None, None], torch.eye(8)[labels])
        drawn = ours.forward(z, labels)
    assert wanted.std() > 0.2
    torch.testing.assert_close(drawn, wanted, atol=1e-5, rtol=0)


def test_eyes_pass_the_conformance_suite_by_their_card(eyes, tmp_path, monkeypatch):
    _, _, out = eyes
    text = (out / "card.toml").read_text().replace('licence = ""', 'licence = "MIT"')
    cards = tmp_path / "manifests/generators"
    cards.mkdir(parents=True)
    (cards / "eyes.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    wanted = conformance.orders(6, 128, 128)

    def make(**more):
        return catalog.build(catalog.card("generators", "eyes"), **more)

    assert conformance.check(make, wanted) == []
    drawn = list(make(classes=[1, 4]).draw(conformance.orders(16, 128, 128)))
    assert {image.info["params"]["class"] for image in drawn} == {1, 4}
    assert max(map(sharpness, drawn)) < 0.5

    def blueness(kind):
        values = np.stack([np.asarray(image, dtype=float) for image in make(classes=[kind]).draw(wanted)])
        return float((values[..., 2] - values[..., 0]).mean())

    amber, blue = blueness(0), blueness(1)
    assert blue > amber + 5


@pytest.mark.prove
def test_faces_are_those_that_their_own_code_draws(tmp_path):
    (wheel,) = (ROOT / ".venv/gans").glob("gan_face_generate-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    package = tmp_path / "gan_face_generate"
    weights = package / "weights.tar"
    done = convert(weights, tmp_path / "faces", digest(weights), trust=True)
    assert (done.entry, done.resolution, done.classes) == ("netG_state_dict", 64, 0)
    theirs = code(package / "models.py").Generator(1, 3, 100, 64).eval()
    theirs.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu")["netG_state_dict"])
    ours = Gan(str(tmp_path / "faces"))
    z = torch.randn(16, 100, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = theirs(z[:, :, None, None])
        drawn = ours._net.forward(z)
    assert wanted.std() > 0.2
    torch.testing.assert_close(drawn, wanted, atol=1e-5, rtol=0)
    assert conformance.check(lambda: Gan(str(tmp_path / "faces")), conformance.orders(4, 64, 64)) == []
    assert max(map(sharpness, ours.draw(conformance.orders(16, 64, 64)))) < 0.5
    assert "gan_face_generate" not in sys.modules
