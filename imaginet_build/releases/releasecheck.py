"""A release proved anew from its own files: every hash, every number of its card, and the audit's answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from imaginet_build import audit as audits
from imaginet_build.auditing.facts import Map
from imaginet_build.releases import cardlint, datasetcard, release


def check(folder: Path, map: Map = map) -> dict[str, Any]:
    """`{"release", "rows", "files", "audited", "faults": [one line each]}`.

    The audit is made again as it was made when publishing, unless there was none, or it looked at pixels that are not here
    (`audited`): build-imaginet rebuild, then check that. Neither is anything counted where data is damaged (`counted`).

    Raises `UsageError` where there is no release at `folder`, `BuildError` where its files cannot be counted.
    """
    manifest = release.read_manifest(folder)
    faults = release.faults(folder)
    counted = not any(_uncountable(fault) for fault in faults)
    audited = bool(counted and manifest.get("gate") and manifest.get("audit") and not manifest.get("withheld"))
    if counted:
        try:
            faults += cardlint.faults(folder)
            faults += _audited_otherwise(folder, manifest, map) if audited else []
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            # The hashes are those of the manifest: the files were damaged before, or both were changed.
            faults.append(f"{folder}: its files cannot be counted ({str(error).splitlines()[0]})")
            counted = audited = False
    size = {"rows": manifest.get("rows"), "files": len(manifest["files"])}
    return {"release": str(folder)} | size | {"counted": counted, "audited": audited, "faults": faults}


def _uncountable(fault: str) -> bool:
    """Whether a file that a hash accuses is one that the numbers are counted from."""
    path, _, what = fault.rpartition(": ")
    return what == "missing" or path.startswith("data/") or path.endswith(".parquet")


def _audited_otherwise(folder: Path, manifest: dict[str, Any], map: Map) -> list[str]:
    """What an audit of these files says otherwise than `release.json` does."""
    held, settings = manifest["gate"], manifest["audit"]
    result = audits.audit(
        folder, map=map, pixels=settings["pixels"], limit=held["limit"],
        permutations=settings["permutations"],
    )  # fmt: skip
    again = json.loads(json.dumps(result.to_json()))
    wrong = [
        f"{release.MANIFEST}: the audit's '{key}' is {held.get(key)}, an audit of these files says {value}"
        for key, value in again["gate"].items()
        if held.get(key) != value
    ]
    sides = (manifest["probes"], datasetcard.shown(again["probes"]))
    told, found = ({(p["view"], p["probe"]): p for p in side} for side in sides)
    wrong += [
        f"{release.MANIFEST}: probe '{probe}'{f' of {view}' if view else ''} is {told.get((view, probe))}, "
        f"an audit of these files says {found.get((view, probe))}"
        for view, probe in sorted(told.keys() | found.keys(), key=str)
        if told.get((view, probe)) != found.get((view, probe))
    ]
    return wrong
