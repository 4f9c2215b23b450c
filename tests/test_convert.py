"""`convert`: a checkpoint as its makers publish it becomes a folder that draws the same images, or is refused in a sentence."""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
import subprocess
import tomllib
from pathlib import Path

import gan_references
import hostile_pickles
import numpy as np
import pytest
import torch
import upstream_gans
from command import run
from safetensors.torch import load_file

from imaginet_build import catalog, cli
from imaginet_build import convert as converting
from imaginet_build.convert import convert
from imaginet_build.converting import reading
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.generators import conformance, networks
from imaginet_build.generators.networks import Sampling

NETWORKS = {
    "stylegan2": (functools.partial(upstream_gans.stylegan2), gan_references.stylegan2, None),
    "stylegan2 with classes": (functools.partial(upstream_gans.stylegan2, classes=3), gan_references.stylegan2, 2),
    "stylegan2 with residuals": (
        functools.partial(upstream_gans.stylegan2, resnet=True, clamp=None),
        gan_references.stylegan2,
        None,
    ),
    "stylegan3-t": (functools.partial(upstream_gans.stylegan3, "T"), gan_references.stylegan3, None),
    "stylegan3-r": (functools.partial(upstream_gans.stylegan3, "R"), gan_references.stylegan3, None),
    "stylegan3 with classes": (functools.partial(upstream_gans.stylegan3, "T", 16, classes=4), gan_references.stylegan3, 1),
    "stylegan-xl": (functools.partial(upstream_gans.stylegan_xl), gan_references.stylegan3, 2),
    "stylegan-xl without classes": (functools.partial(upstream_gans.stylegan_xl, classes=0), gan_references.stylegan3, None),
}


RECIPE = """
name = "converted"
[[generate]]
generator = "faces"
category = "faces"
count = 2
"""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(folder: Path) -> networks.Network:
    network = networks.build(json.loads((folder / "config.json").read_text()))
    network.load(load_file(folder / "model.safetensors"))
    return network


