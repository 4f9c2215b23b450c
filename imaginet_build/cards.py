"""What exists and on what terms: the files of `manifests/`, `prompts/` and `pipelines/`, and cards read from them.

A card is one TOML file, `manifests/<kind>/<name>.toml`. Its own keys are those of `CardFile`; every other key is a keyword
argument of the adapter's class (`catalog` binds them). Files of the same name under `manifests/`, `prompts/` or `pipelines/`
of the working directory take the place of the shipped ones, and a warning says so.
"""

from __future__ import annotations

import datetime
import functools
import logging
import multiprocessing
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from imaginet_build import toml
from imaginet_build.errors import UsageError, suggest
from imaginet_build.records import Origin
from imaginet_build.rules import Guard, Screening

log = logging.getLogger(__name__)

Kind = Literal["generators", "sources", "detectors"]
KINDS: tuple[Kind, ...] = ("generators", "sources", "detectors")
UNRESOLVED = "unresolved"
_MOVING = frozenset({"main", "master", "latest", "head", "trunk", "develop", "dev", "nightly", "stable"})
_COMMAND = {"generators": "build-imaginet generate --list", "sources": "build-imaginet collect --list"}
MODELS = Path(__file__).parent / "models"


# --- files -------------------------------------------------------------------------------------------------------------


def files(folder: str, suffix: str = ".toml") -> dict[str, Path]:
    """Name -> file of one folder, such as `pipelines` or `manifests/generators`: the shipped ones, overlaid one by one."""
    shipped = Path(__file__).parent / "_shipped" / folder.partition("/")[0]
    base = (shipped.parent if shipped.is_dir() else Path(__file__).parent.parent) / folder
    found = {path.stem: path for path in sorted(base.glob(f"*{suffix}"))}
    here = Path.cwd() / folder
    if here.is_dir() and not (base.is_dir() and here.samefile(base)):
        for path in sorted(here.glob(f"*{suffix}")):
            if path.stem not in found or found[path.stem].read_bytes() != path.read_bytes():
                _announce(path, path.stem in found)
                found[path.stem] = path
    return dict(sorted(found.items()))


@functools.lru_cache(maxsize=1024)
def _announce(path: Path, replaces: bool) -> None:
    if multiprocessing.parent_process() is not None:
        return  # a worker: the process that started it has said so
    log.warning("using %s of the working directory%s", path.relative_to(Path.cwd()), " in place of the shipped one" * replaces)


def pipeline(name: str) -> Path:
    """The recipe called `name` (`quickstart`, or a path that exists). Raises `UsageError` with a near match."""
    if Path(name).is_file():
        return Path(name)
    known = files("pipelines")
    stem = Path(name).name.removesuffix(".toml")
    if stem not in known:
        raise UsageError(f"no recipe '{name}'{suggest(stem, known) or '.'} Shipped recipes: {', '.join(known)}")
    return known[stem]


# --- taxonomy ----------------------------------------------------------------------------------------------------------


class Taxonomy(BaseModel):
    """The words of the labels. Both map a name to what it means; their order is the order of the release's ClassLabels."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    categories: dict[str, str]
    families: dict[str, str]
    matches: dict[str, list[str]] = Field(default_factory=dict, description="family -> words in a generator's name")

    def family_of(self, generator: str) -> str:
        """The family of a generator that only its source names: that of the first matching word, else `other`."""
        name = " ".join(re.split(r"[^a-z0-9]+", generator.lower()))
        words = ((family, word) for family, words in self.matches.items() for word in words)
        return next((family for family, word in words if word in name), "other")


def taxonomy() -> Taxonomy:
    """`manifests/taxonomy.toml`. Raises `UsageError` naming every fault."""
    path = files("manifests")["taxonomy"]
    return _taxonomy(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _taxonomy(path: Path, _written: int) -> Taxonomy:
    document = _document(path)
    try:
        return Taxonomy.model_validate(document)
    except ValidationError as error:
        raise faulty(path, toml.describe(error, Taxonomy, document)) from None


# --- cards -------------------------------------------------------------------------------------------------------------


def _fixed(revision: str) -> str:
    if revision.lower() in _MOVING or revision.startswith("refs/heads/"):
        raise ValueError(f"'{revision}' is a moving name: give a commit, or \"{UNRESOLVED}\" to have the first use record one")
    return revision


Text = Annotated[str, Field(min_length=1)]


class CardFile(BaseModel):
    """A card's own keys. What a card states as a fact (a licence, a revision) names its page and the day it was read."""

    model_config = ConfigDict(extra="allow", frozen=True)
    adapter: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="module:Class")]
    licence: Text
    licence_url: Text | None = None
    licence_read: datetime.date | None = None
    revision: Annotated[str, AfterValidator(_fixed), Field(min_length=1)] = UNRESOLVED
    family: Text | None = None
    origin: Origin | None = None
    title: str = ""
    url: str = ""
    notes: str = ""
    released: datetime.date | None = None
    needs: str | None = Field(default=None, description="the extra of this package that its adapter needs")
    packages: list[str] = Field(default_factory=list, description="those of that extra's packages it needs; all without it")
    environment: list[str] = Field(default_factory=list, description="variables that must be set, such as an API key")
    gated: bool = Field(default=False, description="weights that are only given to those who accept their licence")
    bundled: bool = Field(default=False, description="works right after installing, without network")
    redistribute: bool | None = Field(default=None, description="whether its images may be passed on; null where not known")
    commercial: bool | None = Field(default=None, description="whether its images may be used commercially")
    rights_url: Text | None = Field(default=None, description="where that is said, if not on the licence's page")
    rights_read: datetime.date | None = None
    terms: str = ""
    by_hand: str = Field(default="", description="sources: how to get it where it cannot be fetched")
    category: str | None = Field(default=None, description="sources: the content type, where there is one alone")
    guard: Guard | None = Field(default=None, description="sources: what its images must be to count as real")
    screen: Screening | None = Field(default=None, description="sources: what of it is not wanted")


