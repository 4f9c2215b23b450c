"""The kinds of text-to-image pipelines that diffusers has, each tiny, with random weights, built offline from configurations.

`BUILD[name](folder)` writes one into a folder, as its makers' would lie there: 0.1 to 2 MB, a fraction of a second an image.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from imaginet_build.generators import stack

_LETTERS = "▁abcdefghijklmnopqrstuvwxyz<|>_0123456789.,:"
_CHAT = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}{{ c.text }}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def clip_words(folder: Path) -> tuple[Any, int]:
    """A CLIP tokenizer of single letters, and the size of its vocabulary."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder.mkdir(parents=True, exist_ok=True)
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77), len(words)


def letters(length: int = 512, side: str = "right") -> Any:
    """A tokenizer of single letters in the manner of T5, Gemma and Qwen, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ends = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = Tokenizer(models.Unigram([*ends, *((letter, -3.0) for letter in _LETTERS)], unk_id=2))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=length,
        padding_side=side,
        chat_template=_CHAT,
    )


def clip_text(size: int, projection: int | None = None) -> Any:
    """A CLIP text encoder of two layers."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=size, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=projection or 32, bos_token_id=size - 2, eos_token_id=size - 1, pad_token_id=size - 1,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def t5(width: int = 32) -> Any:
    """A T5 encoder of one layer."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=64, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=4))


def vae(channels: int = 4, **more: Any) -> Any:
    """An autoencoder that halves each side once."""
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=channels, **blocks, **more)


def deep_vae() -> Any:
    """An autoencoder that halves each side three times, for pipelines that count on it."""
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, shift_factor=0.1, **blocks)


def unet(**more: Any) -> Any:
    """A U-Net of two levels."""
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "sample_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**(settings | more))


def _flow(**more: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**more)


def _language(kind: str, width: int = 16, layers: int = 2) -> Any:
    import transformers

    settings = {
        "vocab_size": 64, "hidden_size": width, "intermediate_size": 16, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 1,
        "bos_token_id": 1,
    }  # fmt: skip
    return getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings))


def lcm(folder: Path) -> Any:
    """Latent consistency: guidance embedded in the U-Net, no negative prompt."""
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    words, size = clip_words(folder / "words")
    return LatentConsistencyModelPipeline(
        vae=vae(), text_encoder=clip_text(size), tokenizer=words, unet=unet(time_cond_proj_dim=32), scheduler=LCMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sd3(folder: Path) -> Any:
    """Stable Diffusion 3: two CLIP encoders, T5, a multi-modal transformer."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    words, size = clip_words(folder / "words")
    net = SD3Transformer2DModel(
        sample_size=32, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4,
        caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64, out_channels=4,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=net, scheduler=_flow(), vae=vae(shift_factor=0.06), text_encoder=clip_text(size, 32), tokenizer=words,
        text_encoder_2=clip_text(size, 32), tokenizer_2=words, text_encoder_3=t5(), tokenizer_3=letters(),
    )  # fmt: skip


def _pixart(**more: Any) -> Any:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        sample_size=32, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=32,
        in_channels=4, cross_attention_dim=16, out_channels=8, **more,
    )  # fmt: skip


