"""A whole run on one page: `pipelines/*.toml` as typed, frozen settings, with every fault found at once.

A recipe says *what* is wanted. *Where* things are (folders, URLs) stands under `[variables]` and is used as `{root}` in the
strings of `options` and `prompts`; *how fast* stands under `[engine]`. Neither is part of the recipe's digest, so that the
same recipe has the same digest on every machine.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from imaginet_build import toml
from imaginet_build.errors import UsageError, suggest
from imaginet_build.paying import manner
from imaginet_build.releases.publish_settings import Publish
from imaginet_build.rules import Guard, MatchField, Screening, Strata, check_quota

Options = dict[str, Any]
Raw = dict[str, Any]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Quality = Annotated[int, Field(ge=1, le=100)]
Side = Annotated[int, Field(ge=8, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Key = TypeVar("Key", bound=str)


def _sums_to_one(shares: dict[Key, float]) -> dict[Key, float]:
    if not math.isclose(total := math.fsum(shares.values()), 1.0, abs_tol=1e-6):
        raise ValueError(f"the shares must sum to 1, not {total:g}")
    return shares


def _one_or_none(shares: dict[Key, float]) -> dict[Key, float]:
    return _sums_to_one(shares) if shares else shares


def _low_to_high(pair: tuple[int, int]) -> tuple[int, int]:
    if pair[0] > pair[1]:
        raise ValueError(f"the smaller number comes first, not [{pair[0]}, {pair[1]}]")
    return pair


class _Settings(BaseModel):
    """One table of a recipe: unknown keys are faults, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Engine(_Settings):
    """Who does the work. Nothing here changes an id; `threads_per_worker` and device may change bytes."""

    kind: Literal["spawn", "ray"] = "spawn"
    workers: int = Field(default=0, ge=0, description="processes; 0 means one for each core, counted when the run starts")
    threads_per_worker: Count = 1
    attempts: Count = Field(default=2, description="how often a task is tried when its worker dies")
    timeout_seconds: float | None = Field(default=None, gt=0, description="a task that takes longer is given up")


class Collect(_Settings):
    """Images to fetch from one source card. `options` are further keyword arguments of its adapter; `guard` and `screen` add to
    what the card states of them."""

    source: Name
    category: str | None = None
    count: Count | None = Field(default=None, description="how many; all there are without it")
    licence: str | None = Field(default=None, min_length=1, description="of the images that state none; the card's without it")
    strata: Strata | None = Field(default=None, description="quotas by class, subject or whatever the source is divided into")
    match: MatchField = None
    guard: Guard | None = None
    screen: Screening | None = None
    options: Options = Field(default_factory=dict)

    @property
    def quota(self) -> int | None:
        """How many images are wanted; None for all there are."""
        return sum(self.strata.values()) if self.count is None and isinstance(self.strata, dict) else self.count

    @model_validator(mode="after")
    def _has_its_quota(self) -> Collect:
        check_quota(self.count, self.category, self.match, self.strata)
        return self


class Generate(_Settings):
    """Images to draw with one generator card. `options` are further keyword arguments of its adapter."""

    generator: Name
    category: str
    count: Count
    prompts: str | None = Field(default=None, description="a set in prompts/ or a file; the category's own set without it")
    source: Name | None = Field(default=None, description="where an aligned generator's real images come from; any without it")
    batch: Count = Field(default=8, description="images drawn in one call; part of what decides the bytes, never the ids")
    width: Side | None = None
    height: Side | None = None
    options: Options = Field(default_factory=dict)


class Screen(_Settings):
    """What is too poor to keep, the same for both classes."""

    min_side: int = Field(default=0, ge=0, description="pixels of the shorter side")
    max_aspect: float = Field(default=0, ge=0, description="longer side over shorter; 0 means any")
    min_contrast: float = Field(default=1.0, ge=0, le=127.5, description="standard deviation of the grey image; less is blank")
    grayscale: bool = Field(default=True, description="whether grey images are welcome")