@dataclass(frozen=True, slots=True)
class Card:
    """One generator, source or detector: where its adapter is, on what terms, and the adapter's keyword arguments.

    `revision` is a commit, a version, `bundled`, or `unresolved`. `origin` is what its images are (None: the source's index
    says). `needs` names an extra of this package. Raises nothing; `card` and `cards` check what they read.
    """

    kind: Kind
    name: str
    path: Path
    adapter: str
    licence: str
    revision: str
    family: str | None
    origin: Origin | None
    bundled: bool
    needs: str | None
    released: datetime.date | None
    about: CardFile
    options: Mapping[str, Any]

    @property
    def model(self) -> str | None:
        """The model or data set the card points at: a hub id, a path, or `bundled:NAME`."""
        value = self.options.get("model", self.options.get("dataset"))
        return value if isinstance(value, str) else None


def cards(kind: Kind) -> dict[str, Card]:
    """Every card of a kind, by name. Raises `UsageError` naming every fault of every card."""
    found: dict[str, Card] = {}
    faults: list[str] = []
    for name, path in files(f"manifests/{kind}").items():
        try:
            found[name] = read(path, kind)
        except UsageError as error:
            faults.append(str(error))
    if faults:
        raise UsageError("\n".join(faults))
    return found


def card(kind: Kind, name: str) -> Card:
    """One card by name. Raises `UsageError`: no such card (with the nearest name), or its faults, all at once."""
    known = files(f"manifests/{kind}")
    if name not in known:
        near = suggest(name, known) or "."
        see = f"See: {_COMMAND[kind]}" if kind in _COMMAND else f"There are: {', '.join(known)}"
        raise UsageError(f"no {kind[:-1]} '{name}' in manifests/{kind}{near} {see}")
    return read(known[name], kind)


def read(path: Path, kind: Kind) -> Card:
    """The card in one file. Raises `UsageError` naming every fault; a card without a licence is refused."""
    document = _document(path)
    faults: list[str] = []
    if path.stem == "real" and kind == "generators":
        faults.append("the name 'real' belongs to images that no generator made")
    try:
        about = CardFile.model_validate(document)
    except ValidationError as error:
        raise faulty(path, faults + toml.describe(error, CardFile, document)) from None
    words = taxonomy()
    if about.family is None and (kind == "generators" or (kind == "sources" and about.origin == "synthetic")):
        faults.append(f"family: is missing; one of {', '.join(words.families)}")
    if about.family is not None and about.family not in words.families:
        faults.append(f"family: no '{about.family}' in manifests/taxonomy.toml{suggest(about.family, words.families)}")
    if about.category is not None and about.category not in words.categories:
        faults.append(f"category: no '{about.category}' in manifests/taxonomy.toml{suggest(about.category, words.categories)}")
    if kind == "generators" and about.origin == "real":
        faults.append("origin: what a generator draws is synthetic")
    if faults:
        raise faulty(path, faults)
    options = dict(about.model_extra or {})
    bundled = about.bundled or any(is_bundled(v) for v in options.values())
    return Card(
        kind=kind,
        name=path.stem,
        path=path,
        adapter=about.adapter,
        licence=about.licence,
        revision="bundled" if bundled and about.revision == UNRESOLVED else about.revision,
        family=about.family,
        origin="synthetic" if kind == "generators" else about.origin,
        bundled=bundled,
        needs=about.needs,
        released=about.released,
        about=about,
        options=options,
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{short(path)} cannot be read as TOML: {error}") from None


def short(path: Path) -> str:
    """A card's or recipe's path as messages show it: `manifests/generators/sdxl.toml`."""
    return "/".join(path.parts[-3:] if path.parent.name in KINDS else path.parts[-2:])


def faulty(path: Path, faults: list[str]) -> UsageError:
    """The error for a file with these faults, all of them."""
    return UsageError(f"{short(path)}: {len(faults)} fault(s)" + "".join(f"\n  - {fault}" for fault in faults))


def is_bundled(value: object) -> bool:
    """Whether a card's value is, or lists, a `bundled:NAME`."""
    return any(v.startswith("bundled:") for v in (value if isinstance(value, list | tuple) else [value]) if isinstance(v, str))


def bundled(reference: str) -> Path:
    """Where `bundled:NAME` lies: the folder or file NAME of the package's `models/`."""
    name = reference.removeprefix("bundled:")
    if Path(name).name != name or name in ("", ".", ".."):
        raise UsageError(f"'{reference}': a bundled model is named by one word, such as bundled:small")
    return MODELS / name
