"""A card as a working adapter, found by its dotted path; and all that the other rooms need to know about cards.

An adapter's keyword arguments are bound by signature before anything heavy loads, and every fault is named at once. Code from
outside this package loads only if it is installed as a package, or trusted explicitly.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import sys
import sysconfig
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from imaginet_build.cards import (
    KINDS,
    MODELS,
    UNRESOLVED,
    Card,
    CardFile,
    Kind,
    Taxonomy,
    bundled,
    card,
    cards,
    faulty,
    files,
    pipeline,
    read,
    short,
    taxonomy,
)
from imaginet_build.errors import MissingExtra, UsageError, suggest
from imaginet_build.readiness import absent_packages, listing, locked, missing, resolve

if TYPE_CHECKING:
    from imaginet_build.recipe import Recipe

__all__ = [
    "KINDS",
    "UNRESOLVED",
    "Card",
    "Kind",
    "Taxonomy",
    "adapter",
    "build",
    "bundled",
    "card",
    "cards",
    "check",
    "faults_of",
    "files",
    "listing",
    "locked",
    "missing",
    "pipeline",
    "read",
    "resolve",
    "taxonomy",
]

_PACKAGE = "imaginet_build"


def build(card: Card, *, trust: bool = False, revision: str | None = None, **extra: Any) -> Any:
    """The card's adapter, made from its options and `extra` (which wins).

    `revision` is what `readiness.resolve` gave for the card; it and the card's own are passed on where the adapter takes one.
    Everything is bound by signature first: `UsageError` names every key that does not fit, with the nearest one that does.
    `trust` lets an adapter load that is neither part of this package nor installed.
    """
    make = adapter(card, trust=trust)
    values, faults = _bind(make, _arguments(card, make, revision) | extra)
    if faults:
        raise faulty(card.path, faults)
    if card.needs and (absent := absent_packages(card)):
        raise MissingExtra(card.name, " and ".join(absent), card.needs)
    return make(**{key: _located(card, value) for key, value in values.items()})


def faults_of(card: Card, *, trust: bool = False, **extra: Any) -> list[str]:
    """What is wrong with a card's adapter or keys, without building it; empty when it fits."""
    try:
        make = adapter(card, trust=trust)
    except UsageError as error:
        return [str(error)]
    return _bind(make, _arguments(card, make, None) | extra)[1]


def _arguments(card: Card, make: Callable[..., Any], revision: str | None) -> dict[str, Any]:
    """The card's options, and those of its own keys that the adapter's signature asks for by name."""
    known = revision or card.revision
    own = {
        "name": card.name,
        "revision": None if known in (UNRESOLVED, "bundled") else known,
        "origin": card.origin,
        "category": card.about.category,
        "family": card.family,
        "licence": card.licence,
    }
    parameters = _parameters(make)
    return {k: v for k, v in own.items() if k in parameters and v is not None} | dict(card.options)