class HeldOut(_Settings):
    """What appears in the test split only: it shows how a detector does on what it has never seen."""

    generators: list[str] = Field(default_factory=list)
    sources: list[str] = Field(default_factory=list)
    released_after: datetime.date | None = Field(default=None, description="cards `released` this day or later")
    released_before: datetime.date | None = Field(default=None, description="and before this day; no end without it")

    @model_validator(mode="after")
    def _window(self) -> HeldOut:
        if self.released_before and (self.released_after is None or self.released_before <= self.released_after):
            raise ValueError(
                "released_before is the end of a window that released_after begins: give both, the earlier day first"
            )
        return self


class Balance(_Settings):
    """Which images stay. A cell is one category of one origin."""

    per_cell: Count | Literal["max"] = "max"
    radius: Annotated[int, Field(ge=0, le=32)] | Literal["auto"] = Field(
        default="auto", description="Hamming distance of twins"
    )
    memory_mb: Count = Field(default=1024, description="for the search of near-duplicates; past it hashes are sorted on disk")
    embedding: str | None = Field(default=None, description="a vision model, folder or Hub id: what looks alike to it groups")
    similarity: float = Field(default=0.95, gt=0, le=1, description="cosine of embeddings from which on images are alike")
    sketches: list[str] = Field(default_factory=list, description="sketches of data sets that this one should not hold")
    contaminated: Literal["report", "reject"] = Field(default="report", description="what becomes of images that they hold")
    splits: Annotated[dict[Literal["train", "calibration", "test"], Share], AfterValidator(_sums_to_one)] = Field(
        default={"train": 0.7, "calibration": 0.1, "test": 0.2}
    )
    generators: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="weights within a synthetic cell; generators not named share alike (weight 1)"
    )
    sources: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="weights within a real cell; without any, sources share by what they hold"
    )
    sizes: Annotated[dict[Annotated[str, Field(pattern=r"^[1-9]\d{0,4}$")], Share], AfterValidator(_one_or_none)] = Field(
        default_factory=dict, description="shares of shorter sides in every cell: from this many pixels to the next"
    )
    aspects: Annotated[dict[Literal["portrait", "square", "landscape"], Share], AfterValidator(_one_or_none)] = Field(
        default_factory=dict, description="shares of aspects in every cell; square is from 0.9 to 1.1 times as wide as high"
    )
    hold_out: list[str] = Field(default_factory=list, description="the short way to write held_out.generators")
    held_out: HeldOut = Field(default_factory=HeldOut)
    screen: Screen = Field(default_factory=Screen)


class Equalize(_Settings):
    """The law that draws crop, size and encoding of the `equalized` view for both classes. `auto` is fitted on the reals."""

    side: Annotated[tuple[Side, Side], AfterValidator(_low_to_high)] | Literal["auto"] = "auto"
    side_draws: Annotated[int, Field(ge=1, le=16)] = Field(
        default=1, description="sides drawn for an image, of which it gets the largest: more than 1 leans towards large crops"
    )
    side_median: Side | None = Field(
        default=None,
        description="what half of all crops should have at least; `balance` warns where images are too small for it",
    )
    step: Count = Field(default=32, description="sides are multiples of it")
    codec: Annotated[dict[Literal["jpeg", "webp", "png"], Share], AfterValidator(_sums_to_one)] = Field(default={"jpeg": 1.0})
    quality: Annotated[tuple[Quality, Quality], AfterValidator(_low_to_high)] | Literal["auto"] = "auto"
    subsampling: Annotated[dict[Literal["4:4:4", "4:2:2", "4:2:0"], Share], AfterValidator(_sums_to_one)] | Literal["auto"] = (
        "auto"
    )