def latents(network: networks.Network, count: int = 2) -> torch.Tensor:
    return torch.randn(count, network.latent_size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def read_here(monkeypatch):
    """What runs in the jail, without a process for it: for what comes after. The jail stands in the tests without this."""

    def read(_name, data, output, entry):
        data.seek(0)
        return reading.convert(memoryview(data.read()), entry, output.fileno()) | {"held": []}

    monkeypatch.setattr(converting, "_jailed", read)


@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_converted_draws_what_the_papers_say(name, tmp_path):
    make, reference, label = NETWORKS[name]
    tensors, modules = make()
    path = upstream_gans.write_pickle(tmp_path / "network.pkl", tensors, modules)
    done = convert(path, tmp_path / "out", digest(path), trust=True)
    assert done.entry == "G_ema"
    assert done.architecture == ("stylegan-xl" if "xl" in name else name[:9])
    network = load(tmp_path / "out")
    z = latents(network)
    labels = None if label is None else torch.full((len(z),), label)
    upstream = gan_references.Upstream(tensors, modules)
    for psi in (1.0, 0.6):
        drawn = network.forward(z, labels, Sampling(psi)).double().numpy()
        wanted = np.stack([reference(upstream, one.double().numpy(), label, psi) for one in z])
        np.testing.assert_allclose(drawn, wanted, atol=2e-5 * wanted.std())
    assert not (Path.cwd() / "ran").exists()


def test_progan_as_bare_tensors(tmp_path):
    tensors, modules = upstream_gans.progan()
    path = tmp_path / "progan.pth"
    torch.save({"generator": tensors, "generator_smooth": tensors, "discriminator": {"w": torch.zeros(1)}}, path)
    done = convert(path, tmp_path / "out", digest(path), trust=True)
    assert (done.architecture, done.resolution, done.entry) == ("progan", 16, "generator_smooth")
    assert done.dropped == {
        "the image of a lower resolution, unused by the grown network": 4,
        "the level of growth, which must be 0": 1,
    }
    network = load(tmp_path / "out")
    z = latents(network)
    wanted = np.stack([gan_references.progan(gan_references.Upstream(tensors, modules), one.double().numpy()) for one in z])
    np.testing.assert_allclose(network.forward(z).double().numpy(), wanted, atol=2e-5)


@pytest.mark.usefixtures("read_here")
def test_a_class_of_a_progan_stands_beside_the_latent_as_genforce_has_it(tmp_path):
    tensors, modules = upstream_gans.progan(classes=3)
    path = tmp_path / "progan.pth"
    torch.save(tensors, path)
    assert convert(path, tmp_path / "out", digest(path), trust=True, classes=3).classes == 3
    network = load(tmp_path / "out")
    z = latents(network)
    upstream = gan_references.Upstream(tensors, modules)
    wanted = np.stack([gan_references.progan(upstream, one.double().numpy(), np.eye(3)[1]) for one in z])
    np.testing.assert_allclose(network.forward(z, torch.tensor([1, 1])).double().numpy(), wanted, atol=2e-5)


@pytest.mark.usefixtures("read_here")
def test_a_progan_that_was_still_growing_is_refused(tmp_path):
    tensors, _ = upstream_gans.progan()
    tensors["lod"] += 0.5
    torch.save(tensors, tmp_path / "progan.pth")
    with pytest.raises(BuildError, match=r"^progan\.pth: lod is not 0: the network was still growing"):
        convert(tmp_path / "progan.pth", tmp_path / "again", digest(tmp_path / "progan.pth"), trust=True)


@pytest.mark.parametrize("config", ["T", "R"])
def test_stylegan3_as_bare_tensors_is_planned_as_in_the_paper_and_its_filters_prove_it(config, tmp_path):
    tensors, modules = upstream_gans.stylegan3(config)
    path = tmp_path / "stylegan3.pt"
    torch.save({f"module.{name}": value for name, value in tensors.items()}, path, _use_new_zipfile_serialization=config == "T")
    convert(path, tmp_path / "out", digest(path), trust=True)
    pickled = upstream_gans.write_pickle(tmp_path / "stylegan3.pkl", tensors, modules)
    convert(pickled, tmp_path / "same", digest(pickled), trust=True)
    one, two = load(tmp_path / "out"), load(tmp_path / "same")
    torch.testing.assert_close(one.forward(latents(one)), two.forward(latents(two)))


def called(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    assert not left.value.code
    return capsys.readouterr().out


def test_the_folder_draws_through_the_adapter_and_its_card_wants_a_licence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = upstream_gans.write_pickle(tmp_path / "faces.pkl", *upstream_gans.stylegan2(32, classes=3))
    asked = ("convert", path, "--sha256", digest(path), "--trust", "--out")
    done = json.loads(called(capsys, *asked, "weights/faces", "--json"))
    assert (done["resolution"], done["classes"], done["sha256"]) == (32, 3, digest(path))
    assert {"limits", "audit"} <= set(done["held"])
    cards = tmp_path / "manifests" / "generators"
    cards.mkdir(parents=True)
    card = (tmp_path / "weights/faces/card.toml").read_text()
    assert tomllib.loads(card)["model"] == "./weights/faces"
    (cards / "faces.toml").write_text(card)
    with pytest.raises(UsageError, match="licence"):
        catalog.card("generators", "faces")
    (cards / "faces.toml").write_text(card.replace('licence = ""', 'licence = "CC0-1.0"'))
    wanted = conformance.orders(3, 32, 32)
    options = {"noise": "random", "cutoff": 2, "truncation": 0.7}
    assert conformance.check(lambda: catalog.build(catalog.card("generators", "faces"), **options), wanted) == []


@pytest.mark.prove
def test_a_user_converts_completes_the_card_and_generates(tmp_path):
    path = upstream_gans.write_pickle(tmp_path / "faces.pkl", *upstream_gans.stylegan2(32, classes=3))
    done = run("convert", path, "--out", "weights/faces", "--sha256", digest(path), "--trust", cwd=tmp_path).stdout
    assert "stylegan2, 32 pixels, 3 classes" in done
    assert "next: complete weights/faces/card.toml, save it as manifests/generators/faces.toml" in done
    cards = tmp_path / "manifests" / "generators"
    cards.mkdir(parents=True)
    card = (tmp_path / "weights/faces/card.toml").read_text()
    (cards / "faces.toml").write_text(card)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    asked = ("generate", "--recipe", "recipe.toml")
    assert "licence" in run(*asked, cwd=tmp_path, code=2).stderr
    (cards / "faces.toml").write_text(card.replace('licence = ""', 'licence = "CC0-1.0"'))
    assert "2 images drawn" in run(*asked, cwd=tmp_path).stdout


# --- what is refused ---------------------------------------------------------------------------------------------------


def without(name):
    return lambda tensors, _: tensors.pop(name)


def with_value(name, value):
    return lambda tensors, _: tensors.update({name: value})


def scaled(name):
    return lambda tensors, _: tensors.update({name: tensors[name] * 1.01})


WORST = (
    "a memo of two thousand million", "bytes of an exabyte", "a byte array of a terabyte", "tuples a million deep",
    "a tensor that repeats one value",
)  # fmt: skip
"""What only limits of memory and time stop; the rest is refused in tests/converting."""


@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("mapping.fc1.bias"), "mapping.layers.1.bias is missing"),
        (with_value("synthesis.extra", torch.ones(2)), "1 of its tensors have no place in this network: synthesis.extra"),
        (with_value("mapping.w_avg", torch.ones(5)), r"mapping.mean is \[5\], not \[12\]"),
        (with_value("synthesis.input.phases", torch.full((8,), torch.nan)), "not numbers, first in input.phases"),
        (scaled("FILTER"), "its filter FILTER is not that of a stylegan3 of its sizes"),
        (lambda _, modules: modules["LAYER"].update(in_size=[36, 40]), "36 x 40, and only squares"),
        (lambda _, modules: modules["LAYER"].update(out_cutoff=-1.0), "out_cutoff"),
        (lambda _, modules: modules["LAYER"].update(tmp_sampling_rate=2**16), "samples a side; the most is"),
        (lambda _, modules: modules["LAYER"].pop("up_taps"), "not a whole stylegan3: KeyError 'up_taps'"),
        (lambda _, modules: modules["synthesis"].update(layer_names=["L9_1_1"]), "its layers are not those that it lists"),
        (lambda _, modules: modules["mapping.fc0"].update(activation="swish"), "has the activation 'swish'"),
        (lambda tensors, _: tensors.clear() or tensors.update({"a": torch.ones(1)}), "of no network known here: a"),
        (lambda tensors, _: tensors.update({k: v * 0 for k, v in tensors.items() if k.endswith("bias")}), "never trained"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_leaves_nothing(change, said, tmp_path):
    tensors, modules = upstream_gans.stylegan3("T", 16)
    layer = next(name for name in modules if name.startswith("synthesis.L1_"))
    names = {"LAYER": layer, "FILTER": f"{layer}.down_filter"}
    tensors |= {"FILTER": tensors[names["FILTER"]]}
    modules |= {"LAYER": modules[layer]}
    change(tensors, modules)
    if "FILTER" in tensors:
        tensors[names["FILTER"]] = tensors.pop("FILTER")
    modules.pop("LAYER")
    path = upstream_gans.write_pickle(tmp_path / "network.pkl", tensors, modules)
    with pytest.raises(BuildError, match=r"^network\.pkl: .*" + said.replace("FILTER", names["FILTER"])) as refused:
        convert(path, tmp_path / "out", digest(path), trust=True)
    assert len(str(refused.value)) < 500
    assert [p.name for p in tmp_path.iterdir()] == ["network.pkl"]


DAILY = ("os.system", "a class taken over", *WORST)
"""Tried in a process of its own every time, the others in the long proof: tests/converting reads all of them."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in DAILY else pytest.mark.prove)
        for name in dict.fromkeys([*hostile_pickles.running(Path("x")), *hostile_pickles.bombs()])
    ],
)
def test_hostile_files_fail_harmlessly(name, tmp_path):
    marker = tmp_path / "ran"
    files = hostile_pickles.running(marker) | hostile_pickles.bombs()
    path = tmp_path / "network.pkl"
    path.write_bytes(files[name])
    with pytest.raises(BuildError, match=r"^network\.pkl: ['\w]") as refused:
        convert(path, tmp_path / "out", digest(path), trust=True)
    assert refused.value.exit_code == 1
    assert len(str(refused.value)) < 500
    assert [p.name for p in tmp_path.iterdir()] == ["network.pkl"]


@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize(
    ("layer", "changed", "said"),
    [
        ("mapping.fc2", {"bias_gain": 1.0}, r"differ in their bias_gain: \[0\.01, 0\.01, 1\.0\]"),
        ("mapping.fc1", {"activation": "linear"}, "its mapping network has the activation 'linear'"),
        ("synthesis.b8.conv0", {"activation": "relu"}, "its layers have the activation 'relu'"),
        ("synthesis.b16.torgb", {"conv_clamp": None}, "its layers differ in their conv_clamp"),
    ],
)
def test_layers_that_are_not_alike_are_refused_since_they_are_drawn_alike(layer, changed, said, tmp_path):
    tensors, modules = upstream_gans.stylegan2(16)
    modules[layer] |= changed
    path = upstream_gans.write_pickle(tmp_path / "network.pkl", tensors, modules)
    with pytest.raises(BuildError, match=said):
        convert(path, tmp_path / "out", digest(path), trust=True)


@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize("name", ["__metadata__", "half a pair \ud800", "\x1b[31mred", "x" * 10**6])
def test_names_that_no_file_or_terminal_should_have_are_refused_in_a_line(name, tmp_path):
    path = tmp_path / "network.pt"
    for value in ({name: torch.ones(2)}, {"G_ema": {name: torch.ones(2)}}, {name: 3}):
        torch.save(value, path)
        with pytest.raises(BuildError) as refused:
            convert(path, tmp_path / "out", digest(path), trust=True)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 500


def test_an_image_that_no_machine_can_hold_is_a_refusal(tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory\nand a trace")

    monkeypatch.setattr(networks.ARCHITECTURES["progan"], "forward", full)
    torch.save(upstream_gans.progan()[0], tmp_path / "p.pth")
    with pytest.raises(BuildError, match=r"cannot be drawn on this machine \(.*allocate memory\)$"):
        convert(tmp_path / "p.pth", tmp_path / "out", digest(tmp_path / "p.pth"), trust=True)


LOUD = """import os
from imaginet_build.converting import jail
jail.close(2**28, 20, 2**16)
while True: os.write({}, b"x" * 2**20)"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (LOUD.format(1), "the process that read it ended with 1"),
        (LOUD.format(2), "the process that read it ended with 1"),
        ("import os; os.kill(os.getpid(), 9)", "the system ended the process that read it: it took more time or memory"),
        ("print('[1]')", "the process that read it ended with 0"),
        ('print(\'{"error": "\\\\u001b[2Jx"}\')', "network.pkl: \ufffd\\[2Jx"),
    ],
)
def test_what_the_process_says_is_not_trusted_either(code, said, tmp_path, monkeypatch):
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda call, **how: real([call[0], "-c", code], **how))
    with pytest.raises(BuildError, match=said):
        convert(path, tmp_path / "out", digest(path), trust=True)


