"""`convert`: a GAN's upstream checkpoint to safetensors and a config.json, the only place where a pickle is opened.

The file's SHA-256 is checked first. Its bytes are then read in a process of its own that can neither open, connect to nor start
anything (`converting.jail`), by a machine that rebuilds tensors alone and runs nothing (`converting.inert`). What comes out is
tensors; every name, shape, value and filter is checked here, and one image is drawn, before a file is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from imaginet_build import toml
from imaginet_build.converting import upstream
from imaginet_build.errors import BuildError, MissingExtra, UsageError
from imaginet_build.generators import networks
from imaginet_build.generators.networks import filters
from imaginet_build.generators.networks.stylegan2 import FIR

if TYPE_CHECKING:
    import torch

LARGEST = 16 * 2**30
"""Bytes of the largest file that is read: several times the largest GAN there is."""
PATIENCE = 1200
"""Seconds that reading may take before it is ended."""
_ALIKE = 1e-5
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written where. `entry`: the network taken from the file. `held`: what shut the reading process in. `dropped`:
    tensors that were left out, by reason."""

    out: str
    card: str
    architecture: str
    resolution: int
    classes: int
    numbers: int
    entry: str
    sha256: str
    held: list[str]
    dropped: dict[str, int]

    @property
    def name(self) -> str:
        """What the generator is called."""
        return Path(self.out).name

    @property
    def manifest(self) -> str:
        """Where its card belongs."""
        return f"manifests/generators/{self.name}.toml"

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)


