"""Tiny real pipelines of diffusers with random weights, built offline from configurations: for mechanics, not for pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from tinypipelines import clip_words, unet


@pytest.fixture(autouse=True)
def one_thread():
    """Bytes are promised for one number of threads; the suite runs on one, as a worker does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _text_config(size: int, projection: int | None = None):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=projection or 32,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )


def _vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory) -> Path:
    """Stable Diffusion 1.x in shape, half a megabyte, random weights; with a safety checker entry of None."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-sd")
    tokenizer, size = clip_words(folder / "words")
    StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(size)),
        tokenizer=tokenizer,
        unet=unet(),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory) -> Path:
    """Stable Diffusion XL in shape, random weights."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("tiny-sdxl")
    tokenizer, size = clip_words(folder / "words")
    StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(size)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(size, 32)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet(
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 1),
            projection_class_embeddings_input_dim=32 + 6 * 8,
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    ).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory) -> Path:
    """FLUX.1 in shape, random weights: a transformer over packed latents, two text encoders of different kinds."""
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("tiny-flux")
    tokenizer, size = clip_words(folder / "words")
    letters = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    words = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], unk_id=2))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKL(
            block_out_channels=(8, 8),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            shift_factor=0.1,
            scaling_factor=1.0,
        ),
        text_encoder=CLIPTextModel(_text_config(size)),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)),
        tokenizer_2=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
        ),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
        ),
    ).save_pretrained(folder / "model")
    return folder / "model"
