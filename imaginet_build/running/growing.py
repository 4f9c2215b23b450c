"""`publish --from`: a work folder balanced anew around a release that is out already, and the next version grown from it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from imaginet_build import balance as balances
from imaginet_build.errors import UsageError
from imaginet_build.releases import living, release, releasefolder
from imaginet_build.releases.carrying import link
from imaginet_build.releases.living import Previous
from imaginet_build.releases.rights import FETCH, Clearance
from imaginet_build.running.workspace import Session

log = logging.getLogger(__name__)

ASIDE = "releases"
"""Where a work folder keeps the versions that its `release` has been."""


@dataclass(frozen=True, slots=True)
class Grown:
    """What the next version grows from: `here` in the work folder; `out` where it leaves it, which may hold fewer pixels."""

    here: Previous
    out: Previous


def begin(session: Session, folder: Path) -> Grown:
    """Read the release at `folder`. Raises `UsageError` where nothing can grow from it, or not by this recipe."""
    store, recipe = session.store, session.recipe
    releasefolder.recover(folder)
    if folder.is_dir() and folder.resolve() == (store.root / "release").resolve():
        folder = _aside(store.root, folder)
    previous = living.read(folder)
    living.refuse(previous, recipe.publish.views, recipe.equalize.model_dump(mode="json", exclude_none=True))
    if not previous.manifest.get("withheld"):
        return Grown(previous, previous)
    wanted = previous.manifest.get("complete")
    places = [store.root / "release", *sorted((store.root / ASIDE).glob("*"))]
    whole = [p for p in places if (p / release.MANIFEST).is_file() and release.read_manifest(p)["digest"] == wanted]
    if not whole:
        raise UsageError(
            f"{folder} holds no pixels of {previous.manifest['withheld']} images, and the release that does (digest {wanted}) "
            f"is neither {places[0]} nor in {store.root / ASIDE}: put it there, or restore it with build-imaginet rebuild"
        )
    return Grown(living.read(_aside(store.root, whole[0]) if whole[0] == places[0] else whole[0]), previous)


def again(session: Session, out: Path | None) -> tuple[Path | None, str | None]:
    """What the release at `out`, or in the work folder, was grown from, and its own version, so that it is written again as it
    was made; None where it is a first version. Raises `UsageError` where the older release is not in the work folder."""
    root = session.store.root
    for folder in (out, root / "release"):
        if folder is None or not (folder / release.MANIFEST).is_file():
            continue
        manifest = release.read_manifest(folder)
        wanted = (manifest.get("previous") or {}).get("digest")
        for place in sorted((root / ASIDE).glob("*")) if wanted else ():
            if (place / release.MANIFEST).is_file() and release.read_manifest(place)["digest"] == wanted:
                log.info("%s is %s, grown from %s: it grows from that again", folder, manifest["version"], place)
                return place, str(manifest["version"])
        releasefolder.refuse_unlinked(folder)
    return None, None


def _aside(root: Path, folder: Path) -> Path:
    """The release of the work folder under a name that the next version does not take: links, so that it costs no room."""
    manifest = release.read_manifest(folder)
    there = root / ASIDE / str(manifest.get("version") or living.FIRST)
    if (there / release.MANIFEST).is_file() and release.read_manifest(there) == manifest:
        return there
    partial = there.with_name(there.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for path in [*sorted(release.listing(folder)), release.MANIFEST]:
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        link(folder / path, partial / path)
    shutil.rmtree(there, ignore_errors=True)
    partial.rename(there)
    return there


def planned(session: Session, grown: Grown, clear: Clearance) -> Grown:
    """Balance around what is out already. What is barred since then is withdrawn from both."""
    store, recipe = session.store, session.recipe
    balances.balance(store, recipe.balance, recipe.equalize, recipe.seed, clear.bars, grown.here)
    plan = store.plan()
    gone = set(plan.filter(pc.invert(plan["keep"]))["id"].to_pylist())
    gone |= {notice.id for notice in clear.notices.taken if notice.recognised}
    found = Grown(grown.here.without(gone & _ids(grown.here)), grown.out.without(gone & _ids(grown.out)))
    if count := found.here.gone:
        log.warning(
            "%d rows are withdrawn from the next version; %s still holds them: delete it, and its copies, where that is asked",
            count,
            grown.here.folder,
        )
    return found


def refuse_leak(grown: Grown, clear: Clearance) -> None:
    """Raise `UsageError` where files that are taken over hold pixels that `clear` keeps here."""
    rows = grown.out.rows
    held = rows[FETCH].is_valid().to_pylist() if FETCH in rows.column_names else [False] * rows.num_rows
    here = {name for name, none in zip(rows["id"].to_pylist(), held, strict=True) if not none} - grown.out.withdrawn
    if leaks := sorted(name for name in here if clear.withholds(name)):
        raise UsageError(
            f"{grown.out.folder} holds the pixels of {len(leaks)} images that may not leave the work folder, such as "
            f"{leaks[0]}, and its files would be taken over as they are: grow from the release that went out (--from THAT), or "
            "let them go with --withhold nothing"
        )


def earlier(grown: Grown | None, *folders: Path | None) -> Sequence[Path | None]:
    """The releases whose lists of what was taken down hold on."""
    return [*folders, *([grown.here.folder, grown.out.folder] if grown else [])]


def _ids(previous: Previous) -> set[str]:
    return set(previous.plan["id"].to_pylist())
