"""Every kind of text-to-image pipeline that diffusers maps: drawn with, or at least called by its own names."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tinypipelines import BUILD, save

from imaginet_build.errors import UsageError
from imaginet_build.generators import conformance
from imaginet_build.generators.diffusion import Diffusion
from imaginet_build.records import Refusal

ORDERS = conformance.orders(3, 64, 64, needs="prompt")
UNGUIDED = {"options": {"true_cfg_scale": 1.0}}


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """One folder for each kind."""
    return {name: save(name, tmp_path_factory.mktemp(name)) for name in BUILD}


@pytest.mark.parametrize("name", BUILD)
def test_it_draws_each_order_by_its_own_seed(name, models):
    made = Diffusion(str(models[name]), steps=2)
    first = list(made.draw(ORDERS[:2]))
    assert [image.size for image in first] == [(64, 64)] * 2
    assert first[0].tobytes() != first[1].tobytes()
    assert [image.tobytes() for image in made.draw(ORDERS[:2])] == [image.tobytes() for image in first]


@pytest.mark.prove
@pytest.mark.parametrize("name", BUILD)
def test_it_passes_the_suite_that_ships(name, models):
    assert conformance.check(lambda: Diffusion(str(models[name]), steps=2), ORDERS) == []


def mapped() -> dict[str, type]:
    from diffusers.pipelines import auto_pipeline

    # Drawn from more than a prompt: an image of edges, of depth, or to be edited.
    other = ("control", "kontext", "omni")
    every = auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING
    return {name: cls for name, cls in every.items() if not any(word in name for word in other)}


def test_every_mapped_pipeline_is_called_by_words_it_knows():
    """Those too large to be built here: what we pass is in their signatures, and what they need is what we pass."""
    assert len(mapped()) > 30
    for name, cls in mapped().items():
        parameters = inspect.signature(cls.__call__).parameters
        assert {"prompt", "generator", "output_type"} <= parameters.keys(), name
        kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        needed = {k for k, p in parameters.items() if p.default is inspect.Parameter.empty and p.kind not in kinds}
        assert needed <= {"self", "prompt"}, name
        assert "width" in parameters, name
        assert "list" in str(parameters["generator"].annotation).lower(), f"{name} takes one generator for a whole batch"


@pytest.mark.parametrize("name", ["pixart_sigma", "sana", "hunyuan_dit"])
def test_what_is_drawn_is_what_was_ordered_and_not_scaled_to_it(name, models):
    """Their own default draws the nearest size of a list, and scales: traces of resampling in one class alone."""
    made = Diffusion(str(models[name]), steps=2)
    assert made.params()["use_resolution_binning"] is False
    latents = []
    decode = made._loaded.pipe.vae.decode
    made._loaded.pipe.vae.decode = lambda z, *a, **k: latents.append(z.shape[-1]) or decode(z, *a, **k)
    (image,) = made.draw([replace(ORDERS[0], width=96)])
    assert image.size == (96, 64)
    assert latents[0] * {"hunyuan_dit": 8}.get(name, 2) == 96


def test_a_size_that_only_the_pipeline_knows_it_cannot_draw_is_refused(models):
    answers = list(Diffusion(str(models["sana"]), steps=2).draw([replace(ORDERS[0], width=72), ORDERS[1]]))
    assert isinstance(answers[0], Refusal)
    assert (answers[0].reason, "divisible by 32" in answers[0].detail) == ("bad-size", True)
    assert not isinstance(answers[1], Refusal)


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("lcm", {}),
        ("flux2_klein", {}),
        ("qwen_image", UNGUIDED),
        ("z_image", {"guidance": 0.0}),
        ("tiny_sdxl", {"guidance": 0.0}),
    ],
)
def test_a_negative_prompt_that_is_not_heard_is_recorded(name, keywords, models, request):
    model = models[name] if name in models else request.getfixturevalue(name)
    made = Diffusion(str(model), steps=2, **keywords)
    negative = replace(ORDERS[0], prompt=replace(ORDERS[0].prompt, negative="blurry"))
    plain, other = (next(made.draw([order])) for order in (ORDERS[0], negative))
    assert plain.tobytes() == other.tobytes()
    assert other.info["params"] == {"negative_ignored": True}
    assert plain.info["params"] == {}


@pytest.mark.parametrize(("name", "keywords"), [("qwen_image", {}), ("z_image", {})])
def test_a_negative_prompt_that_is_heard_is_not(name, keywords, models):
    made = Diffusion(str(models[name]), steps=2, **keywords)
    negative = replace(ORDERS[0], prompt=replace(ORDERS[0].prompt, negative="blurry"))
    plain, other = (next(made.draw([order])) for order in (ORDERS[0], negative))
    assert plain.tobytes() != other.tobytes()
    assert other.info["params"] == {}


def test_true_guidance_needs_no_negative_prompt_of_the_orders(models):
    """Qwen-Image guides by a negative prompt or not at all, whatever its scale: an empty one is passed."""
    model = str(models["qwen_image"])
    guided, not_guided = Diffusion(model, steps=2), Diffusion(model, steps=2, **UNGUIDED)
    assert next(guided.draw(ORDERS[:1])).tobytes() != next(not_guided.draw(ORDERS[:1])).tobytes()


def test_an_empty_negative_prompt_beside_a_neighbours_is_still_none(tiny_sdxl):
    made = Diffusion(str(tiny_sdxl), steps=2)
    alone = next(made.draw(ORDERS[:1]))
    negative = replace(ORDERS[1], prompt=replace(ORDERS[1].prompt, negative="blurry"))
    assert next(made.draw([ORDERS[0], negative])).tobytes() == alone.tobytes()


def test_the_longest_prompt_that_the_card_allows_is_what_counts(models):
    text = "abcdefghij" * 4
    order = replace(ORDERS[0], prompt=replace(ORDERS[0].prompt, text=text))
    made = Diffusion(str(models["pixart_sigma"]), steps=2, options={"max_sequence_length": 16})
    # One token a letter, one for the beginning of a word, one for the end.
    assert next(made.draw([order])).info["params"] == {"prompt_tokens_dropped": 42 - 16}


def test_a_visible_watermark_is_none_either(models):
    from diffusers.pipelines.deepfloyd_if.watermark import IFWatermarker

    made = Diffusion(str(models["deepfloyd"]), steps=2)
    assert made._loaded.pipe.watermarker is None
    made._loaded.pipe.register_modules(watermarker=IFWatermarker())
    assert made._loaded.pipe.watermarker is not None, "or the check that refuses it looks at nothing"


def test_half_precision_is_drawn_in(models):
    made = Diffusion(str(models["z_image"]), steps=2, dtype="bfloat16")
    assert made.params()["dtype"] == "bfloat16"
    assert made._loaded.pipe.transformer.dtype == torch.bfloat16
    assert next(made.draw(ORDERS[:1])).size == (64, 64)


def test_a_setting_that_is_nearly_right_is_named(models):
    with pytest.raises(UsageError, match=r"a ZImagePipeline does not take guidance_scal; did you mean 'guidance_scale'"):
        Diffusion(str(models["z_image"]), options={"guidance_scal": 4.0})
    with pytest.raises(UsageError, match=r"FlowMatchEulerDiscreteScheduler does not take shif; did you mean 'shift'"):
        Diffusion(str(models["z_image"]), scheduler_options={"shif": 2.0})
    with pytest.raises(UsageError, match="no scheduler 'UNet2DModel'"):
        Diffusion(str(models["z_image"]), scheduler="UNet2DModel")
