"""Which upstream network a set of tensors is, its sizes, and by which table its names become ours.

    stylegan2     NVlabs/stylegan2-ada-pytorch, NVlabs/stylegan3 (`networks_stylegan2.py`): pickles, `G_ema`
    stylegan3     NVlabs/stylegan3 (`networks_stylegan3.py`), configs T and R: pickles, `G_ema`
    stylegan-xl   autonomousvision/stylegan-xl (`networks_stylegan3_resetting.py`), stems and super-resolution: pickles, `G_ema`
    progan        genforce/genforce (`pggan_generator.py`): the official TensorFlow weights as `.pth`, `generator_smooth`
    dcgan         any `nn.Sequential` after PyTorch's DCGAN tutorial: 4 x 4 transposed convolutions, batch norms between

What is not in the tables is refused, and what is left out is named with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imaginet_build.errors import BuildError, suggest

Sizes = Mapping[str, tuple[int, ...]]
Modules = Mapping[str, Mapping[str, Any]]
Rule = tuple[str, str | None]

_STYLED = r"(weight|bias)"
MAPPING: tuple[Rule, ...] = (
    (rf"mapping\.fc(\d+)\.{_STYLED}", r"mapping.layers.\1.\2"),
    (r"mapping\.w_avg", "mapping.mean"),
)
LABELLED: tuple[Rule, ...] = ((rf"mapping\.embed\.{_STYLED}", r"mapping.embed.\1"),)
VECTORS: tuple[Rule, ...] = (
    (r"mapping\.embed\.weight", "mapping.vectors"),
    (rf"mapping\.embed_proj\.{_STYLED}", r"mapping.embed.\1"),
)
UNUSED_VECTORS: tuple[Rule, ...] = ((r"mapping\.embed\.weight", None),)
STYLEGAN2: tuple[Rule, ...] = (
    *MAPPING,
    *LABELLED,
    (r"synthesis\.b4\.const", "constant"),
    (rf"synthesis\.b(\d+)\.conv0\.{_STYLED}", r"levels.\1.up.\2"),
    (rf"synthesis\.b(\d+)\.conv1\.{_STYLED}", r"levels.\1.same.\2"),
    (rf"synthesis\.b(\d+)\.torgb\.{_STYLED}", r"levels.\1.rgb.\2"),
    (rf"synthesis\.b(\d+)\.conv0\.affine\.{_STYLED}", r"levels.\1.up.style.\2"),
    (rf"synthesis\.b(\d+)\.conv1\.affine\.{_STYLED}", r"levels.\1.same.style.\2"),
    (rf"synthesis\.b(\d+)\.torgb\.affine\.{_STYLED}", r"levels.\1.rgb.style.\2"),
    (r"synthesis\.b(\d+)\.conv0\.noise_const", r"levels.\1.up.noise"),
    (r"synthesis\.b(\d+)\.conv1\.noise_const", r"levels.\1.same.noise"),
    (r"synthesis\.b(\d+)\.conv0\.noise_strength", r"levels.\1.up.strength"),
    (r"synthesis\.b(\d+)\.conv1\.noise_strength", r"levels.\1.same.strength"),
    (r"synthesis\.b(\d+)\.skip\.weight", r"levels.\1.skip.weight"),
    (r"synthesis\.b\d+\.(\w+\.)?resample_filter", None),
)
ALIAS_FREE: tuple[Rule, ...] = (
    *MAPPING,
    (r"synthesis\.input\.weight", "input.weight"),
    (r"synthesis\.input\.freqs", "input.frequencies"),
    (r"synthesis\.input\.phases", "input.phases"),
    (r"synthesis\.input\.transform", "input.transform"),
    (rf"synthesis\.input\.affine\.{_STYLED}", r"input.place.\1"),
    (rf"layer (\d+)\.{_STYLED}", r"layers.\1.\2"),
    (rf"layer (\d+)\.affine\.{_STYLED}", r"layers.\1.style.\2"),
    (r"layer (\d+)\.magnitude_ema", r"layers.\1.magnitude"),
    (r"layer (\d+)\.(up|down)_filter", None),
)
REASONS = {
    "filter": "a filter, designed again and compared with the file's",
    "vectors": "class vectors that a network without classes does not use",
    "image": "the image of a lower resolution, unused by the grown network",
    "lod": "the level of growth, which must be 0",
    "batches": "how many batches training saw",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How a set of tensors becomes a network: `config.json`, new names, what is left out and why, and what the file's tensors
    must hold for the reading to be right: `filters` (name -> what they are compared with, by `config`), `zero` (names).
    `rows`: of which of our weights only so many first rows are used."""

    config: dict[str, Any]
    names: dict[str, str]
    dropped: dict[str, str] = field(default_factory=dict)
    filters: dict[str, tuple[int, str]] = field(default_factory=dict)
    zero: tuple[str, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)