def _parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Keyword -> parameter. Where a class hands `**keywords` on to its base, the base's are among them."""
    found: dict[str, inspect.Parameter] = {}
    for owner in make.__mro__ if isinstance(make, type) else (make,):
        if isinstance(owner, type) and "__init__" not in vars(owner):
            continue
        own = inspect.signature(owner).parameters
        found |= {k: p for k, p in own.items() if k not in found and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
            return found
    return found | {"**": inspect.Parameter("keywords", inspect.Parameter.VAR_KEYWORD)}


def adapter(card: Card, *, trust: bool = False) -> Callable[..., Any]:
    """The class a card names. Its module is imported; vendors are not, since adapters import theirs when built."""
    module, _, name = card.adapter.partition(":")
    if not _is_ours(module) and not (trust or _is_installed(module)):
        raise UsageError(
            f"{short(card.path)}: adapter '{card.adapter}' is neither part of imaginet-build nor installed as a package; "
            "its code would run on this machine. To allow that: --trust-adapters"
        )
    if trust and not _is_ours(module) and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UsageError(f"{short(card.path)}: adapter '{card.adapter}' cannot be imported: {error}") from None
    if not callable(found):
        known = [n for n, v in vars(sys.modules[module]).items() if isinstance(v, type)]
        raise UsageError(f"{short(card.path)}: no class '{name}' in {module}{suggest(name, known)}")
    return typing.cast(Callable[..., Any], found)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == _PACKAGE


def _is_installed(module: str) -> bool:
    """Whether the module lies where packages are installed, or in the source tree of an editable install."""
    top = module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
    roots = [Path(sysconfig.get_path(key)).resolve() for key in ("purelib", "platlib")]
    try:
        origin = importlib.metadata.distribution(top.replace("_", "-")).read_text("direct_url.json")
        roots += [Path(unquote(urlparse(json.loads(origin)["url"]).path)).resolve()] if origin else []
    except importlib.metadata.PackageNotFoundError:
        pass
    return any(Path(place).resolve().is_relative_to(root) for place in places if place for root in roots)


def _bind(make: Callable[..., Any], options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values as the signature's types want them, and what does not fit."""
    parameters = _parameters(make)
    open_ended = parameters.pop("**", None) is not None
    known = list(parameters)
    title = getattr(make, "__name__", str(make))
    values: dict[str, Any] = {}
    faults: list[str] = []
    try:
        owners = (
            [vars(owner)["__init__"] for owner in reversed(make.__mro__) if "__init__" in vars(owner) and owner is not object]
            if isinstance(make, type)
            else [make]
        )
        hints = {k: hint for owner in owners for k, hint in typing.get_type_hints(owner, include_extras=True).items()}
    except (NameError, TypeError):
        hints = {}  # a type that only exists while checking types: leave the value as it is
    for key, value in options.items():
        if key not in known and not open_ended:
            faults.append(f"{key}: no such key of a card or of {title}{suggest(key, [*known, *CardFile.model_fields])}")
            continue
        try:
            values[key] = TypeAdapter(hints[key]).validate_python(value) if key in hints else value
        except ValidationError as error:
            reasons = dict.fromkeys(e["msg"].replace("Input should", "should") for e in error.errors(include_url=False))
            faults.append(f"{key}: {' or '.join(reasons)}, not {value!r:.60}")
        except (PydanticUserError, NameError):
            values[key] = value
    faults += [
        f"{key}: is missing; {title} needs it"
        for key in known
        if parameters[key].default is inspect.Parameter.empty and key not in options
    ]
    return values, faults


def _located(card: Card, value: Any) -> Any:
    """`bundled:NAME` as the folder it means, in strings and in lists of them."""
    if isinstance(value, list | tuple):
        return type(value)(_located(card, item) for item in value)
    if not (isinstance(value, str) and value.startswith("bundled:")):
        return value
    place = bundled(value)
    if not place.exists():
        known = [p.name for p in MODELS.iterdir()] if MODELS.is_dir() else []
        raise UsageError(f"{short(card.path)}: no bundled model '{place.name}'{suggest(place.name, known)}")
    return str(place)


# --- a recipe's cards --------------------------------------------------------------------------------------------------


def check(recipe: Recipe | Mapping[str, Any], *, trust: bool = False) -> list[str]:
    """What a recipe asks of cards that they cannot give: one line a fault, empty when all is well.

    Takes a mapping too, so that `recipe.load(path, overrides, check)` can name these faults together with its own.
    """
    document: Any = recipe if isinstance(recipe, Mapping) else recipe.model_dump()
    words = taxonomy()
    sets = files("prompts")
    faults: list[str] = []
    for stage, key, kind in (("collect", "source", "sources"), ("generate", "generator", "generators")):
        for i, item in enumerate(_tables(document.get(stage))):
            where = f"{stage}.{i}"
            category = item.get("category")
            if isinstance(category, str) and category not in words.categories:
                faults.append(
                    f"{where}.category: no '{category}' in manifests/taxonomy.toml{suggest(category, words.categories)}"
                )
            prompts = item.get("prompts")
            if isinstance(prompts, str) and prompts not in sets and not Path(prompts).is_file():
                faults.append(f"{where}.prompts: neither a set in prompts/ nor a file: '{prompts}'{suggest(prompts, sets)}")
            options = item.get("options")
            options = options if isinstance(options, dict) else {}
            faults += _card_faults(f"{where}.{key}", typing.cast(Kind, kind), item.get(key), options, trust)
            if stage == "generate":
                faults += _card_faults(f"{where}.source", "sources", item.get("source"), {}, trust, bind=False)
    baseline = document.get("baseline")
    detector = baseline.get("detector") if isinstance(baseline, dict) else None
    return faults + _card_faults("baseline.detector", "detectors", detector, {}, trust, bind=False)


def _tables(value: object) -> Iterator[dict[str, Any]]:
    yield from (item for item in (value if isinstance(value, list) else []) if isinstance(item, dict))


def _card_faults(where: str, kind: Kind, name: object, options: dict[str, Any], trust: bool, *, bind: bool = True) -> list[str]:
    if not isinstance(name, str):
        return []
    try:
        found = card(kind, name)
    except UsageError as error:
        return [f"{where}: {error}"]
    return [f"{where} ({name}): {fault}" for fault in faults_of(found, trust=trust, **options)] if bind else []
