"""The folder of a release while it is made: built beside its place, kept when a run is killed, and put there as a whole."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imaginet_build.errors import UsageError
from imaginet_build.releases import release
from imaginet_build.releases.carrying import link

log = logging.getLogger(__name__)

_INPUTS = ".inputs"


def recover(out: Path) -> None:
    """Put back the release at `out` where a run was killed after it moved it aside and before the new one took its place."""
    aside = _aside(out)
    if not out.exists() and (aside / release.MANIFEST).is_file() and _partial(out).is_dir():
        log.warning("%s was being replaced when a run was killed; it is put back as it was", out)
        aside.rename(out)
    if (out / release.MANIFEST).is_file():
        (out / _INPUTS).unlink(missing_ok=True)


def _aside(out: Path) -> Path:
    """No name that anybody gives to a release: what lies there is removed."""
    return out.with_name(out.name + ".replaced")


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def check(out: Path, alone: bool = False) -> None:
    """Raise `UsageError` where `out` holds anything that is not of a release, or, for one that grows from no other (`alone`),
    one that did."""
    recover(out)
    if out.exists() and not (out / release.MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something that is not a release; nothing was touched. Choose another --out, or empty it")
    if (out / release.MANIFEST).is_file():
        strange = sorted(release.listing(out) - release.read_manifest(out)["files"].keys())
        if strange:
            raise UsageError(
                f"{out} holds files that are not of the release, such as {strange[0]}; move them away, then publish again"
            )
        if alone:
            refuse_unlinked(out)


def refuse_unlinked(out: Path) -> None:
    """Raise `UsageError` where the release at `out` was grown from another one: written anew by itself, its older rows would
    lose their numbers, files and history."""
    manifest = release.read_manifest(out)
    if before := manifest.get("previous"):
        raise UsageError(
            f"{out} is {manifest['version']}, grown from {before['version']} (digest {before['digest'][:12]}): name that "
            "release with --from, or move this one away to begin anew"
        )


def intact(folder: Path, inputs: str) -> dict[str, Any] | None:
    """The manifest of the release at `folder` if it was made from the same inputs and its data is whole, else None."""
    if not (folder / release.MANIFEST).is_file():
        return None
    manifest = release.read_manifest(folder)
    if manifest.get("inputs") != inputs:
        return None
    wrong = [fault for fault in release.faults(folder) if fault.startswith("data/")]
    if wrong:
        log.warning("%s is damaged (%s) and is written again", folder, "; ".join(wrong[:3]))
        return None
    return manifest


def prepare(partial: Path, key: str) -> None:
    """An empty `partial`, or the one a killed run of the same inputs left, without its unfinished files."""
    note = partial / _INPUTS
    if partial.exists() and not (note.is_file() and note.read_text(encoding="utf-8") == key):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    note.write_text(key, encoding="utf-8")
    shutil.rmtree(partial / ".spill", ignore_errors=True)
    for left in partial.rglob("*.tmp"):
        left.unlink()


def adopt(folder: Path, partial: Path) -> None:
    """The data files of an intact release, linked where the file system can, else copied."""
    for path in sorted((folder / "data").rglob("*.parquet")):
        there = partial / path.relative_to(folder)
        there.parent.mkdir(parents=True, exist_ok=True)
        link(path, there)


def clear(partial: Path) -> None:
    """Only data may be left in `partial`: everything else is written anew."""
    for path in partial.iterdir():
        if path.is_file() and path.name != _INPUTS:
            path.unlink()
        elif path.is_dir() and path.name != "data":
            shutil.rmtree(path)


def _untouched(out: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the files beside the data, which `intact` does not ask about, are those of the manifest."""
    texts = {path: facts for path, facts in manifest["files"].items() if not path.startswith("data/")}
    return all((out / path).is_file() and release.fingerprint(out / path) == facts for path, facts in texts.items())


def put(partial: Path, out: Path, manifest: Mapping[str, Any], there: Mapping[str, Any] | None) -> bool:
    """Put the finished folder in its place, unless the same is `there` and nobody changed it; whether it was. Killed between
    the two renames, the next run puts the older release back (`recover`) and finishes from `partial`, which is still known by
    its note of inputs."""
    if there == manifest and _untouched(out, manifest):
        shutil.rmtree(partial)
        return True
    (partial / release.MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    aside = _aside(out)
    shutil.rmtree(aside, ignore_errors=True)
    if out.exists():
        out.rename(aside)
    partial.rename(out)
    (out / _INPUTS).unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    return False