class NotUnderstood(BuildError):
    """Tensors that are no network known here, or not all of one."""


def plan(sizes: Sizes, modules: Modules, architecture: str | None = None, classes: int = 0) -> Plan:
    """The plan for tensors of these names and sizes; `modules`: what the checkpoint's modules say of themselves, if it does.

    `classes`: how many inputs of a DCGAN's or ProGAN's latent are a class's, since no file says so. Raises `NotUnderstood`.
    """
    sizes = _without_prefix(sizes)
    kind = architecture or _recognise(sizes)
    if kind not in _PLANS:
        raise NotUnderstood(f"no architecture '{kind}'{suggest(kind, _PLANS)}; there are {', '.join(_PLANS)}")
    if classes and kind not in ("dcgan", "progan"):
        raise NotUnderstood(f"a {kind} says itself how many classes it has: leave --classes out")
    try:
        return _PLANS[kind](sizes, modules, classes)
    except (KeyError, IndexError, TypeError, ValueError) as e:
        raise NotUnderstood(f"not a whole {kind}: {type(e).__name__} {str(e)[:120]}") from e


def _without_prefix(sizes: Sizes) -> Sizes:
    """Names without the `module.` that training on several devices leaves."""
    if sizes and all(name.startswith("module.") for name in sizes):
        return {name.removeprefix("module."): size for name, size in sizes.items()}
    return sizes


def _recognise(sizes: Sizes) -> str:
    if "synthesis.b4.const" in sizes:
        return "stylegan2"
    if "synthesis.input.freqs" in sizes:
        # XL's class vectors are a table without a bias, and there even where no class is used.
        vectors = "mapping.embed.weight" in sizes and "mapping.embed.bias" not in sizes
        return "stylegan-xl" if vectors else "stylegan3"
    if "layer0.weight" in sizes and "output0.weight" in sizes:
        return "progan"
    if sizes and all(re.fullmatch(_SEQUENTIAL, name) for name in sizes):
        return "dcgan"
    shown = ", ".join(sorted(sizes)[:5])
    raise NotUnderstood(f"the names of its {len(sizes)} tensors are those of no network known here: {shown}, …")


def _rename(sizes: Sizes, rules: Sequence[Rule], reason: str) -> tuple[dict[str, str], dict[str, str]]:
    """New names and what is dropped; every name must match a rule."""
    names: dict[str, str] = {}
    dropped: dict[str, str] = {}
    strange = []
    for name in sizes:
        matched = next(((new, m) for pattern, new in rules if (m := re.fullmatch(pattern, name))), None)
        if matched is None:
            strange.append(name)
        elif matched[0] is None:
            dropped[name] = reason
        else:
            names[name] = matched[1].expand(matched[0])
    if strange:
        raise NotUnderstood(f"{len(strange)} of its tensors have no place in this network: {', '.join(strange[:5])}")
    return names, dropped


def _mapping(sizes: Sizes, modules: Modules, vectors: bool = False) -> tuple[dict[str, Any], int, int]:
    """Sizes of the mapping network, of the latent, and the number of classes."""
    count = len([name for name in sizes if re.fullmatch(r"mapping\.fc\d+\.weight", name)])
    widths = [sizes[f"mapping.fc{i}.weight"][0] for i in range(count)]
    about = [modules.get(f"mapping.fc{i}", {}) for i in range(count)]
    _leaky(about, "its mapping network has")
    found: dict[str, Any] = {"widths": widths, "rate": float(_one(about, "bias_gain", 0.01))}
    embed = "mapping.embed_proj.weight" if vectors else "mapping.embed.weight"
    classes = 0
    if embed in sizes:
        found["embedding"] = sizes[embed][0]
        # XL keeps ImageNet's thousand vectors whatever it was trained on: the mean styles say how many classes there are.
        classes = sizes["mapping.w_avg"][0] if vectors else sizes["mapping.embed.weight"][1]
        if vectors:
            found["vectors"] = sizes[embed][1]
    return found, sizes["mapping.fc0.weight"][1] - found.get("embedding", 0), classes


def _one(modules: Sequence[Mapping[str, Any]], key: str, missing: Any) -> Any:
    """What all of the modules say of themselves; there is one setting for all of them here."""
    said = [about.get(key, missing) for about in modules]
    if any(value != said[0] for value in said):
        raise NotUnderstood(f"its layers differ in their {key}: {said}")
    return said[0]


