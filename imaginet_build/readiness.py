"""What a card still needs on this machine, and the commit behind `unresolved`: looked up without loading anything heavy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imaginet_build import cards, toml
from imaginet_build.cards import UNRESOLVED, Card, Kind
from imaginet_build.errors import MissingExtra, UsageError

log = logging.getLogger(__name__)

_DISTRIBUTION = "imaginet-build"


def listing(kind: Kind, lock_path: Path | None = None) -> list[dict[str, Any]]:
    """Every card of a kind as `--list --json` prints it, sorted by name.

    Keys: name, adapter, family, bundled, licence, revision, ready, needs. `needs` is a list of sentences, each naming one
    thing that is missing and how to get it; `ready` is true when it is empty. Sources also say their title, origin,
    content_type (null where each image says its own), terms, redistribute (whether pixels may be passed on; null where each
    image says it), by_hand, url, licence_url and licence_read. Neither torch nor a vendor is imported, and no network is used.
    """
    rows = []
    for card in cards.cards(kind).values():
        needs = missing(card)
        rows.append(
            {
                "name": card.name,
                "adapter": card.adapter,
                "family": card.family,
                "bundled": card.bundled,
                "licence": card.licence,
                "revision": locked(card, lock_path) or card.revision,
                "ready": not needs,
                "needs": needs,
            }
            | (_of_source(card) if kind == "sources" else {})
        )
    return rows


def _of_source(card: Card) -> dict[str, Any]:
    about = card.about
    return {
        "title": about.title,
        "origin": card.origin,
        "content_type": about.category,
        "terms": about.terms,
        "redistribute": about.redistribute,
        "by_hand": about.by_hand,
        "url": about.url,
        "licence_url": about.licence_url,
        "licence_read": about.licence_read and about.licence_read.isoformat(),
    }


def missing(card: Card, options: Mapping[str, Any] | None = None) -> list[str]:
    """Sentences saying what `card` lacks here: its adapter, packages, keys, weights or files. Empty when it could run now.

    `options`: what a recipe's entry adds to the card's own, such as the place of a source's files.
    """
    found: list[str] = []
    module = card.adapter.partition(":")[0]
    try:
        there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        found.append(f"its adapter's module {module} is not installed")
    if card.needs and (absent := absent_packages(card)):
        found.append(f"it needs {', '.join(absent)}: pip install '{_DISTRIBUTION}[{card.needs}]'")
    found += [
        f"it needs {name} in the environment: export {name}=..." for name in card.about.environment if not os.getenv(name)
    ]
    if card.kind == "sources":
        return found + _source_missing(card, {**card.options, **(options or {})})
    further = (_texts(card.options.get(key)) for key in ("models", "lora", "captioner"))
    references = dict.fromkeys([card.model, *itertools.chain.from_iterable(further)])
    found += [why for reference in references if reference and (why := _weights_missing(card, reference))]
    return found


def _source_missing(card: Card, options: Mapping[str, Any]) -> list[str]:
    """What a source lacks: terms to accept, or files that are fetched by hand."""
    root, by_hand = options.get("root"), card.about.by_hand
    if isinstance(root, str) and "://" not in root:
        # A pattern, or the name of an archive that lies here in numbered parts.
        place = Path(root)
        there = place.exists() or any(place.parent.glob(f"{place.name}*"))
        return [] if there else [f"there is nothing at {root}{f'. {by_hand}' if by_hand else ''}"]
    if card.about.gated and card.model and not os.getenv("HF_TOKEN"):
        return [f"accept its terms at https://huggingface.co/datasets/{card.model}, then set HF_TOKEN"]
    return [by_hand] if by_hand and root is None and card.model is None else []


def absent_packages(card: Card) -> list[str]:
    """The packages a card's extra brings (or those of them it lists) that are not installed, by distribution name."""
    names = card.about.packages or _packages_of(card.needs or "", set())
    return [name for name in names if not _has(name)]


