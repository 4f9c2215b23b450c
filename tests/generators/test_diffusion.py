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
import torch

from imaginet_build import catalog
from imaginet_build.errors import UsageError
from imaginet_build.generators import conformance
from imaginet_build.generators.diffusion import Diffusion, Unconditional
from imaginet_build.records import Refusal

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


def test_what_the_models_own_checker_flags_is_refused(tiny_sd):
    sd = Diffusion(str(tiny_sd), steps=2)
    sd._loaded.pipe.run_safety_checker = lambda image, *_: (image, [i == 1 for i in range(len(image))])
    answers = list(sd.draw(ORDERS[:3]))
    assert isinstance(answers[1], Refusal)
    assert answers[1].reason == "flagged"
    assert not isinstance(answers[0], Refusal)
    assert not isinstance(answers[2], Refusal)


def test_out_of_memory_halves_the_batch_and_says_so(tiny_sd):
    sd = Diffusion(str(tiny_sd), steps=2)
    alone = [next(sd.draw([order])) for order in ORDERS]
    whole, decode = [], sd._loaded.pipe.vae.decode

    def full(z, *args, **kwargs):
        whole.append(len(z))
        if len(z) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(z, *args, **kwargs)

    sd._loaded.pipe.vae.decode = full
    answers = list(sd.draw(ORDERS))
    assert whole == [4, 2, 1, 1, 1, 1]
    assert [a.tobytes() for a in answers] == [a.tobytes() for a in alone]
    assert answers[0].info["params"]["drawn_together"] == 1
    whole.clear()
    list(sd.draw(ORDERS))
    assert whole == [1, 1, 1, 1], "the batch that fits is remembered"


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


def test_a_lora_changes_the_image(tiny_sd, tmp_path):
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd)
    pipe.unet.add_adapter(LoraConfig(r=2, init_lora_weights="gaussian", target_modules=["to_q", "to_v"]))
    state = get_peft_model_state_dict(pipe.unet)
    torch.manual_seed(0)
    StableDiffusionPipeline.save_lora_weights(tmp_path, {k: torch.randn_like(v) for k, v in state.items()})
    plain, other = Diffusion(str(tiny_sd), steps=2), Diffusion(str(tiny_sd), steps=2, lora=str(tmp_path), lora_scale=0.5)
    assert next(plain.draw(ORDERS[:1])).tobytes() != next(other.draw(ORDERS[:1])).tobytes()
    assert other.params()["lora_scale"] == 0.5


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_same_batch_gives_the_same_bytes(tiny_sdxl):
    made = Diffusion(str(tiny_sdxl), steps=2)
    assert made.params()["dtype"] in ("bfloat16", "float16")
    assert [a.tobytes() for a in made.draw(ORDERS)] == [a.tobytes() for a in made.draw(ORDERS)]
