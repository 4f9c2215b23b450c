"""Trains the three small generators that ship: `python -m imaginet_build.models.train_generators {vae,gan,diffusion}`.

One CPU core is enough: minutes each. The diffusion model needs the autoencoder, so train that first. Every run writes
safetensors (float16) with its configuration, and `training.json`: data, licences, steps, seconds and figures on
photographs that were held out. Checkpoints are written on the way, so a run may be stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imaginet_build.generators.networks import skiplayer
from imaginet_build.models import figures, photographs

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger(__name__)
HERE = Path(__file__).resolve().parent
SIZE = 128
GAN: dict[str, Any] = {
    "architecture": "skip-layer",
    "resolution": SIZE,
    "latent_size": 128,
    "widths": [160, 128, 96, 64, 32, 16],
}
WHOLE = (0.45, 1.0)
"""The GAN and the diffusion model see most of a photograph; the autoencoder, which must be true to detail, sees details."""


def _batches(pool: np.ndarray, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless random batches of `pool` (n, h, w, 3) uint8 as (size, 3, h, w) float in [-1, 1]."""
    import torch

    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(pool))
        for i in range(0, len(order) - size + 1, size):
            batch = torch.from_numpy(pool[np.sort(order[i : i + size])]).permute(0, 3, 1, 2)
            yield (batch.float() / 127.5 - 1).contiguous()


def _to_pixels(x: torch.Tensor) -> np.ndarray:
    """(n, 3, h, w) in [-1, 1] to (n, h, w, 3) uint8."""
    pixels: np.ndarray = ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels


