"""CHANGELOG.md of a release: what each version added and took out, counted from its rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from imaginet_build.releases import release, releasediff
from imaginet_build.releases.living import Previous

FILE = "CHANGELOG.md"
_HEAD = "# Changelog\n\nVersions are numbered as semver.org says. Two of them are compared by `build-imaginet diff OLD NEW`.\n"


@dataclass(frozen=True, slots=True)
class News:
    """What a version is beside the one before. `text`: the whole CHANGELOG.md; `rows`: of this version; `added`, `withdrawn`:
    of them; `rewritten`: bytes of older data files that are not in it as they were; `previous`: version and digest."""

    text: str
    rows: int
    added: int = 0
    withdrawn: int = 0
    rewritten: int = 0
    previous: dict[str, Any] | None = None


def news(
    version: str,
    folder: Path,
    names: release.Names,
    data: Mapping[str, Mapping[str, Any]],
    previous: Previous | None,
    right: int = 0,
) -> News:
    """Count the release at `folder`, which has the files `data`. `right`: older rows that were put right."""
    view = next(view for view in release.VIEWS if release.shards(folder, view))
    if previous is None:
        rows = sum(pq.read_metadata(path).num_rows for paths in release.shards(folder, view).values() for path in paths)
        return News(f"{_HEAD}\n## {version}\n\nThe first version: {rows} images.\n", rows)
    now = release.rows(folder, view)
    head, _, older = _read(previous.folder / FILE).partition("\n## ")
    if version == previous.version:
        return News(f"{head}\n## {older}", now.num_rows, previous=previous.manifest.get("previous"))
    held = {facts["sha256"] for facts in data.values()}
    rewritten = sum(
        facts["nbytes"]
        for path, facts in previous.manifest["files"].items()
        if path.startswith("data/") and facts["sha256"] not in held
    )
    some = {"added": releasediff.without(now, previous.rows), "removed": releasediff.without(previous.rows, now)}
    cells = releasediff.by_cell(some)
    lines = [
        f"{head}\n## {version}\n",
        f"Grown from {previous.version} (data digest {previous.manifest['digest']}): {some['added'].num_rows} images added, "
        f"{some['removed'].num_rows} withdrawn, {right} put right (errata.csv), {now.num_rows} in all. "
        f"Every other row keeps its id, split, labels and bytes; {rewritten} bytes of older data files were written again.",
    ]
    if cells:
        lines += ["", "| content type | label | generator or source | added | withdrawn |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(map(_plain, cell))} | {n['added']} | {n['removed']} |" for cell, n in sorted(cells.items())]
    for column, field in release.CLASSES.items():
        if new := getattr(names, field)[len(getattr(previous.names, field)) :]:
            lines += ["", f"New in `{column}`, numbered after the older ones: {', '.join(map(_plain, new))}."]
    return News(
        "\n".join(lines) + f"\n\n## {older}",
        now.num_rows,
        some["added"].num_rows,
        some["removed"].num_rows,
        rewritten,
        {"version": previous.version, "digest": previous.manifest["digest"]},
    )


def _plain(name: str) -> str:
    """A name that is not ours, in one line and without markup."""
    return re.sub(r"([\\|`*_\[\]<>&#])", r"\\\1", " ".join(name.split()))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else f"{_HEAD}\n## 1.0.0\n\nThe first version.\n"
