"""Low-pass filters of alias-free networks, and the plan of their layers (Karras et al., arXiv:2106.12423, appendix C)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from imaginet_build.generators.networks.base import Width

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rate = Annotated[int, Field(ge=1, le=65_536)]
Size = Annotated[int, Field(ge=1, le=4_096)]
Frequency = Annotated[float, Field(gt=0, le=65_536)]
Taps = Annotated[int, Field(ge=1, le=256)]


def lowpass(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> NDArray[np.float64] | None:
    """A Kaiser-windowed low-pass filter that sums to 1; None for a single tap.

    `cutoff`: where the response has fallen to half; `width`: of the transition band; `rate`: the sampling rate; all in the same
    unit. Shape (taps,), applied to both axes in turn, or with `radial` (taps, taps): a jinc, alike in every direction.
    """
    from scipy import signal, special

    if taps == 1:
        return None
    if not radial:
        made: NDArray[np.float64] = signal.firwin(taps, cutoff, width=width, fs=rate)
        return made
    place = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(place[:, None], place[None, :])
    # jinc(0) is the limit, pi cutoff² for the two-dimensional disc of that radius; only odd sizes have a centre.
    far = np.where(radius == 0, 1.0, radius)
    jinc = np.where(radius == 0, np.pi * cutoff**2, cutoff * special.j1(2 * np.pi * cutoff * far) / far)
    window = np.kaiser(taps, signal.kaiser_beta(signal.kaiser_atten(taps, width / (rate / 2))))
    made = jinc * np.outer(window, window)
    return np.asarray(made / made.sum())


class Layer(BaseModel):
    """One layer: what it takes and gives, and the signal that each side can carry.

    Sizes in samples along one side; rates in samples along the image's side; cutoffs and half widths (of the transition
    bands) in the same unit. `work_rate`: where the non-linearity happens. `rgb`: the last, linear one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    in_channels: Width
    out_channels: Width
    in_size: Size
    out_size: Size
    in_rate: Rate
    work_rate: Rate
    out_rate: Rate
    in_cutoff: Frequency
    out_cutoff: Frequency
    in_half_width: Frequency
    out_half_width: Frequency
    kernel: Annotated[int, Field(ge=1, le=7)]
    up_taps: Taps
    down_taps: Taps
    radial: bool = False
    rgb: bool = False

    @property
    def up(self) -> int:
        """How many times finer the non-linearity works than the input."""
        return self.work_rate // self.in_rate

    @property
    def down(self) -> int:
        """And than the output."""
        return self.work_rate // self.out_rate

    @property
    def padding(self) -> tuple[int, int]:
        """Samples to add (negative: to cut) before and after, at the working rate, so that `out_size` comes out with its
        centre where the input's was (appendix C.3)."""
        wanted = (self.out_size - 1) * self.down + 1
        total = wanted - (self.in_size + self.kernel - 1) * self.up + self.up_taps + self.down_taps - 2
        before = (total + self.up) // 2
        return before, total - before

    def filters(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """The filters before and after the non-linearity."""
        return (
            lowpass(self.up_taps, self.in_cutoff, 2 * self.in_half_width, self.work_rate),
            lowpass(self.down_taps, self.out_cutoff, 2 * self.out_half_width, self.work_rate, self.radial),
        )


def plan(
    resolution: int,
    *,
    layers: int = 14,
    critical: int = 2,
    base: int = 32_768,
    most: int = 512,
    first_cutoff: float = 2.0,
    first_stopband: float = 2**2.1,
    last_stopband: float = 2**0.3,
    margin: int = 10,
    kernel: int = 3,
    radial: bool = False,
    filter_size: int = 6,
) -> tuple[dict[str, Any], list[Layer]]:
    """The layers of an alias-free generator, and what its Fourier features need: `channels`, `size`, `rate`, `bandwidth`.

    Cutoffs and stopbands grow geometrically to the last `critical` layers, which use the whole band. Config T: `kernel` 3;
    config R: `kernel` 1, `radial`, and twice the channels. `last_stopband` is relative to the last cutoff.
    """
    share = np.minimum(np.arange(layers + 1) / (layers - critical), 1)
    cutoff = first_cutoff * (resolution / 2 / first_cutoff) ** share
    stopband = first_stopband * (resolution / 2 * last_stopband / first_stopband) ** share
    rate = np.exp2(np.ceil(np.log2(np.minimum(2 * stopband, resolution)))).astype(int)
    half = np.maximum(stopband, rate / 2) - cutoff
    size = rate + 2 * margin
    size[-2:] = resolution
    channels = np.rint(np.minimum(base / 2 / cutoff, most)).astype(int)
    channels[-1] = 3
    made = []
    for i in range(layers + 1):
        before, rgb = max(i - 1, 0), i == layers
        work = int(max(rate[before], rate[i])) * (1 if rgb else 2)
        up, down = work // int(rate[before]), work // int(rate[i])
        made.append(
            Layer(
                in_channels=int(channels[before]),
                out_channels=int(channels[i]),
                in_size=int(size[before]),
                out_size=int(size[i]),
                in_rate=int(rate[before]),
                work_rate=work,
                out_rate=int(rate[i]),
                in_cutoff=float(cutoff[before]),
                out_cutoff=float(cutoff[i]),
                in_half_width=float(half[before]),
                out_half_width=float(half[i]),
                kernel=1 if rgb else kernel,
                up_taps=filter_size * up if up > 1 and not rgb else 1,
                down_taps=filter_size * down if down > 1 and not rgb else 1,
                radial=radial and i < layers - critical,
                rgb=rgb,
            )
        )
    first = {"channels": int(channels[0]), "size": int(size[0]), "rate": int(rate[0]), "bandwidth": float(cutoff[0])}
    return first, made
