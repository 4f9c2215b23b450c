"""`doctor`: what works on this machine, and how to mend what does not. Nothing is changed, and no key is ever shown."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from imaginet_build import cards, readiness
from imaginet_build.errors import BuildError

EXTRAS = {
    "": "numpy pillow simplejpeg imagehash pyarrow pandas scipy scikit-learn pydantic typer tqdm fsspec jinja2 safetensors "
    "onnxruntime threadpoolctl license-expression",
    "diffusion": "torch diffusers transformers accelerate peft",
    "api": "openai google-genai",
    "hub": "huggingface_hub datasets",
    "baseline": "torch transformers accelerate onnx",
    "archive": "aiohttp",
    "sevenzip": "py7zr",
    "urls": "pycurl protego certifi",
    "guards": "nudenet",
    "openvino": "openvino",
    "tensorboard": "tensorboard",
}
"""What each extra brings (the empty one: what a plain install brings), by distribution name."""

LEAST_PYTHON = (3, 11)
LEAST_BYTES = 5_000_000_000
_KEYS = {"HF_TOKEN": "publishing to the Hub and gated weights", "OPENAI_API_KEY": "the image generators of the OpenAI API"}
_DISTRIBUTION = "imaginet-build"
_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: whether it works, what was found, and what mends it (empty where nothing is broken)."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def checks(work: Path | None = None, online: bool = False) -> list[Check]:
    """Look at everything. `work`: the work folder whose disk counts (it need not exist). `online`: also ask for the Hub."""
    found = [_python(), *_packages(), _devices(), _threads(), *_disk(Path(work or "work")), *_keys(), *_models(), *_cards()]
    found += [_hub()] if online else []
    return [replace(check, remedy="") if check.ok else check for check in found]


def _python() -> Check:
    wanted = ".".join(map(str, LEAST_PYTHON))
    return Check(
        "python",
        sys.version_info >= LEAST_PYTHON,
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        f"install Python {wanted} or newer and make a new environment with it",
    )


def _packages() -> Iterator[Check]:
    for extra, names in EXTRAS.items():
        versions = {name: _version(name) for name in names.split()}
        absent = [name for name, version in versions.items() if version is None]
        have = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        yield Check(
            f"packages: {extra}" if extra else "packages",
            not absent,
            f"not installed: {', '.join(absent)}" if absent else have,
            f"pip install '{_DISTRIBUTION}[{extra}]'" if extra else f"pip install --force-reinstall {_DISTRIBUTION}",
        )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> Check:
    remedy = "pip install --force-reinstall torch, or uninstall it: audit, balance, publish and detect do without"
    if _version("torch") is None:
        return Check("devices", True, "no torch, so the processor only: enough for everything but drawing and training")
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return Check("devices", False, f"torch is installed but does not load: {error}", remedy)
    if torch.cuda.is_available():
        cards_found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return Check("devices", True, "; ".join(f"{c.name}, {c.total_memory / 1e9:.0f} GB" for c in cards_found))
    if torch.backends.mps.is_available():
        return Check("devices", True, "Apple GPU (mps)")
    return Check("devices", True, "no GPU: the processor draws and trains, in fp32; large generators need minutes an image")


def _threads() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fixed = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    said = "".join(f", {name}={value}" for name, value in fixed.items())
    return Check(
        "threads", True, f"{cores} cores{said}; workers use engine.threads_per_worker threads each, whatever is set here"
    )


def _disk(work: Path) -> Iterator[Check]:
    place = work.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    yield Check(
        "disk space",
        free >= LEAST_BYTES,
        f"{free / 1e9:.1f} GB free for {work}",
        f"make room, or choose a work folder on another disk: --work DIR (at least {LEAST_BYTES / 1e9:.0f} GB)",
    )
    fault = _write_fault(place)
    yield Check(
        "work folder",
        not fault,
        fault or f"{work} can be written, and files can be linked into place",
        "choose another: --work DIR",
    )


def _write_fault(place: Path) -> str:
    """Why finished parts cannot be written below `place`, or an empty string. What is tried is taken away again."""
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as folder:
            one = Path(folder) / "one"
            one.write_bytes(b"x")
            os.link(one, Path(folder) / "two")
    except OSError as error:
        return f"{place}: {error.strerror or error}"
    return ""


def _keys() -> Iterator[Check]:
    wanted = dict(_KEYS)
    for card in _all_cards():
        for name in card.about.environment:
            wanted.setdefault(name, f"generator {card.name}")
    for name, purpose in wanted.items():
        there = bool(os.environ.get(name))
        yield Check(f"key {name}", there, "set" if there else f"not set; only needed for {purpose}", f"export {name}=...")


def _models() -> Iterator[Check]:
    """Every bundled model, by the hashes the installer recorded, or by its own structure in a checkout."""
    root = Path(__file__).parent / "models"
    hashes = _recorded()
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and any(p.rglob("config.json"))):
        faults = [fault for path in sorted(folder.rglob("*")) if path.is_file() and (fault := _model_fault(path, hashes))]
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        yield Check(
            f"model {folder.name}",
            not faults,
            "; ".join(faults) or f"whole, {size / 1e6:.1f} MB",
            f"pip install --force-reinstall {_DISTRIBUTION}",
        )


def _recorded() -> dict[Path, str]:
    """SHA-256 of installed files as the wheel's RECORD says (URL-safe base64 without padding), by path."""
    try:
        distribution = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return {}
    lines = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    rows = [row for row in lines if len(row) > 1 and row[1].startswith("sha256=")]
    return {Path(str(distribution.locate_file(row[0]))).resolve(): row[1].removeprefix("sha256=") for row in rows}