def _leaky(modules: Sequence[Mapping[str, Any]], who: str) -> None:
    if strange := [about["activation"] for about in modules if about.get("activation", "lrelu") != "lrelu"]:
        raise NotUnderstood(f"{who} the activation {strange[0]!r}, not leaky ReLU")


def _stylegan2(sizes: Sizes, modules: Modules, _classes: int) -> Plan:
    names, dropped = _rename(sizes, STYLEGAN2, REASONS["filter"])
    sides = sorted(int(m[1]) for name in sizes if (m := re.fullmatch(r"synthesis\.b(\d+)\.conv1\.weight", name)))
    mapping, latent, classes = _mapping(sizes, modules)
    layers = [name.removesuffix(".affine.weight") for name in sizes if re.fullmatch(r"synthesis\..*\.affine\.weight", name)]
    about = [modules.get(name, {}) for name in layers]
    _leaky(about, "its layers have")
    config = {
        "architecture": "stylegan2",
        "resolution": sides[-1],
        "latent_size": latent,
        "classes": classes,
        "widths": [sizes[f"synthesis.b{side}.conv1.bias"][0] for side in sides],
        "mapping": mapping,
        "output": "skip"
        if "synthesis.b4.torgb.weight" in sizes
        else "resnet"
        if "synthesis.b8.skip.weight" in sizes
        else "orig",
        "clamp": _one(about, "conv_clamp", None),
        "noisy": "synthesis.b4.conv1.noise_const" in sizes,
    }
    return Plan(config, names, dropped, dict.fromkeys(dropped, (0, "resample")))


def _alias_free(kind: str) -> Callable[[Sizes, Modules, int], Plan]:
    def make(sizes: Sizes, modules: Modules, _classes: int) -> Plan:
        vectors = kind == "stylegan-xl"
        used = "mapping.embed_proj.weight" in sizes
        rules = (*ALIAS_FREE, *((VECTORS if used else UNUSED_VECTORS) if vectors else LABELLED))
        layers = _layer_names(sizes, modules)
        # The number in a layer's name is not its place: XL counts on where a stem's last layers were cut off.
        numbered = {name: _numbered(name, layers) for name in sizes}
        names, dropped = _rename({new: sizes[old] for old, new in numbered.items()}, rules, REASONS["filter"])
        mapping, latent, classes = _mapping(sizes, modules, vectors)
        config = {"architecture": kind, "latent_size": latent, "classes": classes, "mapping": mapping} | (
            _as_described(layers, modules) if modules else _as_designed(layers, sizes)
        )
        back = {new: old for old, new in numbered.items()}
        filters = {back[name]: _filter(name) for name in dropped if name.endswith("_filter")}
        why = {back[name]: reason if name.endswith("_filter") else REASONS["vectors"] for name, reason in dropped.items()}
        rows = {"mapping.vectors": classes} if classes and vectors else {}
        return Plan(config, {back[old]: new for old, new in names.items()}, why, filters, rows=rows)

    return make


def _filter(name: str) -> tuple[int, str]:
    place, _, which = name.removeprefix("layer ").partition(".")
    return int(place), which.removesuffix("_filter")


def _numbered(name: str, layers: list[str]) -> str:
    first, _, rest = name.removeprefix("synthesis.").partition(".")
    return f"layer {layers.index(first)}.{rest}" if name.startswith("synthesis.") and first in layers else name


def _layer_names(sizes: Sizes, modules: Modules) -> list[str]:
    named = modules.get("synthesis", {}).get("layer_names")
    found = {m[1] for name in sizes if (m := re.match(r"synthesis\.(L\d+_\d+_\d+)\.", name))}
    ordered = [str(name) for name in named] if named else sorted(found, key=lambda name: int(name[1:].split("_")[0]))
    if set(ordered) != found:
        raise NotUnderstood("its layers are not those that it lists")
    return ordered


def _square(value: Any) -> int:
    across, down = value
    if across != down:
        raise NotUnderstood(f"its images are {across} x {down}, and only squares are drawn here")
    return int(across)


def _as_described(layers: list[str], modules: Modules) -> dict[str, Any]:
    """Layers as the pickled modules describe themselves; their order is that of the list."""
    made = []
    for name in layers:
        about = modules[f"synthesis.{name}"]
        if about.get("conv_clamp", 256) != 256:
            raise NotUnderstood(f"its layer {name} cuts activations at {about['conv_clamp']}, not at 256")
        layer = {key: about[key] for key in ("in_channels", "out_channels", "up_taps", "down_taps")}
        layer |= {key: float(about[key]) for key in ("in_cutoff", "out_cutoff", "in_half_width", "out_half_width")}
        layer |= {key: _square(about[key]) for key in ("in_size", "out_size")}
        layer |= {"kernel": about["conv_kernel"], "radial": about["down_radial"], "rgb": about["is_torgb"]}
        rates = {"in_rate": "in_sampling_rate", "work_rate": "tmp_sampling_rate", "out_rate": "out_sampling_rate"}
        made.append(layer | {ours: int(about[theirs]) for ours, theirs in rates.items()})
    waves = modules["synthesis.input"]
    first = {"channels": waves["channels"], "size": _square(waves["size"])}
    first |= {"rate": float(waves["sampling_rate"]), "bandwidth": float(waves["bandwidth"])}
    scale = modules["synthesis"].get("output_scale", 0.25)
    return {"resolution": made[-1]["out_size"], "first": first, "layers": made, "output_scale": float(scale)}