def test_the_call_is_checked_before_the_file_is_opened(tmp_path, monkeypatch):
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    good = digest(path)
    with pytest.raises(UsageError, match="say that you trust where it came from: --trust"):
        convert(path, tmp_path / "out", good, trust=False)
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        convert(path, tmp_path / "out", "abc", trust=True)
    with pytest.raises(UsageError, match=f"has the SHA-256 {good}, not {'0' * 64}.*it was not opened"):
        convert(path, tmp_path / "out", "0" * 64, trust=True)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        convert(tmp_path / "absent.pkl", tmp_path / "out", good, trust=True)
    with pytest.raises(UsageError, match="cannot be read: it is no file"):
        convert(Path("/dev/zero"), tmp_path / "out", good, trust=True)
    with pytest.raises(UsageError, match="cannot be read: Not a directory"):
        convert(path / "inside", tmp_path / "out", good, trust=True)
    with pytest.raises(UsageError, match="the folder's name becomes the card's"):
        convert(path, tmp_path / "a b", good, trust=True)
    with pytest.raises(UsageError, match=r"cannot be made \(File exists\): choose another --out"):
        convert(path, path / "out", good, trust=True)
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        convert(path, tmp_path / "out", good, trust=True)
    monkeypatch.setattr(converting, "LARGEST", 3)
    with pytest.raises(UsageError, match="no GAN is larger"):
        convert(path, tmp_path / "new", good, trust=True)
    assert not (tmp_path / "new").exists()


def test_the_process_that_reads_has_no_key_and_a_time_to_end(tmp_path, monkeypatch):
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    real, seen = subprocess.run, []

    def watched(*arguments, env, **keywords):
        seen.append(env)
        assert "secret" not in json.dumps(env)
        return real(*arguments, env=env, **keywords)

    monkeypatch.setattr(subprocess, "run", watched)
    with pytest.raises(BuildError, match="it holds a, none of the usual names"):
        convert(path, tmp_path / "out", digest(path), trust=True)
    assert set(seen[0]) == {"PATH", "PYTHONPATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}
    monkeypatch.setattr(converting, "PATIENCE", 0.01)
    with pytest.raises(BuildError, match=r"was ended after 0\.01 seconds"):
        convert(path, tmp_path / "out", digest(path), trust=True)


def test_a_typo_in_the_architecture_gets_a_near_match(tmp_path):
    path = tmp_path / "p.pth"
    torch.save(upstream_gans.progan()[0], path)
    with pytest.raises(BuildError, match="no architecture 'progran'; did you mean 'progan'"):
        convert(path, tmp_path / "out", digest(path), trust=True, architecture="progran")
    assert [path.name for path in tmp_path.iterdir()] == ["p.pth"]