def _model_fault(path: Path, hashes: dict[Path, str]) -> str:
    data = path.read_bytes()
    wanted = hashes.get(path.resolve())
    if wanted and base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=") != wanted:
        return f"{path.name} is not the file that was installed"
    try:
        if path.suffix == ".json":
            json.loads(data)
        elif path.suffix == ".safetensors":
            importlib.import_module("safetensors").deserialize(data)
        elif path.suffix == ".onnx":
            importlib.import_module("onnxruntime").InferenceSession(data, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever a parser says of broken bytes
        return f"{path.name} is damaged ({' '.join(str(error).split())[:120]})"
    return ""


def _all_cards() -> list[cards.Card]:
    try:
        return [card for kind in ("generators", "sources", "detectors") for card in cards.cards(kind).values()]
    except BuildError:
        return []  # said by the check of the cards


def _cards() -> Iterator[Check]:
    """Which generators, sources and detectors could run now."""
    for kind in ("generators", "sources", "detectors"):
        try:
            rows = readiness.listing(kind)
        except BuildError as error:
            yield Check(kind, False, str(error), "mend the card that is named")
            continue
        ready = [row["name"] for row in rows if row["ready"]]
        yield Check(
            kind,
            bool(ready),
            f"{len(ready)} of {len(rows)} ready: {', '.join(ready) or 'none'}",
            "; ".join(sentence for row in rows[:1] for sentence in row["needs"]),
        )


def _hub() -> Check:
    import urllib.error
    import urllib.request

    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    remedy = "check the network and the proxy variables; everything but publish --repo and first downloads works without"
    if not re.match(r"https?://", address):
        return Check("hub", False, f"HF_ENDPOINT is no web address: {address}", "unset HF_ENDPOINT")
    try:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - http or https, see above
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            return Check("hub", True, f"{address} answers ({answer.status})")
    except urllib.error.HTTPError as error:
        return Check("hub", error.code < 500, f"{address} answers ({error.code})", remedy)
    except OSError as error:
        return Check("hub", False, f"{address} cannot be reached: {getattr(error, 'reason', error)}", remedy)