class _Average:
    """An exponential moving average of a module's weights and buffers (a short memory first, a long one later)."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay, self.n = decay, 0

    def update(self, module: nn.Module) -> None:
        import torch

        self.n += 1
        decay = min(self.decay, (1 + self.n) / (10 + self.n))
        with torch.no_grad():
            for mine, theirs in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
                if mine.dtype.is_floating_point:
                    mine.lerp_(theirs, 1 - decay)
                else:
                    mine.copy_(theirs)


class _Run:
    """The clock and the diary of one training run: a step budget, a time budget, and what is written at the end."""

    def __init__(self, args: argparse.Namespace, data: list[photographs.Photograph]) -> None:
        self.out: Path = args.out or HERE / f"tiny-{args.model}"
        self.steps, self.seconds, self.begun, self.step = args.steps, 60.0 * args.minutes, time.monotonic(), 0
        self.data = data

    def progress(self) -> float:
        """How much of the budget is spent, 0 to 1: of the steps or of the time, whichever is further."""
        return float(min(1.0, max(self.step / self.steps, (time.monotonic() - self.begun) / self.seconds)))

    def loop(self, checkpoint: Callable[[dict[str, Any]], None], every: int = 500) -> Iterator[float]:
        """Yields the progress before each step; calls `checkpoint(facts)` now and then and at the end."""
        while (done := self.progress()) < 1:
            yield done
            self.step += 1
            if self.step % every == 0:
                checkpoint(self.facts())
        checkpoint(self.facts())

    def facts(self) -> dict[str, Any]:
        return {
            "steps": self.step,
            "seconds": round(time.monotonic() - self.begun),
            "threads": 1,
            "photographs": [{"name": p.name, "licence": p.licence} for p in self.data],
            "held_out": list(photographs.HELD_OUT),
        }

    def write(self, facts: dict[str, Any]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        for config in self.out.rglob("config.json"):
            # diffusers notes where a model was loaded from: a folder of this machine.
            kept = json.loads(config.read_text(encoding="utf-8"))
            if kept.pop("_name_or_path", None) is not None:
                config.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for path in self.out.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes for the owner alone
        log.info("%s: step %s, %s", self.out.name, facts["steps"], facts["figures"])


def _schedule(optimizer: torch.optim.Optimizer, rate: float, done: float) -> None:
    """Linear warm-up over the first 2 % of the budget, cosine decay over the rest."""
    factor = min(1.0, done / 0.02 + 0.01) * (0.5 + 0.5 * np.cos(np.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = rate * max(factor, 0.01)


def train_vae(run: _Run, held: list[photographs.Photograph]) -> None:
    """A small deep-compression autoencoder (8 x down-sampling, 16 latent channels): L1 on pixels and on their gradients.

    `AutoencoderDC`, because its space-to-channel shortcuts (arXiv:2410.10733) let so small a model learn in minutes; an
    `AutoencoderKL` of this size was 8 dB behind after 500 steps. A little noise keeps the latent smooth enough to diffuse.
    """
    import torch
    from diffusers import AutoencoderDC

    from imaginet_build.models.whitening import whitened

    model: Any = AutoencoderDC(
        latent_channels=16,
        attention_head_dim=8,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(16, 32, 64, 64),
        decoder_block_out_channels=(16, 32, 64, 64),
        encoder_layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
    )
    average = _Average(model, 0.998)
    small = _batches(photographs.crops(run.data, 8000, 64, (0.08, 1.0), seed=1), 12, seed=3)
    large = _batches(photographs.crops(run.data, 2000, SIZE, (0.15, 1.0), seed=1), 3, seed=3)
    whole = torch.from_numpy(photographs.crops(run.data, 128, SIZE, WHOLE, seed=2)).permute(0, 3, 1, 2).float() / 127.5 - 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-3, betas=(0.9, 0.99))

    def checkpoint(facts: dict[str, Any]) -> None:
        best = whitened(average.module, whole)
        measured = figures.reconstruction(best, held)
        best.half().save_pretrained(run.out)
        run.write(facts | {"figures": measured})

    for done in run.loop(checkpoint):
        _schedule(optimizer, 1e-3, done)
        # Small crops are quick and varied; the last quarter teaches it what an image without a border nearby is like.
        x = next(small if done < 0.75 else large)
        with torch.autocast("cpu", torch.bfloat16):
            z = model.encode(x).latent
            z = z + 0.05 * z.detach().std() * torch.randn_like(z)
            y = model.decode(z).sample.float()
        loss = (y - x).abs().mean()
        for axis in (2, 3):
            loss = loss + 0.3 * (y.diff(dim=axis) - x.diff(dim=axis)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        _clip(model)
        optimizer.step()
        average.update(model)


def _clip(model: nn.Module) -> None:
    """Clips the gradient to norm 1: bfloat16 autocast now and then throws an outlier."""
    import torch

    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def train_gan(run: _Run, held: list[photographs.Photograph]) -> None:
    """Hinge loss (arXiv:1705.02894) with DiffAugment (arXiv:2006.10738) and a spectrally normalised discriminator."""
    import torch
    from safetensors.torch import save_file

    from imaginet_build.models.adversary import augment, discriminator

    model = skiplayer.module(GAN["latent_size"], GAN["widths"])
    judge = discriminator()
    average = _Average(model, 0.997)
    pool = photographs.crops(run.data, 4000, SIZE, WHOLE, seed=4)
    size = 8
    batches = _batches(pool, size, seed=5)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, betas=(0.0, 0.99))
    critic = torch.optim.Adam(judge.parameters(), lr=3e-4, betas=(0.0, 0.99))

    def checkpoint(facts: dict[str, Any]) -> None:
        run.out.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in average.module.state_dict().items()}, run.out / "model.safetensors")
        (run.out / "config.json").write_text(json.dumps(GAN, indent=1) + "\n", encoding="utf-8")
        with torch.no_grad():
            drawn = _to_pixels(average.module(torch.randn(128, 128, generator=torch.Generator().manual_seed(0))))
        run.write(facts | {"figures": figures.likeness(drawn, pool, photographs.crops(held, 128, SIZE, WHOLE, seed=6))})

    for done in run.loop(checkpoint):
        rate = 3e-4 * (1 if done < 0.6 else max(0.05, (1 - done) / 0.4))
        for group in (*optimizer.param_groups, *critic.param_groups):
            group["lr"] = rate
        x, z = next(batches), torch.randn(size, GAN["latent_size"])
        with torch.autocast("cpu", torch.bfloat16):
            fake = model(z)
            judged = judge(torch.cat([augment(x), augment(fake.detach().float())])).float()
            loss = (1 - judged[:size]).relu().mean() + (1 + judged[size:]).relu().mean()
        critic.zero_grad()
        loss.backward()
        critic.step()
        with torch.autocast("cpu", torch.bfloat16):
            judge.requires_grad_(False)
            loss = -judge(augment(fake.float())).float().mean()
            judge.requires_grad_(True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)


def train_diffusion(run: _Run, held: list[photographs.Photograph]) -> None:
    """An unconditional latent diffusion model over the autoencoder: v-prediction, cosine noise, DDIM sampling."""
    import torch
    from diffusers import AutoencoderDC, DDIMScheduler, LDMPipeline, UNet2DModel

    vae = AutoencoderDC.from_pretrained(HERE / "tiny-vae").float().eval().requires_grad_(False)
    scale = vae.config.scaling_factor
    pool = photographs.crops(run.data, 3000, SIZE, WHOLE, seed=7)
    with torch.no_grad():
        pixels = torch.from_numpy(pool).permute(0, 3, 1, 2)
        latents = torch.cat([scale * vae.encode(p.float() / 127.5 - 1).latent for p in torch.split(pixels, 50)])
    model = UNet2DModel(
        sample_size=SIZE // 8,
        in_channels=16,
        out_channels=16,
        layers_per_block=1,
        block_out_channels=(40, 48, 48),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=8,
        norm_eps=1e-5,
    )
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False
    )
    average = _Average(model, 0.999)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-3, betas=(0.9, 0.99))

    def checkpoint(facts: dict[str, Any]) -> None:
        pipe = LDMPipeline(vae, average.module, scheduler)
        pipe.set_progress_bar_config(disable=True)
        begun = time.monotonic()
        images = pipe(64, torch.Generator().manual_seed(0), num_inference_steps=20, output_type="np").images
        seconds = (time.monotonic() - begun) / 64
        LDMPipeline(copy.deepcopy(vae).half(), copy.deepcopy(average.module).half(), scheduler).save_pretrained(run.out)
        drawn = (images * 255).round().astype(np.uint8)
        measured = figures.likeness(drawn, pool, photographs.crops(held, 128, SIZE, WHOLE, seed=6))
        run.write(facts | {"figures": measured | {"seconds_per_image_20_steps": round(seconds, 4)}})

    rng = torch.Generator().manual_seed(8)
    size = 20
    for done in run.loop(checkpoint, every=1000):
        _schedule(optimizer, 1e-3, done)
        x = latents[torch.randint(len(latents), (size,), generator=rng)]
        noise = torch.randn(x.shape, generator=rng)
        t = torch.randint(1000, (size,), generator=rng)
        with torch.autocast("cpu", torch.bfloat16):
            guess = model(scheduler.add_noise(x, noise, t), t).sample
        loss = (guess.float() - scheduler.get_velocity(x, noise, t)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        _clip(model)
        optimizer.step()
        average.update(model)


def main() -> None:
    """The command."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m imaginet_build.models.train_generators", description=__doc__)
    parser.add_argument("model", choices=["vae", "gan", "diffusion"])
    parser.add_argument("--minutes", type=float, default=20.0, help="stop after so many minutes (default 20)")
    parser.add_argument("--steps", type=int, default=100_000, help="or after so many steps, whichever comes first")
    parser.add_argument("--out", type=Path, help="where to write; default: beside this file")
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared" / "data", help="more photographs, if there")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train, held = photographs.load(args.shared)
    {"vae": train_vae, "gan": train_gan, "diffusion": train_diffusion}[args.model](_Run(args, train), held)


if __name__ == "__main__":
    main()
