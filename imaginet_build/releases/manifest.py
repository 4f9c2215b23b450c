"""`release.json` as a person, a disk or a stranger may have left it: what is wrong with it is said in words, before it is used.

Only what is read anywhere has to be of the right kind; what a later version of this software adds is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from imaginet_build.errors import UsageError

NAME = "release.json"
_SHOWN = 3

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][\w-]*$")]


def _inside(path: str) -> str:
    place = PurePosixPath(path)
    if not path or place.is_absolute() or ".." in place.parts or "\0" in path:
        raise ValueError("it leads out of the release")
    return path


Inside = Annotated[str, AfterValidator(_inside)]
"""The place of a file, relative to the release and in it."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _File(_Part):
    sha256: Digest
    nbytes: Count


class _Source(_Part):
    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, str | bool | None] = Field(init=False)

    name: str
    licence: str
    redistribute: bool | None = None
    commercial: bool | None = None


class _About(_Part):
    model_config = ConfigDict(strict=True, extra="forbid")

    title: str = ""
    description: str = ""
    repo: str = ""
    contact: str = ""
    citation: str = ""
    sources: list[_Source]
    statements: dict[str, str] = Field(default_factory=dict)


class _SelfTest(_Part):
    groups: Annotated[list[int], Field(min_length=2)]
    caught: bool
    few: str


class _Gate(_Part):
    verdict: str
    value: float | None
    limit: float
    permutation95: float | None
    groups: int
    reason: str | None = None
    self_test: _SelfTest | None = None
    forced: bool = False


class _Probe(_Part):
    track: str
    probe: str
    view: str | None
    balanced_accuracy: float | None
    auc: float | None
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    scope: str = "all"
    gate: bool = True

    @model_validator(mode="after")
    def _measured(self) -> _Probe:
        if not self.gate and None in (self.balanced_accuracy, self.auc, self.ci95):
            raise ValueError("a look at pixels without its figures")
        return self


class _Earlier(_Part):
    version: str
    digest: Digest


class _Audited(_Part):
    permutations: Count
    pixels: bool


class _Shape(_Part):
    files: dict[Inside, _File]
    title: str = ""
    version: str | None = None
    previous: _Earlier | None = None
    tiers: dict[Word, dict[Word, list[Inside]]] = Field(default_factory=dict)
    digest: Digest = "0" * 64
    recipe_digest: str = ""
    inputs: str = ""
    rows: Count = 0
    views: Annotated[dict[Word, dict[Word, Count]], Field(min_length=1)] = Field(default={"equalized": {}})
    order: Annotated[list[Word], Field(min_length=1)] = Field(default=["equalized"])
    likeness: dict[str, Any] = Field(default_factory=dict)
    about: _About = Field(default=_About(sources=[]))
    gate: _Gate | None = None
    probes: list[_Probe] = Field(default_factory=list)
    audit: _Audited | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    withheld: Count = 0
    must_not_travel: Count = 0
    only: Literal["redistributable", "commercial"] | None = None
    complete: Digest | None = None
    rebuilt_from: Digest | None = None

    @model_validator(mode="after")
    def _agree(self) -> _Shape:
        if {"views", "order"} <= self.model_fields_set and set(self.order) != set(self.views):
            raise ValueError(f"'order' names {', '.join(self.order)}, 'views' {', '.join(self.views)}")
        return self


class Manifest(dict[str, Any]):
    """What `release.json` says. A key that is asked for and not there is a `UsageError` that names it."""

    def __init__(self, path: Path, said: Mapping[str, Any]) -> None:
        super().__init__(said)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise UsageError(
            f"{self._path} does not say '{key}': it was damaged, or written by an older version. Take an intact copy, or "
            "publish it once more from its work folder: build-imaginet publish"
        )


def read(folder: Path) -> Manifest:
    """The manifest of the release at `folder`. Raises `UsageError` where there is none, or one that cannot be."""
    path = folder / NAME
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        _Shape.model_validate(said)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{folder} is not a release (no {NAME}); make one: build-imaginet publish --out {folder}") from None
    except ValidationError as error:
        raise UsageError(_refused(path, _faults(error))) from None
    except RecursionError:
        raise UsageError(_refused(path, "it is nested without end")) from None
    except (OSError, ValueError) as error:
        raise UsageError(_refused(path, str(error))) from None
    return Manifest(path, said)


def _refused(path: Path, why: str) -> str:
    return (
        f"{path} is not a release manifest ({why}): take an intact copy of the release, or move {path.parent} away and publish "
        "again"
    )


def _faults(error: ValidationError) -> str:
    found = [f"'{'.'.join(map(str, one['loc']))}': {one['msg']}" if one["loc"] else one["msg"] for one in error.errors()]
    return "; ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
