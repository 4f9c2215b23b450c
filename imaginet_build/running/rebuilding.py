"""The command `rebuild`: its words in, its words out; and what `publish` says of rights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imaginet_build import rebuild as rebuilds
from imaginet_build.errors import UsageError
from imaginet_build.releases.releasewriter import OrderedMap

_SHOWN = 20


def rebuild(
    folder: Path,
    out: Path | None,
    *,
    verify: bool,
    given: Sequence[str],
    trust: bool,
    map: OrderedMap = map,
) -> rebuilds.Rebuilt:
    """Restore the pixels that a release holds back, and prove it. `given`: NAME=PATH each, a card and where its images lie."""
    places: dict[str, list[Path]] = {}
    for text in given:
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise UsageError(f"--source {text}: write it as NAME=PATH, a card and the place of its images")
        places.setdefault(name, []).append(Path(place))
    return rebuilds.rebuild(folder, out, verify=verify, places=places, trust=trust, map=map)


def rebuilt_text(document: Mapping[str, Any]) -> str:
    """What `rebuild` restored and proved, and what it could not."""
    lines = [f"{document['rows']} rows in {document['release']}, digest {document['digest']}"]
    if document["withheld"]:
        lines.append(f"{document['restored']} of {document['withheld']} images without pixels are had, each with its SHA-256")
    else:
        lines.append("no row lacks its pixels")
    if document["proved"]:
        lines.append(f"the bytes of {document['images']} rows held against their SHA-256: {len(document['faults'])} faults")
    elif document["withheld"] and document["missing"]:
        lines.append("no image was proved: --verify does that once nothing is missing")
    else:
        lines.append(f"{'the other images were not' if document['withheld'] else 'nothing was'} proved: --verify does that")
    if document["identical"] is not None:
        lines.append(f"the data is {'' if document['identical'] else 'not '}that of the first release, byte for byte")
    lines += [f"  {fault}" for fault in document["faults"][:_SHOWN]]
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in document["missing"]:
        alike[one["source"], one["reason"]].append(one["source_key"] or one["id"])
    for (source, reason), keys in list(alike.items())[:_SHOWN]:
        which = keys[0] if len(keys) == 1 else f"{len(keys)} images, such as {keys[0]}"
        lines.append(f"  missing: {which} of {source}: {reason}")
    if (more := len(alike) - _SHOWN) > 0:
        lines.append(f"  and for {more} reasons more; all of them with --json")
    return "\n".join(lines)


def rights_lines(document: Mapping[str, Any]) -> list[str]:
    """Of a published release: rows without pixels, and what a constraint costs."""
    lines = [f"{document['withheld']} images without pixels: build-imaginet rebuild"] if document.get("withheld") else []
    if lost := document.get("lost"):
        lines.append(f"only what is {document['only']}: {lost['after']} of {lost['before']} images are left")
        lines += [
            f"  {cell['category']}, {cell['origin']}, {cell['generator_or_source']}: {cell['before']} -> {cell['after']}"
            for cell in lost["cells"]
        ]
    return lines