def convert(
    file: Path, out: Path, sha256: str, *, trust: bool, entry: str = "", classes: int = 0, architecture: str | None = None
) -> Converted:
    """Convert `file` into the new folder `out`: `model.safetensors`, `config.json`, `card.toml`.

    `entry`: the name of the network in the file, where it is not one of the usual ones. `classes`: of a DCGAN or ProGAN.
    UsageError for the call (no trust, another digest, `out` is there), BuildError for the file (damaged, hostile, unknown).
    """
    _named(out)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"--sha256 {sha256:.80}: a SHA-256 is 64 hexadecimal digits; take it from where the file is published")
    if not trust:
        raise UsageError(
            f"{file} may be a pickle, written by others: nothing of it is run here, but say that you trust where it came from: "
            "--trust"
        )
    if out.exists():
        raise UsageError(f"{out} is there already: remove it, or choose another --out")
    for package in ("torch", "safetensors"):
        if not _installed(package):
            raise MissingExtra("convert", package, "diffusion")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        room = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    except OSError as e:
        raise UsageError(f"{out} cannot be made ({e.strerror}): choose another --out") from None
    with room as beside:
        raw = Path(beside) / "tensors"
        told = _read(file, sha256.lower(), entry, raw)
        try:
            made = _translate(raw, architecture, classes)
        except BuildError as e:
            raise BuildError(f"{file.name}: {_line(str(e))}") from None
        raw.unlink()
        whole = Path(beside) / "whole"
        whole.mkdir()
        _write(whole, out, made, file.name, sha256.lower())
        whole.rename(out)
    config = made.plan.config
    reasons = list(made.plan.dropped.values())
    return Converted(
        out=str(out),
        card=str(out / "card.toml"),
        architecture=config["architecture"],
        resolution=config["resolution"],
        classes=config["classes"],
        numbers=sum(v.numel() for v in made.weights.values()),
        entry=told["entry"],
        sha256=sha256.lower(),
        held=list(told["held"]),
        dropped={reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
    )


def text(done: Converted) -> str:
    """What `convert` says on the terminal."""
    lines = [
        f"{done.architecture}, {done.resolution} pixels, "
        + (f"{done.classes} classes, " if done.classes else "")
        + f"{done.numbers:,} numbers"
        + (f", from '{done.entry}' of the file" if done.entry else "")
        + f": {done.out}",
        *(f"left out: {count} x {reason}" for reason, count in done.dropped.items()),
        f"read by a process shut in by {', '.join(done.held)}"
        + ("" if {"seccomp", "namespace"} & set(done.held) else "; this system offers no way to take its network away"),
        f'next: complete {done.card}, save it as {done.manifest}, and name it in a recipe: generator = "{done.name}"',
    ]
    return "\n".join(lines)


def _installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def _named(out: Path) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", out.name):
        raise UsageError(f"--out {out}: the folder's name becomes the card's: letters, digits, '.', '_' and '-'")


# --- reading, elsewhere ------------------------------------------------------------------------------------------------


def _read(file: Path, sha256: str, entry: str, raw: Path) -> dict[str, Any]:
    """Check the digest, then have the tensors written to `raw` by the process in the jail; returns what that says."""
    # A copy without a name: what was hashed is what is read, whoever changes the file meanwhile.
    with tempfile.TemporaryFile(dir=raw.parent) as copy:
        found = _copy(file, copy)
        if found != sha256:
            raise UsageError(
                f"{file} has the SHA-256 {found}, not {sha256}: it is another file than you mean; it was not opened"
            )
        copy.flush()
        with raw.open("wb") as output:
            return _jailed(file.name, copy, output, entry)


def _copy(file: Path, copy: BinaryIO) -> str:
    digest = hashlib.sha256()
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise UsageError(f"{file} has {size:,} bytes; no GAN is larger than {LARGEST:,}")
        if not file.is_file() and not file.is_dir():
            raise UsageError(f"{file} cannot be read: it is no file")
        source = file.open("rb")
    except OSError as e:
        raise UsageError(f"{file} cannot be read: {e.strerror}") from None
    with source:
        left = size  # and no more, should it grow
        while block := source.read(min(left, 2**20)):
            left -= len(block)
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()


def _line(text: str) -> str:
    """What a file's makers may have a hand in, fit for a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:_LONGEST])


def _jailed(name: str, data: BinaryIO, output: BinaryIO, entry: str) -> dict[str, Any]:
    """Run `converting.reading` on descriptors 3 and 4. Its environment holds no key, its standard input and error nothing."""
    source, target = data.fileno(), output.fileno()
    package = str(Path(__file__).resolve().parent.parent)
    threads = {f"{kind}_NUM_THREADS": "1" for kind in ("OMP", "OPENBLAS", "MKL")}
    code = (
        "import os, sys; a, b = (os.dup2(int(fd), to) for fd, to in zip(sys.argv[1:3], (103, 104))); "
        "os.dup2(a, 3); os.dup2(b, 4); sys.argv[1:3] = []; from imaginet_build.converting.reading import main; main()"
    )
    # Files rather than pipes: the jail's limit of output holds for them, and nothing fills this process's memory.
    beside = Path(output.name).parent
    with tempfile.TemporaryFile(dir=beside) as said, tempfile.TemporaryFile(dir=beside) as wrong:
        try:
            done = subprocess.run(  # noqa: S603  our own interpreter and our own module
                [sys.executable, "-P", "-c", code, str(source), str(target), entry],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=wrong,
                pass_fds=(source, target),
                env={"PATH": os.defpath, "PYTHONPATH": package, **threads},
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"{name}: reading it was ended after {PATIENCE} seconds") from None
        said.seek(0)
        wrong.seek(0)
        answered, complaint = said.read(100_000), wrong.read(100_000)
    if done.returncode == -signal.SIGKILL:
        raise BuildError(f"{name}: the system ended the process that read it: it took more time or memory than weights need")
    try:
        answer = dict(json.loads(answered))
    except (ValueError, TypeError):
        last = complaint.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise BuildError(f"{name}: the process that read it ended with {done.returncode} ({_line(last[0][:200])})") from None
    if "error" in answer:
        raise BuildError(f"{name}: {_line(str(answer['error']))}")
    return answer


# --- understanding and writing, here -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Made:
    plan: upstream.Plan
    weights: dict[str, torch.Tensor]


def _translate(raw: Path, architecture: str | None, classes: int) -> _Made:
    """The tensors under our names, with a config that fits them; nothing that a check has not seen."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(raw, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            tensors = {key.removeprefix("module."): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a mapping
    except SafetensorError as e:
        raise upstream.NotUnderstood(f"its tensors cannot be held in a safetensors file ({e})") from e
    plan = upstream.plan({k: tuple(v.shape) for k, v in tensors.items()}, facts.get("modules", {}), architecture, classes)
    plan.config.update(_designed(plan.config.pop("designed", None), plan.config["resolution"]))
    network = networks.build(plan.config, "the converted network")
    plan.config.update({"architecture": plan.config["architecture"], **network.model_dump(mode="json")})
    for name in plan.zero:
        if bool(tensors[name].any()):
            raise upstream.NotUnderstood(f"{name} is not 0: the network was still growing when it was saved")
    _compare(plan, network, tensors)
    weights = {ours: tensors[theirs].to(torch.float32).contiguous() for theirs, ours in plan.names.items()}
    weights |= {ours: weights[ours][:count].clone() for ours, count in plan.rows.items()}
    network.load(weights, "the converted network")
    network.to("cpu", torch.float32)
    with torch.inference_mode():
        z = torch.randn(1, network.latent_size, generator=torch.Generator().manual_seed(0))
        try:
            image = network.forward(z, torch.tensor([0]) if network.classes else None)
        except (RuntimeError, MemoryError) as e:
            reason = str(e).partition("\n")[0]
            raise upstream.NotUnderstood(f"an image of these sizes cannot be drawn on this machine ({reason})") from e
    if not bool(torch.isfinite(image).all()) or float(image.std()) < 1e-3:
        raise upstream.NotUnderstood("what it draws is blank or no numbers: these are not the weights of this network")
    return _Made(plan, weights)


def _designed(wish: Mapping[str, Any] | None, resolution: int) -> dict[str, Any]:
    """Layers by the paper's plan with the file's numbers of channels, where the file does not describe its own."""
    if wish is None:
        return {}
    first, layers = filters.plan(resolution, layers=wish["layers"], kernel=wish["kernel"], radial=wish["radial"])
    channels = [{"in_channels": low, "out_channels": high} for high, low in wish["channels"]]
    first["channels"] = channels[0]["in_channels"]
    changed = [layer.model_dump() | own for layer, own in zip(layers, channels, strict=True)]
    return {"first": first, "layers": changed}


def _compare(plan: upstream.Plan, network: networks.Network, tensors: Mapping[str, torch.Tensor]) -> None:
    """The file's filters must be those that are designed here, or its sizes were understood wrongly."""
    for name, (place, which) in plan.filters.items():
        if which == "resample":
            wanted: Any = np.outer(FIR, FIR)
        else:
            wanted = network.layers[place].filters()[which == "down"]  # type: ignore[attr-defined]
        held = tensors[name].double().numpy()
        if wanted is None or held.shape != wanted.shape or float(np.abs(held - wanted).max()) > _ALIKE:
            raise upstream.NotUnderstood(f"its filter {name} is not that of a {plan.config['architecture']} of its sizes")


def _write(folder: Path, out: Path, made: _Made, file: str, sha256: str) -> None:
    from safetensors.torch import save_file

    config = made.plan.config
    save_file(made.weights, folder / "model.safetensors", {"converted_from": file, "converted_from_sha256": sha256})
    (folder / "model.safetensors").chmod(0o644)  # save_file leaves it to its owner alone, and clusters share weights
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    card = {
        "adapter": "imaginet_build.generators.gan:Gan",
        "title": f"{config['architecture']}, {config['resolution']} pixels, converted from {file}",
        "family": "gan",
        "licence": "",
        "needs": "diffusion",
        "packages": ["torch"],
        "notes": f"Converted from {file}, SHA-256 {sha256}.",
        "model": str(out) if out.is_absolute() else f"./{out}",
        "width": config["resolution"],
        "height": config["resolution"],
    }
    words = (
        "# To use this: fill in the licence (an SPDX expression, or its name), licence_url (its page) and licence_read (when\n"
        f"# you read it, as 2026-01-31), and save it as manifests/generators/{out.name}.toml; else it is refused.\n"
    )
    (folder / "card.toml").write_text(words + toml.write(card), encoding="utf-8")