def _has(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _packages_of(extra: str, seen: set[str]) -> list[str]:
    """Distribution names of an extra, following extras of our own that it names."""
    if extra in seen:
        return []
    seen.add(extra)
    names: list[str] = []
    for line in _requirements().get(extra, []):
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?", line.strip())
        if match and match[1].replace("_", "-").lower() == _DISTRIBUTION:
            for inner in (match[2] or "").split(","):
                names += _packages_of(inner.strip(), seen)
        elif match:
            names.append(match[1])
    return list(dict.fromkeys(names))


def _requirements() -> dict[str, list[str]]:
    """Extra -> requirement lines, from the installed package or, in a bare checkout, from pyproject.toml."""
    project = Path(__file__).parent.parent / "pyproject.toml"
    if project.is_file() and f'name = "{_DISTRIBUTION}"' in (text := project.read_text(encoding="utf-8")):
        extras: dict[str, list[str]] = tomllib.loads(text)["project"].get("optional-dependencies", {})
        return extras
    found: dict[str, list[str]] = {}
    try:
        lines = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    for line in lines:
        if match := re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", line):
            found.setdefault(match[1], []).append(line.partition(";")[0])
    return found


def _texts(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def is_hub_id(reference: str) -> bool:
    """Whether a model reference is `owner/name` on the Hugging Face Hub and not a path that exists here."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", reference)) and not Path(reference).exists()


def _weights_missing(card: Card, reference: str) -> str | None:
    if reference.startswith("bundled:"):
        return None if cards.bundled(reference).exists() else f"the model {reference} is not in this copy of the package"
    if not is_hub_id(reference):
        # A model behind an API has no weights here.
        served = (card.about.environment or card.needs == "api") and "/" not in reference
        if served or Path(reference).exists():
            return None
        upstream = card.options.get("upstream")
        make = (
            f": get {upstream}, then build-imaginet convert FILE --sha256 DIGEST --trust --out {reference}" if upstream else ""
        )
        return f"there is nothing at {reference}{make}"
    snapshots = _cache(reference) / "snapshots"
    if snapshots.is_dir() and any(folder.is_dir() and any(folder.iterdir()) for folder in snapshots.iterdir()):
        return None
    accept = f"accept its licence at https://huggingface.co/{reference}, set HF_TOKEN, then: " if card.about.gated else ""
    return f"the weights of {reference} are not on this machine: {accept}hf download {reference}"


def _cache(reference: str, kind: str = "models") -> Path:
    """Where huggingface_hub keeps a repository: its documented cache layout and environment variables."""
    home = Path(os.getenv("HF_HOME") or Path(os.getenv("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    root = Path(os.getenv("HF_HUB_CACHE") or os.getenv("HUGGINGFACE_HUB_CACHE") or home / "hub")
    return root.expanduser() / f"{kind}--{reference.replace('/', '--')}"


# --- revisions ---------------------------------------------------------------------------------------------------------


def locked(card: Card, lock_path: Path | None) -> str | None:
    """The commit that an earlier use recorded for the card in `cards.lock`, as long as the card still names that model."""
    if lock_path is None or not lock_path.is_file():
        return None
    entry = tomllib.loads(lock_path.read_text(encoding="utf-8")).get(f"{card.kind}/{card.name}", {})
    return str(entry["revision"]) if entry.get("model") == card.model and "revision" in entry else None


def resolve(card: Card, lock_path: Path) -> str | None:
    """The commit a card stands for: its own, the recorded one, or what the hub (or the local cache) says now.

    What had to be looked up is written to `lock_path` and said in the log; from then on that commit is used. None for
    bundled models and paths, which have no commit. Raises `UsageError` when neither cache nor hub knows.
    """
    reference = card.model
    if card.revision != UNRESOLVED:
        return None if card.bundled else card.revision
    if reference is None or not is_hub_id(reference):
        return None
    if known := locked(card, lock_path):
        return known
    kind = "datasets" if "dataset" in card.options else "models"
    cached = _cache(reference, kind) / "refs" / "main"
    revision = cached.read_text(encoding="utf-8").strip() if cached.is_file() else _ask(card, reference, kind)
    entries = tomllib.loads(lock_path.read_text(encoding="utf-8")) if lock_path.is_file() else {}
    entries[f"{card.kind}/{card.name}"] = {"model": reference, "revision": revision}
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    beside = lock_path.with_name(f".{lock_path.name}.{os.getpid()}")
    beside.write_text(toml.write(dict(sorted(entries.items()))), encoding="utf-8")
    beside.replace(lock_path)
    log.warning("%s: %s is now fixed at commit %s (recorded in %s)", card.name, reference, revision, lock_path)
    return revision


def _ask(card: Card, reference: str, kind: str) -> str:
    if card.needs and (absent := absent_packages(card)):
        raise MissingExtra(card.name, " and ".join(absent), card.needs)
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingExtra(f"{card.name}, to look up {reference},", "huggingface_hub", "hub")
    from huggingface_hub import HfApi

    try:
        info = HfApi().repo_info(reference, repo_type=kind.removesuffix("s"), timeout=10)
    except Exception as error:  # whatever its transport raises; the hub's own errors share no base with it
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what, option = ("data set", "--repo-type dataset ") if kind == "datasets" else ("weights of", "")
        gate = f"accept its licence at https://huggingface.co/{reference}, set HF_TOKEN, then " if card.about.gated else ""
        raise UsageError(
            f"{card.name}: the {what} {reference} {'is' if option else 'are'} not on this machine and the hub cannot be asked "
            f"({first}); on a machine with a network: {gate}hf download {option}{reference}"
        ) from None
    if not info.sha:
        raise UsageError(f"{card.name}: the hub names no commit for {reference}; write one into {card.path.name}")
    return str(info.sha)