class Audit(_Settings):
    """The gate: how well the label may be guessed without looking at a pixel."""

    limit: float = Field(default=0.55, ge=0.5, le=1, description="balanced accuracy above which publishing is refused")
    permutations: int = Field(default=100, ge=0, description="group-preserving label shuffles that say what chance reaches")
    bootstrap: int = Field(default=200, ge=0, description="resamples behind each confidence interval")
    sketches: list[str] = Field(default_factory=list, description="sketches of data sets to look for in the target")
    pixels: bool = Field(default=True, description="report the pixel probes too, on a sample of each view; never in the gate")


class Baseline(_Settings):
    """The detector that is trained and judged on the release."""

    detector: Name = "small"
    steps: Count | None = Field(default=None, description="training steps; the preset's own without it")
    seeds: Count = 1
    options: Options = Field(default_factory=dict)


class Report(_Settings):
    """The HTML page."""

    thumbnails: int = Field(default=12, ge=0, description="samples shown for each cell")
    side: Side = Field(default=128, description="pixels of a thumbnail's longer side")


class Recipe(_Settings):
    """A whole run. `load` reads one; `Recipe.model_validate(mapping)` makes one in code."""

    name: Name
    seed: int = Field(default=0, ge=0)
    variables: dict[str, str] = Field(default_factory=dict, description="places, usable as {name}; not part of the digest")
    engine: Engine = Field(default_factory=Engine)
    collect: list[Collect] = Field(default_factory=list)
    generate: list[Generate] = Field(default_factory=list)
    balance: Balance = Field(default_factory=Balance)
    equalize: Equalize = Field(default_factory=Equalize)
    audit: Audit = Field(default_factory=Audit)
    publish: Publish = Field(default_factory=Publish)
    baseline: Baseline = Field(default_factory=Baseline)
    report: Report = Field(default_factory=Report)

    _written: Raw | None = PrivateAttr(default=None)

    def written(self) -> Raw:
        """The recipe as a nested mapping with its `{variables}` still in place and every default filled in."""
        return self._written if self._written is not None else self.model_dump(mode="json", exclude_none=True)


def load(
    path: Path | str, overrides: Sequence[str] = (), check: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
) -> Recipe:
    """Read a recipe, apply `KEY=VALUE` overrides, and return it with variables filled in.

    `check` may name further faults of the document (`catalog.check` does: unknown cards, options that do not fit).
    Raises `UsageError` naming every fault at once. Relative paths stay relative: they mean the working directory.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no recipe at {path}. See the shipped ones: build-imaginet run --list") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read as TOML: {error}") from None
    return parse(raw, overrides, check, name=str(path))


def parse(
    raw: Mapping[str, Any],
    overrides: Sequence[str] = (),
    check: Callable[[Mapping[str, Any]], Sequence[str]] | None = None,
    name: str = "the recipe",
) -> Recipe:
    """`load` for a mapping that is already in memory; `name` is what messages call it."""
    document: Raw = json.loads(json.dumps(raw, default=str))
    faults = [fault for text in overrides if (fault := _override(document, text))]
    filled = _fill(document, faults)
    recipe = template = None
    try:
        recipe = Recipe.model_validate(filled)
        template = Recipe.model_validate(document)
    except ValidationError as error:
        faults += toml.describe(error, Recipe, filled)
    if check is not None:
        faults += check(filled)
    if faults or recipe is None or template is None:
        lines = "".join(f"\n  - {fault}" for fault in dict.fromkeys(faults))
        raise UsageError(f"{name}: {len(dict.fromkeys(faults))} fault(s), nothing was started{lines}")
    recipe._written = template.model_dump(mode="json", exclude_none=True)
    return recipe


def digest(recipe: Recipe) -> str:
    """SHA-256 of what the recipe asks for: 64 hexadecimal digits.

    `[engine]`, `[variables]` and every option named `root` are left out (speed and places), so no absolute path gets in and
    the same recipe has the same digest on every machine.
    """
    asked = _without_places(recipe.written())
    asked.pop("variables", None)
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def difference(a: Recipe, b: Recipe) -> list[str]:
    """What `b` asks for that `a` does not, one line a key: `balance.per_cell: 100 -> 200`; speed and money aside."""
    old, new = ({k: v for k, v in _leaves(r.written()) if not manner.how(k)} for r in (a, b))
    keys = list(dict.fromkeys([*old, *new]))
    return [f"{k}: {_shown(old, k)} -> {_shown(new, k)}" for k in keys if _shown(old, k) != _shown(new, k)]


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML with every default written out; `load` of it gives the same recipe and digest."""
    return toml.write(recipe.written())