def _as_designed(layers: list[str], sizes: Sizes) -> dict[str, Any]:
    """Layers by the paper's own plan, where a file has tensors alone; their filters tell whether it holds."""
    channels = [sizes[f"synthesis.{name}.weight"][:2] for name in layers]
    kernel = sizes[f"synthesis.{layers[0]}.weight"][2]
    radial = any(len(sizes.get(f"synthesis.{name}.down_filter", ())) == 2 for name in layers)
    side = int(layers[-1].split("_")[1])
    return {
        "resolution": side,
        "designed": {"layers": len(layers) - 1, "kernel": kernel, "radial": radial, "channels": channels},
    }


def _progan(sizes: Sizes, _modules: Modules, classes: int) -> Plan:
    count = len([name for name in sizes if re.fullmatch(r"output\d+\.weight", name)])
    rules: list[Rule] = [(r"lod", None)]
    for i in range(count):
        rules += [
            (rf"layer{2 * i}\.{_STYLED}", rf"levels.{i}.first.\1"),
            (rf"layer{2 * i + 1}\.{_STYLED}", rf"levels.{i}.second.\1"),
        ]
        rules.append((rf"output{i}\.{_STYLED}", r"rgb.\1" if i == count - 1 else None))
    names, dropped = _rename(sizes, rules, REASONS["image"])
    config = {
        "architecture": "progan",
        "resolution": 4 * 2 ** (count - 1),
        "latent_size": sizes["layer0.weight"][1] - classes,
        "classes": classes,
        "widths": [sizes[f"layer{2 * i}.bias"][0] for i in range(count)],
    }
    zero = ("lod",) if "lod" in sizes else ()
    return Plan(config, names, dropped | dict.fromkeys(zero, REASONS["lod"]), zero=zero)


_SEQUENTIAL = r"(?:[A-Za-z_]\w*\.)*(\d+)\.(weight|bias|running_mean|running_var|num_batches_tracked)"
_NORM = {"weight": "weight", "bias": "bias", "running_mean": "mean", "running_var": "variance"}


def _dcgan(sizes: Sizes, _modules: Modules, classes: int) -> Plan:
    places: dict[int, dict[str, str]] = {}
    for name in sizes:
        match = re.fullmatch(_SEQUENTIAL, name)
        if match is None:
            raise NotUnderstood(f"{name} is no layer of a DCGAN")
        places.setdefault(int(match[1]), {})[match[2]] = name
    names: dict[str, str] = {}
    dropped: dict[str, str] = {}
    kernels: list[tuple[int, ...]] = []
    norms = 0
    for _, parts in sorted(places.items()):
        size = sizes[parts["weight"]]
        if len(size) == 4 and set(parts) == {"weight"} and size[2:] == (4, 4) and norms == len(kernels):
            names[parts["weight"]] = f"convolutions.{len(kernels)}.weight"
            kernels.append(size)
        elif len(size) == 1 and set(parts) - {"num_batches_tracked"} == set(_NORM) and norms == len(kernels) - 1:
            names |= {parts[theirs]: f"norms.{norms}.{ours}" for theirs, ours in _NORM.items()}
            dropped |= {parts[key]: REASONS["batches"] for key in ("num_batches_tracked",) if key in parts}
            norms += 1
        else:
            raise NotUnderstood("not a DCGAN: convolutions of 4 x 4 without biases, each but the last followed by a batch norm")
    config = {
        "architecture": "dcgan",
        "resolution": 4 * 2**norms,
        "latent_size": kernels[0][0] - classes,
        "classes": classes,
        "widths": [kernel[1] for kernel in kernels[:-1]],
    }
    return Plan(config, names, dropped)


_PLANS: dict[str, Callable[[Sizes, Modules, int], Plan]] = {
    "stylegan2": _stylegan2,
    "stylegan3": _alias_free("stylegan3"),
    "stylegan-xl": _alias_free("stylegan-xl"),
    "progan": _progan,
    "dcgan": _dcgan,
}