def pixart_sigma(folder: Path) -> Any:
    """PixArt-Sigma: T5, and sizes that its own call would round to bins and scale back."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline

    return PixArtSigmaPipeline(letters(), t5(), vae(), _pixart(use_additional_conditions=False), DPMSolverMultistepScheduler())


def pixart_alpha(folder: Path) -> Any:
    """PixArt-alpha, whose caption cleaning depends on what else is installed."""
    from diffusers import DDIMScheduler, PixArtAlphaPipeline

    return PixArtAlphaPipeline(letters(), t5(), vae(), _pixart(use_additional_conditions=False), DDIMScheduler())


def sana(folder: Path) -> Any:
    """Sana: Gemma 2 as the text encoder, a deep-compression autoencoder, linear attention."""
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel

    deep = AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu",
    )  # fmt: skip
    net = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=16, sample_size=32,
    )  # fmt: skip
    return SanaPipeline(letters(side="left"), _language("Gemma2"), deep, net, _flow(shift=3.0))


def lumina2(folder: Path) -> Any:
    """Lumina Image 2: Gemma 2, and a transformer over tokens of text and image alike."""
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    net = Lumina2Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=24, num_layers=1, num_refiner_layers=1, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 2, 2), axes_lens=(512, 128, 128), cap_feat_dim=16,
    )  # fmt: skip
    return Lumina2Pipeline(net, _flow(), deep_vae(), _language("Gemma2"), letters(side="right"))


def hunyuan_dit(folder: Path) -> Any:
    """HunyuanDiT: BERT and T5 together, a safety checker by name."""
    from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    listed = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_LETTERS, *(f"##{c}" for c in _LETTERS)]
    (folder / "vocab.txt").write_text("\n".join(listed))
    bert = BertModel(
        BertConfig(
            vocab_size=len(listed),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=80,
        )
    )
    net = HunyuanDiT2DModel(
        sample_size=16, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=4,
        cross_attention_dim=16, cross_attention_dim_t5=32, pooled_projection_dim=16, hidden_size=24,
    )  # fmt: skip
    return HunyuanDiTPipeline(
        deep_vae(), bert, BertTokenizer(str(folder / "vocab.txt"), model_max_length=77), net, DDPMScheduler(), None, None,
        requires_safety_checker=False, text_encoder_2=t5(), tokenizer_2=letters(256),
    )  # fmt: skip


def auraflow(folder: Path) -> Any:
    """AuraFlow: UMT5, a flow transformer."""
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
    from transformers import UMT5Config, UMT5EncoderModel

    net = AuraFlowTransformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, pos_embed_max_size=4096,
    )  # fmt: skip
    text = UMT5EncoderModel(UMT5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4))
    return AuraFlowPipeline(letters(), text, vae(), net, _flow())


def chroma(folder: Path) -> Any:
    """Chroma: FLUX without its distilled guidance, one text encoder."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    net = ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8), approximator_hidden_dim=32, approximator_layers=1, approximator_num_channels=16,
    )  # fmt: skip
    return ChromaPipeline(_flow(), vae(shift_factor=0.1), t5(), letters(), net)


def cogview4(folder: Path) -> Any:
    """CogView4: GLM as the text encoder."""
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel

    net = CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=4, out_channels=4,
        text_embed_dim=16, time_embed_dim=8, condition_dim=4,
    )  # fmt: skip
    return CogView4Pipeline(letters(side="left"), _language("Glm"), vae(), net, _flow(base_shift=0.25, max_shift=0.75))


def z_image(folder: Path) -> Any:
    """Z-Image: Qwen 3, prompts as lists of unequal length, no batch axis inside."""
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    net = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[8, 4, 4],
        axes_lens=[512, 64, 64],
    )  # fmt: skip
    # As in the real one, unused tokens are parameters that only training fills.
    for parameter in (net.x_pad_token, net.cap_pad_token):
        torch.nn.init.normal_(parameter)
    return ZImagePipeline(_flow(), vae(shift_factor=0.1), _language("Qwen3"), letters(), net)


def qwen_image(folder: Path) -> Any:
    """Qwen-Image: a vision-language model reads the prompt, a video autoencoder draws one frame."""
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    net = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    frames = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    reads = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                "num_key_value_heads": 2, "rope_parameters": rope, "pad_token_id": 0,
            },
            vision_config={
                "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
                "fullatt_block_indexes": [0],
            },
        )
    )  # fmt: skip
    return QwenImagePipeline(_flow(), frames, reads, letters(1024), net)


def flux2_klein(folder: Path) -> Any:
    """FLUX.2 [klein]: Qwen 3, packed and normalised latents, no negative prompt."""
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=64, hidden_size=8, intermediate_size=16, num_hidden_layers=28, num_attention_heads=2, num_key_value_heads=2,
        head_dim=4,
    )  # fmt: skip
    net = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
        timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    draws = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8),
        latent_channels=4, norm_num_groups=4, layers_per_block=1,
    )  # fmt: skip
    return Flux2KleinPipeline(_flow(), draws, Qwen3ForCausalLM(config), letters(), net, is_distilled=False)


def deepfloyd(folder: Path) -> Any:
    """DeepFloyd IF, first stage: diffusion of the pixels themselves, with a place for a watermarker."""
    from diffusers import DDPMScheduler, IFPipeline

    net = unet(in_channels=3, out_channels=6, cross_attention_dim=32, encoder_hid_dim=32, sample_size=64)
    return IFPipeline(
        letters(), t5(), net, DDPMScheduler(variance_type="learned_range"), None, None, None, requires_safety_checker=False
    )


BUILD: dict[str, Callable[[Path], Any]] = {
    one.__name__: one
    for one in (
        lcm, sd3, pixart_sigma, pixart_alpha, sana, lumina2, hunyuan_dit, auraflow, chroma, cogview4, z_image, qwen_image,
        flux2_klein, deepfloyd,
    )
}  # fmt: skip


def save(name: str, folder: Path, seed: int = 0) -> Path:
    """Build the kind `name` with weights from `seed`, and leave it in `folder`/model."""
    torch.manual_seed(seed)
    with stack.no_vendor_warnings():
        BUILD[name](folder).save_pretrained(folder / "model")
    return folder / "model"