# --- overrides and variables -------------------------------------------------------------------------------------------


def _value(text: str) -> Any:
    try:
        return json.loads(json.dumps(tomllib.loads(f"x = {text}")["x"], default=str))
    except tomllib.TOMLDecodeError:
        return text


def _override(document: Raw, text: str) -> str | None:
    """Put one `KEY=VALUE` into the document; the fault, if it has no place there."""
    key, equals, value = text.partition("=")
    steps = [step.strip() for step in key.split(".")]
    if not equals or not all(steps):
        return f"--set {text!r}: write it as KEY=VALUE, for example --set engine.workers=4"
    variables = document.get("variables", {})
    if len(steps) == 1 and steps[0] not in Recipe.model_fields and isinstance(variables, dict):
        if steps[0] not in variables:
            return f"--set {key}: no such key or variable{suggest(steps[0], [*Recipe.model_fields, *variables])}"
        variables[steps[0]] = value.strip()
        return None
    place: Any = document
    for depth, step in enumerate(steps):
        last = depth == len(steps) - 1
        if isinstance(place, list):
            if not step.isdigit() or int(step) >= len(place):
                where = ".".join(steps[:depth])
                return f"--set {key}: '{where}' has {len(place)} item(s), numbered from 0; there is no '{step}'"
            index: Any = int(step)
        elif isinstance(place, dict):
            index = step
            if not last and step not in place:
                is_list = not depth and step in ("collect", "generate")
                place[step] = [] if is_list else {}
        else:
            return f"--set {key}: '{'.'.join(steps[:depth])}' is a single value and has no '{step}'"
        if last:
            place[index] = _value(value.strip())
        else:
            place = place[index]
    return None


_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _fill(document: Raw, faults: list[str]) -> Raw:
    """A copy of the document whose `options` and `prompts` strings have their variables filled in."""
    variables = document.get("variables", {})
    known = {k: str(v) for k, v in variables.items()} if isinstance(variables, dict) else {}

    def fill(value: Any, where: str) -> Any:
        if isinstance(value, dict):
            return {k: fill(v, f"{where}.{k}") for k, v in value.items()}
        if isinstance(value, list):
            return [fill(v, f"{where}.{i}") for i, v in enumerate(value)]
        if not isinstance(value, str):
            return value
        faults.extend(
            f"{where}: no variable '{name}' under [variables]{suggest(name, known)}"
            for name in _VARIABLE.findall(value)
            if name not in known
        )
        return _VARIABLE.sub(lambda match: known.get(match[1], match[0]), value)

    filled: Raw = json.loads(json.dumps(document))
    for stage in ("collect", "generate"):
        items = filled.get(stage)
        for i, item in enumerate(items if isinstance(items, list) else []):
            for key in {"options", "prompts"} & set(item if isinstance(item, dict) else ()):
                item[key] = fill(item[key], f"{stage}.{i}.{key}")
    return filled


# --- comparing -------------------------------------------------------------------------------------------------------


def _without_places(document: Raw) -> Raw:
    copy: Raw = json.loads(json.dumps(document))
    copy.get("balance", {}).pop("memory_mb", None)
    for section in ("balance", "audit"):
        if sketches := copy.get(section, {}).get("sketches"):
            copy[section]["sketches"] = [Path(sketch).name for sketch in sketches]
    manner.drop(copy)
    return copy


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if toml.is_tables(value) else ()
    if not children:
        yield prefix, value
    for key, child in children:
        yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key]) if key in leaves else "(not set)"
