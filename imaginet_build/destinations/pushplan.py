"""What has to travel so that a place elsewhere holds just this release, and what there is not ours to touch.

Files of an earlier release are known by that release's own manifest: what it lists, unchanged, is ours and may be replaced or
deleted. Everything else belongs to somebody.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaginet_build.errors import BuildError
from imaginet_build.releases import release

ROOTS = ("data/", "metadata/", "provenance/")
"""Folders of a release: a stranger's file in one of them would be loaded as part of it."""

HOUSEKEEPING = frozenset({".gitattributes", ".gitignore"})
"""Files that a host writes for itself."""

_SMALL = 32_000_000
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Mine:
    """A file of the release here. `blob`: the name git gives its content, for files a host may keep in git itself."""

    nbytes: int
    sha256: str
    blob: str


@dataclass(frozen=True, slots=True)
class Theirs:
    """A file there, as its host describes it: `sha256` of a large file, else `blob`."""

    nbytes: int
    sha256: str | None
    blob: str | None

    def holds(self, mine: Mine) -> bool:
        """Whether it is that file, by size and hash."""
        if self.nbytes != mine.nbytes:
            return False
        return self.sha256 == mine.sha256 if self.sha256 else self.blob == mine.blob


@dataclass(frozen=True, slots=True)
class Plan:
    """Paths, each list sorted. `blocked`: somebody else's files that stand in the way; `kept`: those that do not."""

    send: tuple[str, ...]
    same: tuple[str, ...]
    delete: tuple[str, ...]
    kept: tuple[str, ...]
    blocked: tuple[str, ...]


def whole(folder: Path) -> dict[str, Mine]:
    """Every file of the release in `folder`, its manifest included, read and hashed anew.

    Raises `BuildError` where a file is missing, strange or not the one that the manifest lists: what is damaged does not leave.
    """
    listed = release.read_manifest(folder)["files"]
    there = release.listing(folder)
    wrong = [f"{path} is missing" for path in sorted(listed.keys() - there)]
    wrong += [f"{path} is not in {release.MANIFEST}" for path in sorted(there - listed.keys())]
    mine = {path: _fingerprint(folder / path) for path in sorted((listed.keys() & there) | {release.MANIFEST})}
    wrong += [
        f"{path} is not as published"
        for path, file in mine.items()
        if path in listed and (file.sha256, file.nbytes) != (listed[path]["sha256"], listed[path]["nbytes"])
    ]
    if wrong:
        raise BuildError(f"{folder} is damaged ({'; '.join(wrong[:3])}) and stays here: run build-imaginet publish again")
    return mine


def _fingerprint(path: Path) -> Mine:
    size = path.stat().st_size
    small = size <= _SMALL
    state, blob = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
            if small:
                blob.update(block)
    return Mine(size, state.hexdigest(), blob.hexdigest() if small else "")


def listed_in(manifest: bytes) -> dict[str, dict[str, Any]] | None:
    """The files that a manifest found there lists; None where it is none of ours."""
    try:
        files = json.loads(manifest)["files"]
        return {str(path): {"sha256": str(f["sha256"]), "nbytes": int(f["nbytes"])} for path, f in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def compare(
    mine: Mapping[str, Mine],
    theirs: Mapping[str, Theirs],
    published: Mapping[str, Mapping[str, Any]] | None,
    read: Callable[[str], bytes],
    overwrite: bool = False,
) -> Plan:
    """What to send and what to delete.

    `published`: what the manifest found there lists, None where there is none. `read` fetches a small file from there, to see
    whether somebody changed it. With `overwrite` what is in the way counts as ours.
    """

    def ours(path: str) -> bool:
        if path == release.MANIFEST:
            return published is not None
        told, there = (published or {}).get(path), theirs[path]
        if told is None or told["nbytes"] != there.nbytes:
            return False
        return str(told["sha256"]) == (there.sha256 or hashlib.sha256(read(path)).hexdigest())

    send, same, delete, kept, blocked = [], [], [], [], []
    for path in sorted(mine):
        if path in theirs and theirs[path].holds(mine[path]):
            same.append(path)
            continue
        send.append(path)
        if path in theirs and not overwrite and not ours(path):
            blocked.append(path)
    for path in sorted(theirs.keys() - mine.keys() - HOUSEKEEPING):
        if ours(path) or (overwrite and path.startswith(ROOTS)):
            delete.append(path)
        elif path.startswith(ROOTS):
            blocked.append(path)
        else:
            kept.append(path)
    return Plan(tuple(send), tuple(same), tuple(delete), tuple(kept), tuple(blocked))


def differences(mine: Mapping[str, Mine], theirs: Mapping[str, Theirs], deleted: tuple[str, ...] = ()) -> list[str]:
    """What is not as it should be there, one line a file; empty when every file of the release is there and whole."""
    wrong = [f"{path} is missing" for path in sorted(mine.keys() - theirs.keys())]
    wrong += [f"{p} has other bytes" for p in sorted(mine.keys() & theirs.keys()) if not theirs[p].holds(mine[p])]
    return wrong + [f"{path} is still there" for path in deleted if path in theirs]


def groups(mine: Mapping[str, Mine], paths: tuple[str, ...], nbytes: int, files: int) -> Iterator[list[str]]:
    """`paths` in runs of at most `files` and about `nbytes`: what is lost at most when one of them fails."""
    run: list[str] = []
    size = 0
    for path in paths:
        if run and (len(run) >= files or size + mine[path].nbytes > nbytes):
            yield run
            run, size = [], 0
        run.append(path)
        size += mine[path].nbytes
    if run:
        yield run


def in_the_way(place: str, plan: Plan) -> str:
    """One sentence on the files of somebody else that stop a push, and the way on."""
    first = ", ".join(plan.blocked[:3]) + (f" and {len(plan.blocked) - 3} more" if len(plan.blocked) > 3 else "")
    return (
        f"{place} holds what no release of ours put there, or what somebody changed since: {first}. Nothing was sent. Move it "
        "away or choose another place; with --overwrite it is replaced, or deleted where it would be loaded with the release"
    )
