"""A tiny Stable Diffusion 1 folder as the one file that fine-tunes are shared as: the names of the original program (LDM)."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors.torch import load_file, save_file

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0", "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2", "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1", "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1", "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0", "up_blocks.1.resnets.1": "output_blocks.3.0", "conv_norm_out": "out.0",
    "conv_out": "out.2",
}  # fmt: skip
_VAE = (
    (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"), (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)\.resnets\.(\d)", r"up.\1.block.\2"), (r"up_blocks\.(\d)\.upsamplers\.0", r"up.\1.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"), (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"), (r"attn_1\.group_norm", "attn_1.norm"), (r"attn_1\.to_([qkv])", r"attn_1.\1"),
    (r"attn_1\.to_out\.0", "attn_1.proj_out"), (r"conv_norm_out", "norm_out"), (r"conv_shortcut", "nin_shortcut"),
)  # fmt: skip


def write(model: Path, path: Path) -> Path:
    """The networks of the folder `model` (as `tiny_sd` is) in one file."""
    state = {}
    for name, values in load_file(model / "unet" / "diffusion_pytorch_model.safetensors").items():
        block = max((key for key in _UNET if name.startswith(f"{key}.")), key=len)
        rest = name[len(block) + 1 :]
        if ".resnets." in block:
            rest = re.sub(r"^\w+", lambda found: _RESNET[found[0]], rest)
        state[f"model.diffusion_model.{_UNET[block]}.{rest}"] = values
    for known, values in load_file(model / "vae" / "diffusion_pytorch_model.safetensors").items():
        name = known
        for pattern, original in _VAE:
            name = re.sub(pattern, original, name)
        if name.startswith("decoder.up."):
            name = re.sub(r"up\.(\d)", lambda found: f"up.{1 - int(found[1])}", name)
        attention = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        state[f"first_stage_model.{name}"] = values[:, :, None, None].contiguous() if attention else values
    for name, values in load_file(model / "text_encoder" / "model.safetensors").items():
        state[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = values
    save_file(state, path)
    return path
