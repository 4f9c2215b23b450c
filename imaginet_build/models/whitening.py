"""An autoencoder's latent, turned and scaled to unit variance, with the decoder's output unchanged.

The channels of a latent resemble each other: together they vary fourteen times as strongly as in their weakest direction,
and a small diffusion model drowns the weak directions in its own error. Both ends of the latent are linear, so that the
change of basis goes into their weights, and no pipeline needs to know.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def whitened(vae: Any, images: torch.Tensor) -> Any:
    """A copy of an `AutoencoderDC` whose latents of `images` (n, 3, h, w) in [-1, 1] have second moments near the identity.

    The encoder's and the decoder's latent shortcuts are folded into the convolutions they run beside (both are linear, at the
    centre of a 3 x 3 kernel), and the change of basis after them. Not centred: a shift would not survive zero padding.
    """
    import torch
    from diffusers import AutoencoderDC

    folded = copy.deepcopy(vae.state_dict())
    shortcuts = vae.config.encoder_out_shortcut, vae.config.decoder_in_shortcut
    latent, wide = vae.config.latent_channels, vae.config.encoder_block_out_channels[-1]
    group = wide // latent
    if shortcuts[0]:
        folded["encoder.conv_out.weight"][:, :, 1, 1] += torch.eye(latent).repeat_interleave(group, 1) / group
    if shortcuts[1]:
        folded["decoder.conv_in.weight"][:, :, 1, 1] += torch.eye(latent).repeat_interleave(group, 0)
    with torch.no_grad():
        z = vae.encode(images).latent.double()
    moments = torch.einsum("nihw,njhw->ij", z, z) / (z.numel() / latent)
    values, basis = torch.linalg.eigh(moments)
    # Directions that hold next to nothing would only be noise made loud.
    scale = values.clamp(min=1e-5 * float(values.max())).sqrt()
    there, back = (basis / scale).T.float(), (basis * scale).float()
    for name in ("weight", "bias"):
        key = f"encoder.conv_out.{name}"
        folded[key] = torch.einsum("ij,j...->i...", there, folded[key])
    folded["decoder.conv_in.weight"] = torch.einsum("oihw,ij->ojhw", folded["decoder.conv_in.weight"], back)
    # Not `from_config`: it puts what had been left at its default back to the default.
    settings = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    settings |= {"encoder_out_shortcut": False, "decoder_in_shortcut": False, "scaling_factor": 1.0}
    made = AutoencoderDC(**settings)
    made.load_state_dict(folded)
    return made.eval().requires_grad_(False)
