"""The lint of a release's texts: every number in them is counted again from the files beside them.

Nothing is taken from the texts themselves. What they say is either counted from the Parquet files, or stands in `release.json`
(the audit's answer, the publisher's words), so the texts can be written anew from the release alone; a line that then reads
otherwise is a fault, and is named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from imaginet_build.errors import BuildError
from imaginet_build.releases import cardfacts, changelog, datasetcard, release, rightstable

_SHOWN = 100


def faults(
    folder: Path, manifest: Mapping[str, Any] | None = None, pixels: Mapping[str, cardfacts.Pixels] | None = None
) -> list[str]:
    """What is wrong in the texts and the manifest of a release, one line each; empty where every number is right.

    `manifest`: its `release.json`, where that is not written yet. `pixels`: what its images told already (`cardfacts.look`);
    without it every image is looked at again. Raises `UsageError` where there is no release, `BuildError` where its files
    cannot be counted.
    """
    held = json.loads(json.dumps(manifest)) if manifest is not None else release.read_manifest(folder)
    facts, texts = expected(folder, held, release.inventory(folder, held["files"] if manifest is not None else None), pixels)
    terms = rightstable.counted(folder, held["order"][0], held.get("only"))
    told = {name: held.get(name) for name in ("rows", "views", "likeness")}
    told |= {name: held.get(name, 0) for name in ("withheld", "must_not_travel")}
    counted = {"rows": facts.rows, "views": facts.views, "likeness": facts.likeness}
    counted |= {"withheld": facts.withheld, "must_not_travel": terms["must_not_travel"]}
    wrong = [
        f"{release.MANIFEST}: '{name}' is {told[name]}, the files say {counted[name]}"
        for name in told
        if told[name] != counted[name]
    ]
    if terms["beyond"]:
        wrong.append(f"{release.MANIFEST}: only what is {held['only']}, it says, and {terms['beyond']} rows are not")
    for name, text in texts.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name}: missing")
            continue
        wrong += [f"{name}:{number}: {what}" for number, what in differences(_read(path), text)]
    return wrong + _older_news(folder, held.get("version"), facts.rows) + _other_origin(folder, held)


def _read(path: Path) -> str:
    """A text, whatever became of its bytes."""
    return path.read_text(encoding="utf-8", errors="replace")


def _older_news(folder: Path, version: str | None, rows: int) -> list[str]:
    """A changelog that is not of this version, or counts its rows otherwise."""
    path = folder / changelog.FILE
    if not version or not path.is_file():
        return []
    lines = _read(path).split("\n")
    number, head = next(((n, line) for n, line in enumerate(lines, start=1) if line.startswith("## ")), (len(lines), ""))
    if head == f"## {version}":
        told = re.search(r"(\d+) (?:images\.|in all\.)", "\n".join(lines[number:]))
        if told is None or int(told[1]) == rows:
            return []
        line = next(n for n, one in enumerate(lines[number:], start=number + 1) if told[0] in one)
        return [f"{changelog.FILE}:{line}: says {told[0]!r}, the files hold {rows} rows"]
    return [f"{changelog.FILE}:{number}: its newest version is {head[3:] or 'none'}, {release.MANIFEST} is of {version}"]


def _other_origin(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """A changelog whose newest version grew from another release than `release.json` says."""
    path, said = folder / changelog.FILE, manifest.get("previous")
    if not manifest.get("version") or not path.is_file():
        return []
    newest = _read(path).partition("\n## ")[2].partition("\n## ")[0]
    found = re.search(r"^Grown from (\S+) \(data digest (\w+)\)", newest, re.MULTILINE)
    there, here = (found[1], found[2]) if found else None, (said["version"], said["digest"]) if said else None
    if there == here:
        return []
    told, held = (f"{one[0]}, digest {one[1][:12]}" if one else "none" for one in (there, here))
    return [f"{changelog.FILE}: its newest version is grown from {told}, {release.MANIFEST} says from {held}"]


def expected(
    folder: Path,
    manifest: Mapping[str, Any],
    inventory: Mapping[str, Mapping[str, object]],
    pixels: Mapping[str, cardfacts.Pixels] | None = None,
) -> tuple[cardfacts.Measured, dict[str, str]]:
    """What the files of a release hold, and its texts as they should be. `inventory`: of its files (`release.inventory`)."""
    if absent := [view for view in manifest["order"] if not release.shards(folder, view)]:
        raise BuildError(f"{folder} has no data of the view '{absent[0]}' that {release.MANIFEST} names: take an intact copy")
    rejects = pq.read_table(folder / "rejects.parquet", columns=["reason"])
    facts = cardfacts.measure(folder, manifest["order"], rejects, release.digest(inventory), manifest.get("tiers"), pixels)
    about = datasetcard.About.of(manifest["about"])
    known = {"version": manifest.get("version", ""), "rights": manifest}
    return facts, datasetcard.files(facts, about, manifest["gate"], manifest["probes"], inventory=inventory, **known)


def differences(said: str, expected: str) -> Iterator[tuple[int, str]]:
    """The lines in which a text differs from what it should say: line number, from 1, and both readings."""
    have, want = said.split("\n"), expected.split("\n")
    if len(have) == len(want):
        for number, (one, other) in enumerate(zip(have, want, strict=True), start=1):
            if one != other:
                yield number, f"says {_short(one, other)}, the files say {_short(other, one)}"
        return
    for kind, a, b, c, d in SequenceMatcher(None, have, want, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        mine, theirs = _joined(have[a:b]), _joined(want[c:d])
        yield a + 1, f"says {_short(mine, theirs)}, the files say {_short(theirs, mine)}"


def _joined(lines: Sequence[str]) -> str:
    return " / ".join(lines)


def _short(text: str, other: str) -> str:
    """The part of a long line around the place where it begins to differ."""
    if not text:
        return "nothing"
    start = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    begin = max(0, start - _SHOWN // 2)
    shown = text[begin : begin + _SHOWN]
    return repr(("…" if begin else "") + shown + ("…" if begin + _SHOWN < len(text) else ""))
