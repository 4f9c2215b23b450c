"""Diffusion pipelines: what is loaded, what is refused, what is recorded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import singlefile
import torch
from inline import Inline
from pictures import write

from imaginet_build import catalog, engine
from imaginet_build.errors import UsageError
from imaginet_build.generate import generate
from imaginet_build.generators import conformance
from imaginet_build.generators.diffusion import Diffusion, Unconditional
from imaginet_build.recipe import Generate
from imaginet_build.records import Refusal
from imaginet_build.store import Store

ORDERS = conformance.orders(4, 64, 48, needs="prompt")


@pytest.fixture(scope="module")
def sd(tiny_sd):
    return Diffusion(str(tiny_sd), steps=2, guidance=5.0)


def test_what_decides_the_pixels_is_told(sd):
    params = sd.params()
    assert params["dtype"] == "float32"
    assert params["device"] == "cpu"
    assert params["threads"] == 1
    assert params["scheduler"] == "DDIMScheduler"
    assert params["num_inference_steps"] == 2
    assert {"torch", "diffusers", "transformers"} <= params.keys()


def test_the_scheduler_of_the_card_is_used_and_told(tiny_sd):
    other = Diffusion(str(tiny_sd), steps=2, scheduler="EulerDiscreteScheduler", scheduler_options={"use_karras_sigmas": True})
    assert other.params()["scheduler"] == "EulerDiscreteScheduler"
    with pytest.raises(UsageError, match="no scheduler 'EulerScheduler'; did you mean"):
        Diffusion(str(tiny_sd), scheduler="EulerScheduler")


def test_a_prompt_longer_than_the_model_reads_is_recorded(sd):
    long = replace(ORDERS[0].prompt, text="a very long prompt " * 30)
    images = list(sd.draw([ORDERS[0], replace(ORDERS[1], prompt=long)]))
    assert "prompt_tokens_dropped" not in images[0].info["params"]
    # One token a letter in this vocabulary: 15 letters 30 times, and two ends, of which 77 are read.
    assert images[1].info["params"]["prompt_tokens_dropped"] == 15 * 30 + 2 - 77


def test_a_negative_prompt_changes_the_image(sd):
    other = replace(ORDERS[0].prompt, negative="blurry, watermark")
    plain, negative = sd.draw([ORDERS[0], replace(ORDERS[0], prompt=other)])
    assert plain.tobytes() != negative.tobytes()


def test_sizes_may_be_mixed_in_one_batch(sd):
    mixed = [ORDERS[0], replace(ORDERS[1], width=32, height=64), ORDERS[2]]
    assert [image.size for image in sd.draw(mixed)] == [(64, 48), (32, 64), (64, 48)]


def test_a_size_the_model_cannot_draw_is_refused(sd):
    (answer,) = sd.draw([replace(ORDERS[0], width=65)])
    assert isinstance(answer, Refusal)
    assert answer.reason == "bad-size"
    assert "65 x 48" in answer.detail


def test_no_watermark_even_where_the_package_for_it_is_installed(tiny_sdxl):
    sdxl = Diffusion(str(tiny_sdxl), steps=2)
    assert sdxl._loaded.pipe.watermark is None


def test_an_image_of_no_numbers_is_refused(tiny_sd):
    sd = Diffusion(str(tiny_sd), steps=2)
    torch.nn.init.constant_(sd._loaded.pipe.vae.decoder.conv_out.bias, float("nan"))
    assert [answer.reason for answer in sd.draw(ORDERS[:2])] == ["nan", "nan"]


def test_a_blank_image_is_refused(tiny_sd):
    sd = Diffusion(str(tiny_sd), steps=2)
    torch.nn.init.zeros_(sd._loaded.pipe.vae.decoder.conv_out.weight)
    assert [answer.reason for answer in sd.draw(ORDERS[:2])] == ["blank", "blank"]


@pytest.mark.parametrize("strict", [False, True])
def test_what_the_models_own_checker_flags_is_refused(strict, tiny_sd, tmp_path):
    """The checker is the real one, with its thresholds set so that it flags nothing, or everything."""
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=small | {"image_size": 32, "patch_size": 8}, text_config=small, projection_dim=16)
    )
    for weights in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
        torch.nn.init.constant_(weights, -2.0 if strict else 2.0)
    look = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd)
    pipe.register_modules(safety_checker=checker, feature_extractor=look)
    pipe.save_pretrained(tmp_path)
    answers = list(Diffusion(str(tmp_path), steps=2, safety_checker=True).draw(ORDERS[:3]))
    assert [getattr(answer, "reason", "drawn") for answer in answers] == ["flagged" if strict else "drawn"] * 3
    without = Diffusion(str(tmp_path), steps=2)
    assert without._loaded.pipe.safety_checker is None
    assert not any(isinstance(answer, Refusal) for answer in without.draw(ORDERS[:1]))


def holding(sd: Diffusion, most: int) -> list[int]:
    """Gives the device of `sd` memory for `most` images: the numbers of images that it tries to decode at once."""
    tried, decode = [], sd._loaded.pipe.vae.decode

    def full(z, *args, **kwargs):
        tried.append(len(z))
        if len(z) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(z, *args, **kwargs)

    sd._loaded.pipe.vae.decode = full
    return tried


def test_out_of_memory_halves_the_batch_and_says_so(tiny_sd):
    sd = Diffusion(str(tiny_sd), steps=2)
    alone = [next(sd.draw([order])) for order in ORDERS]
    tried = holding(sd, 1)
    answers = list(sd.draw(ORDERS))
    assert tried == [4, 2, 1, 1, 1, 1]
    assert [a.tobytes() for a in answers] == [a.tobytes() for a in alone]
    assert answers[0].info["params"] == {"drawn_together": 1, "cut": True}
    tried.clear()
    list(sd.draw(ORDERS))
    assert tried == [1, 1, 1, 1], "the batch that fits is remembered"
    assert next(sd.draw(ORDERS[:1])).info["params"] == {}, "what was not cut is not said to be"


def test_what_fits_is_remembered_for_the_device_and_the_size_by_whoever_comes_next(tiny_sd, tmp_path):
    first, second = Diffusion(str(tiny_sd), steps=2), Diffusion(str(tiny_sd), steps=2)
    five = conformance.orders(5, 64, 48, needs="prompt")
    first.remember(tmp_path / "memory.json")
    tried = holding(first, 2)
    assert len(list(first.draw(five))) == 5
    assert tried == [5, 2, 2, 1]
    second.remember(tmp_path / "memory.json")
    tried = holding(second, 2)
    list(second.draw(five))
    assert tried == [2, 2, 1], "not learned twice"
    list(second.draw(conformance.orders(3, 32, 32, needs="prompt")))
    assert tried[3] == 3, "another size is another question"
    said = json.loads((tmp_path / "memory.json").read_text())
    (device,) = said
    assert device.startswith("cpu, ")
    assert said[device]["64 x 48"] == {"batch": 2, "level": "none"}


CARD = """
adapter = "imaginet_build.generators.diffusion:Diffusion"
family = "sd"
licence = "CC0-1.0"
revision = "1"
model = "{model}"
steps = 1
width = 64
height = 48
"""


def test_by_generate_the_ids_stay_the_cut_is_recorded_and_the_work_folder_remembers(tiny_sd, tmp_path, monkeypatch):
    from diffusers import AutoencoderKL

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", Inline())
    write(tmp_path / "manifests" / "generators" / "mine.toml", CARD.format(model=tiny_sd))
    entry = Generate(generator="mine", category="photos", count=6, batch=3)
    whole, cramped = Store(tmp_path / "whole"), Store(tmp_path / "cramped")
    generate(whole, [entry], 1, engine.Pool(workers=1))
    decode, tried = AutoencoderKL.decode, []

    def full(self, z, *args, **kwargs):
        tried.append(len(z))
        if len(z) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, z, *args, **kwargs)

    monkeypatch.setattr(AutoencoderKL, "decode", full)
    assert generate(cramped, [entry], 1, engine.Pool(workers=1)).failed == 0
    assert tried == [3, 1, 1, 1, 1, 1, 1]
    assert cramped.ids() == whole.ids()
    assert all(json.loads(row["params"])["cut"] for row in cramped.facts().to_pylist())
    assert not any("cut" in json.loads(row["params"]) for row in whole.facts().to_pylist())
    tried.clear()
    generate(cramped, [entry.model_copy(update={"count": 9})], 1, engine.Pool(workers=1))
    assert tried == [1, 1, 1], "another process of the same work folder knows it"


@pytest.mark.parametrize("written", ["{", "[]", '{"cpu": {"64 x 48": {"batch": "two", "level": "none"}}}'])
def test_a_memory_that_is_not_whole_is_begun_anew(written, tiny_sd, tmp_path, caplog):
    (tmp_path / "memory.json").write_text(written)
    sd = Diffusion(str(tiny_sd), steps=2)
    sd.remember(tmp_path / "memory.json")
    assert "not whole and is begun anew" in caplog.text
    holding(sd, 1)
    list(sd.draw(ORDERS[:2]))
    assert next(iter(json.loads((tmp_path / "memory.json").read_text()).values())) == {"64 x 48": {"batch": 1, "level": "none"}}


def test_one_image_that_does_not_fit_is_offloaded_further_and_then_refused(tiny_sd, monkeypatch, tmp_path):
    """The ladder of a GPU, with its two vendor calls replaced by a note: none of them runs without a device."""
    sd, placed = Diffusion(str(tiny_sd), steps=2), []
    sd.remember(tmp_path / "memory.json")
    sd._loaded.device = replace(sd._loaded.device, kind="cuda")

    def place(who, loaded, level):
        placed.append(level)
        loaded.offload = level

    monkeypatch.setattr("imaginet_build.generators.pipelines.place", place)
    tried = holding(sd, 0)
    answers = list(sd.draw(ORDERS[:2]))
    assert placed == ["model", "sequential"]
    assert tried == [2, 1, 1, 1, 1]
    assert [answer.reason for answer in answers] == ["out-of-memory"] * 2
    assert "one image of 64 x 48 at offload sequential" in answers[0].detail
    assert sd.params()["offload"] == "sequential"


def test_no_memory_for_even_one_image_is_a_refusal(tiny_sd):
    sd = Diffusion(str(tiny_sd), steps=2)

    def full(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9000000000 bytes")

    sd._loaded.pipe.vae.decode = full
    assert [a.reason for a in sd.draw(ORDERS[:2])] == ["out-of-memory"] * 2


def test_any_other_failure_is_not_swallowed(tiny_sd):
    sd = Diffusion(str(tiny_sd), steps=2)

    def broken(*args, **kwargs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    sd._loaded.pipe.vae.decode = broken
    with pytest.raises(RuntimeError, match="shapes"):
        list(sd.draw(ORDERS[:2]))


def test_weights_that_are_not_here_are_named_with_the_way_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="not on this machine") as raised:
        Diffusion("somebody/some-model", revision="0123abc", name="sdxl")
    assert "hf download somebody/some-model --revision 0123abc" in str(raised.value)
    assert "local folder" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"no model at .*nowhere.*hub id"):
        Diffusion("./nowhere")


def test_pickled_weights_are_refused(tiny_sd, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_sd, folder)
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(UsageError, match="safetensors"):
        Diffusion(str(folder))
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02")
    with pytest.raises(UsageError, match="pickles run code"):
        Diffusion(str(tmp_path / "model.ckpt"), pipeline="StableDiffusionPipeline")


def test_one_file_draws_what_its_folder_draws(tiny_sd, tmp_path):
    """The names of its weights are those of the original program, as on the sites where fine-tunes are shared."""
    file = str(singlefile.write(tiny_sd, tmp_path / "tune.safetensors"))
    folder = Diffusion(str(tiny_sd), steps=2)
    one = Diffusion(file, pipeline="StableDiffusionPipeline", config=str(tiny_sd), steps=2, scheduler="DDIMScheduler")
    assert next(one.draw(ORDERS[:1])).tobytes() == next(folder.draw(ORDERS[:1])).tobytes()
    with pytest.raises(UsageError, match="a single file needs its class in the card"):
        Diffusion(file)
    with pytest.raises(UsageError, match="cannot load a 'StableDiffusionPipline' from one file; did you mean"):
        Diffusion(file, pipeline="StableDiffusionPipline")
    with pytest.raises(UsageError, match="does not load as FluxPipeline"):
        Diffusion(file, pipeline="FluxPipeline", config=str(tiny_sd))
    with pytest.raises(UsageError, match="there is no file"):
        Diffusion(str(tmp_path / "nowhere.safetensors"), pipeline="StableDiffusionPipeline")


def test_code_that_comes_with_a_model_is_never_run(tiny_sd, tmp_path):
    folder = tmp_path / "custom"
    shutil.copytree(tiny_sd, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": ["mine", "MyPipeline"]}))
    (folder / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UsageError, match="never run"):
        Diffusion(str(folder))


def test_a_keyword_the_pipeline_does_not_know_is_named(tiny_sd):
    with pytest.raises(UsageError, match="does not take true_cfg"):
        Diffusion(str(tiny_sd), options={"true_cfg": 4.0})
    with pytest.raises(UsageError, match="no dtype 'fp16'"):
        Diffusion(str(tiny_sd), dtype="fp16")


def lora(model, folder, where="unet", cls=None):
    """A LoRA over the queries and values of one network, as its trainers save it."""
    import diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = (cls or diffusers.StableDiffusionPipeline).from_pretrained(model)
    network = getattr(pipe, where)
    network.add_adapter(LoraConfig(r=2, init_lora_weights="gaussian", target_modules=["to_q", "to_v"]))
    torch.manual_seed(0)
    state = {k: torch.randn_like(v) for k, v in get_peft_model_state_dict(network).items()}
    type(pipe).save_lora_weights(folder, **{f"{where}_lora_layers": state})
    return folder / "pytorch_lora_weights.safetensors"


def test_a_lora_changes_the_image_and_is_named_by_its_bytes(tiny_sd, tmp_path):
    file = lora(tiny_sd, tmp_path / "style")
    plain, half = (
        Diffusion(str(tiny_sd), steps=2),
        Diffusion(str(tiny_sd), steps=2, lora=str(tmp_path / "style"), lora_scale=0.5),
    )
    whole, none = (Diffusion(str(tiny_sd), steps=2, lora=str(file), lora_scale=scale) for scale in (1.0, 0.0))
    bytes_of = [next(made.draw(ORDERS[:1])).tobytes() for made in (plain, half, whole, none)]
    assert len(set(bytes_of)) == 3
    assert bytes_of[0] == bytes_of[3], "at a scale of 0 nothing is added"
    params = half.params()
    assert params["lora_scale"] == 0.5
    assert params["lora_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_lora_for_a_transformer(tiny_flux, tmp_path):
    from diffusers import FluxPipeline

    file = lora(tiny_flux, tmp_path, "transformer", FluxPipeline)
    plain, other = Diffusion(str(tiny_flux), steps=2), Diffusion(str(tiny_flux), steps=2, lora=str(file))
    assert next(plain.draw(ORDERS[:1])).tobytes() != next(other.draw(ORDERS[:1])).tobytes()


def test_a_lora_that_was_made_for_another_model_is_refused(tiny_sd, tiny_sdxl, tiny_flux, tmp_path):
    from diffusers import FluxPipeline
    from safetensors.torch import load_file, save_file

    file = lora(tiny_sd, tmp_path / "sd")
    with pytest.raises(UsageError, match=r"made for another model than a FluxPipeline|does not load into a FluxPipeline"):
        Diffusion(str(tiny_flux), lora=str(file))
    with pytest.raises(UsageError, match=r"does not load into a StableDiffusionXLPipeline: .*size mismatch|made for another"):
        Diffusion(str(tiny_sdxl), lora=str(file))
    with pytest.raises(UsageError, match="made for another model than a StableDiffusionPipeline"):
        Diffusion(str(tiny_sd), lora=str(lora(tiny_flux, tmp_path / "flux", "transformer", FluxPipeline)))
    state = load_file(file)
    strange = {key.replace("down_blocks.1", "down_blocks.7"): value for key, value in state.items()}
    assert strange.keys() != state.keys()
    save_file(strange, tmp_path / "strange.safetensors")
    with pytest.raises(UsageError, match=r"made for another model|does not load"):
        Diffusion(str(tiny_sd), lora=str(tmp_path / "strange.safetensors"))


def test_a_lora_that_is_not_here_is_named_with_the_way_to_get_it(tiny_sd, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"hf download nobody/style --revision 0123abc, or set lora = "):
        Diffusion(str(tiny_sd), lora="nobody/style", lora_revision="0123abc")
    with pytest.raises(UsageError, match="there is no model at"):
        Diffusion(str(tiny_sd), lora="styles/mine.safetensors")
    (tmp_path / "style.bin").write_bytes(b"pickle")
    with pytest.raises(UsageError, match="has no safetensors; pickles are refused"):
        Diffusion(str(tiny_sd), lora=str(tmp_path))
    for name in ("a", "b"):
        shutil.copy(lora(tiny_sd, tmp_path / "made"), tmp_path / f"{name}.safetensors")
    with pytest.raises(UsageError, match=r"write one into the card as lora_file: a.safetensors, b.safetensors"):
        Diffusion(str(tiny_sd), lora=str(tmp_path))
    assert Diffusion(str(tiny_sd), lora=str(tmp_path), lora_file="b.safetensors").params()["lora"] == str(tmp_path)


def test_a_class_conditional_model_draws_its_class_from_the_order(tmp_path):
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, sample_size=16)
    net = DiTTransformer2DModel(
        sample_size=8, num_layers=1, num_attention_heads=2, attention_head_dim=8, num_embeds_ada_norm=1000, out_channels=8
    )
    DiTPipeline(net, vae, DDIMScheduler()).save_pretrained(tmp_path)
    dit = Unconditional(str(tmp_path), steps=2)
    orders = conformance.orders(3, *dit.size())
    drawn = [image.info["params"]["class"] for image in dit.draw(orders)]
    assert all(0 <= c < 1000 for c in drawn)
    assert len(set(drawn)) == 3
    assert [image.info["params"]["class"] for image in dit.draw(orders)] == drawn


@pytest.mark.prove
def test_a_fresh_process_draws_the_same_bytes():
    code = (
        "import hashlib, torch; torch.set_num_threads(1)\n"
        "from imaginet_build import catalog\n"
        "from imaginet_build.generators import conformance\n"
        "made = catalog.build(catalog.card('generators', 'tiny-diffusion'))\n"
        "drawn = made.draw(conformance.orders(3, 128, 128))\n"
        "print(hashlib.sha256(b''.join(image.tobytes() for image in drawn)).hexdigest())\n"
    )
    env = os.environ | {"PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    made = catalog.build(catalog.card("generators", "tiny-diffusion"))
    drawn = made.draw(conformance.orders(3, 128, 128))
    assert done.stdout.strip() == hashlib.sha256(b"".join(image.tobytes() for image in drawn)).hexdigest()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_the_same_batch_gives_the_same_bytes(tiny_sdxl):
    made = Diffusion(str(tiny_sdxl), steps=2)
    assert made.params()["dtype"] in ("bfloat16", "float16")
    assert [a.tobytes() for a in made.draw(ORDERS)] == [a.tobytes() for a in made.draw(ORDERS)]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_on_a_gpu_every_precision_draws_at_every_offload(tiny_sdxl, dtype, offload):
    made = Diffusion(str(tiny_sdxl), steps=2, dtype=dtype, offload=offload)
    assert [image.size for image in made.draw(ORDERS[:2])] == [(64, 48)] * 2
    assert made.params().get("offload", "none") == offload
    assert made.params()["dtype"] == dtype


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_a_batch_that_truly_does_not_fit_is_drawn_in_smaller_ones(tiny_sd):
    made = Diffusion(str(tiny_sd), steps=1)
    many = conformance.orders(64, 512, 512, needs="prompt")
    next(made.draw(many[:1]))
    torch.cuda.empty_cache()
    spare = torch.cuda.max_memory_allocated() + 200_000_000
    torch.cuda.set_per_process_memory_fraction(min(1.0, spare / torch.cuda.get_device_properties(0).total_memory))
    try:
        answers = list(made.draw(many))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert not any(isinstance(answer, Refusal) for answer in answers)
    assert answers[0].info["params"]["cut"]


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_the_suite_that_ships_is_passed(tiny_sdxl):
    assert conformance.check(lambda: Diffusion(str(tiny_sdxl), steps=2), ORDERS[:3]) == []
