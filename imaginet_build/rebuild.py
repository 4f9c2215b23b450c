"""`rebuild`: the pixels that a release holds back, fetched again from where they came, rendered and proved byte for byte.

The whole release is written to a folder of its own. Whatever stops half-way goes on from there: bytes that were found stay on a
shelf beside it, and a shard that is whole is not written twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imaginet_build import images
from imaginet_build.errors import BadImage, BuildError, UsageError
from imaginet_build.records import view_of
from imaginet_build.releases import cardlint, metadatatable, release, releasefolder, reperturb, restoring, rightstable
from imaginet_build.releases.carrying import link
from imaginet_build.releases.releasewriter import OrderedMap
from imaginet_build.releases.restoring import Missing, Places, Shelf
from imaginet_build.releases.rights import FETCH
from imaginet_build.releases.shardwriter import ShardWriter

log = logging.getLogger(__name__)

SHELF = ".born"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_AT_ONCE = 50
_UNREADABLE = (OSError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError)
"""What reading a shard raises that is cut off, has wrong bytes, or other columns than ours."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was proved or restored. `path`: the release with all its pixels, or the one that was looked at; `withheld`: rows
    that had none; `restored`: how many of those have theirs now; `missing`: the others, each with what to do; `images`: rows
    whose bytes were held against their SHA-256; `faults`: what is not as it was published. `identical`: whether the data is,
    byte for byte, that of the release that was never withheld; None where nobody knows its digest. `proved`: whether hashes
    were looked at."""

    path: Path
    rows: int
    withheld: int
    restored: int
    missing: tuple[dict[str, str], ...]
    images: int
    faults: tuple[str, ...]
    digest: str
    identical: bool | None = None
    proved: bool = False

    @property
    def failed(self) -> bool:
        """Whether something is missing or wrong."""
        return bool(self.missing or self.faults)

    def to_json(self) -> dict[str, Any]:
        """The document that `rebuild --json` prints."""
        return {
            "release": str(self.path),
            "digest": self.digest,
            "rows": self.rows,
            "withheld": self.withheld,
            "restored": self.restored,
            "missing": list(self.missing),
            "images": self.images,
            "faults": list(self.faults),
            "identical": self.identical,
            "proved": self.proved,
        }


def rebuild(
    folder: Path,
    out: Path | None = None,
    *,
    verify: bool = False,
    places: Places | None = None,
    trust: bool = False,
    map: OrderedMap = map,
) -> Rebuilt:
    """Restore the pixels of the release at `folder` into `out` (default: beside it, `<folder>-complete`); a release that holds
    all of its pixels is only looked at.

    `places`: card name -> where its images lie, for what cannot be fetched. `verify`: prove every hash of the result, of files
    and of rows. What was made of missing images for the config `robustness` is made again. Where something
    cannot be had nothing is written but the shelf. Raises `UsageError` for a wrong call, `BuildError` for a damaged release.
    """
    folder = _by_name(folder)
    manifest = release.read_manifest(folder)
    missing = _missing(folder)
    restoring.check(missing, places or {})
    if not missing:
        count, wrong = prove(folder) if verify else (0, [])
        return Rebuilt(folder, manifest["rows"], 0, 0, (), count, tuple(wrong), manifest["digest"], None, verify)
    if wrong := release.faults(folder):
        raise BuildError(f"{folder} is damaged ({'; '.join(wrong[:3])}), so nothing is built on it: take an intact copy")
    out = out or folder.with_name(f"{folder.name}-complete")
    if out.resolve() == folder.resolve():
        raise UsageError(f"--out {out} is the release itself: choose another folder")
    if Path.cwd().is_relative_to(out.resolve()):
        raise UsageError(f"--out {out}: a release takes the place of a whole folder, and this one is stood in: name another")
    releasefolder.check(out)
    if (out / release.MANIFEST).is_file() and release.read_manifest(out).get("rebuilt_from") == manifest["digest"]:
        return _said(out, manifest, missing, {}, verify)

    partial = out.with_name(out.name + ".partial")
    releasefolder.prepare(partial, json.dumps(["rebuild", manifest["digest"]]))
    shelf = Shelf(partial / SHELF)
    if _unfinished(folder, partial):
        why = restoring.restore(missing, places or {}, shelf, trust)
        if why:
            return _said(folder, manifest, missing, why, False)
    known = _data(folder, partial, manifest, shelf, map)
    known |= reperturb.restore(folder, partial, map)
    releasefolder.clear(partial)
    _rest(folder, partial)
    _finish(partial, out, manifest, known)
    return _said(out, manifest, missing, {}, verify)


def _by_name(folder: Path) -> Path:
    """A folder that `.` or `..` means, by its name, so that others can be beside it."""
    return folder if folder.name not in ("", "..") else folder.resolve()


def _said(path: Path, manifest: Mapping[str, Any], missing: Sequence[Missing], why: Mapping[str, str], verify: bool) -> Rebuilt:
    """What became of the rows without pixels, and of the hashes where those are proved."""
    whole = {} if why else release.read_manifest(path)
    digest = str((whole or manifest)["digest"])
    count, wrong = prove(path) if verify else (0, [])
    told = tuple(
        {"id": one.id, "source": one.card, "source_key": one.key, "reason": why[one.id]} for one in missing if one.id in why
    )
    same = None if why or not manifest.get("complete") else digest == manifest["complete"]
    if same is False:
        log.warning(
            "every image is that of the first release, and the files around them are not: they were written with %s, these "
            "with other versions", manifest.get("versions"),
        )  # fmt: skip
    restored = len(missing) - len(told)
    return Rebuilt(path, manifest["rows"], len(missing), restored, told, count, tuple(wrong), digest, same, verify)


def prove(folder: Path) -> tuple[int, list[str]]:
    """Every hash of a release: of its files, of the digest over them, and of the bytes of each image; how many images were
    looked at, and what is wrong. Rows without pixels have no bytes to prove, and are counted by `rebuild`."""
    wrong = release.faults(folder)
    count = 0
    for path in sorted((folder / "data").rglob("*.parquet"), key=release.in_order):
        place = path.relative_to(folder).as_posix()
        number = 0
        try:
            for number, row in enumerate(_rows(path, ["id", "sha256", "source_sha256", "image"])):
                data = (row["image"] or {}).get("bytes")
                if data is None:
                    continue
                count += 1
                sha256 = hashlib.sha256(data).hexdigest()
                if sha256 != row["sha256"]:
                    wrong.append(f"{place}, row {number} ({row['id']}): its bytes have not the SHA-256 of its row")
                elif path.parent.name == "native" and sha256 != row["source_sha256"]:
                    wrong.append(f"{place}, row {number} ({row['id']}): these are not the bytes as born")
        except _UNREADABLE as error:
            wrong.append(f"{place}: cannot be read after row {number} ({_first_line(error)}), so its images are not proved")
    return count, wrong


def _rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a shard, a few at a time."""
    with pq.ParquetFile(path) as file:
        known = [name for name in columns or file.schema_arrow.names if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=_AT_ONCE, columns=known):
            yield from batch.to_pylist()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _missing(folder: Path) -> list[Missing]:
    """The rows without pixels, each hint looked at. Raises `BuildError` for a shard that cannot be read, or tells no sense."""
    found: dict[str, Missing] = {}
    for path in [path for view in release.VIEWS for paths in release.shards(folder, view).values() for path in paths]:
        try:
            if FETCH not in pq.read_schema(path).names:
                continue
            for row in _rows(path, ["id", "source_sha256", FETCH]):
                if row[FETCH] is not None:
                    if not _DIGEST.fullmatch(str(row["source_sha256"])):
                        raise BuildError(f"{path}: '{row['source_sha256']}' of {row['id']} is no SHA-256: take an intact copy")
                    hint = restoring.hint_of(row["id"], row[FETCH], path)
                    found[row["id"]] = Missing(row["id"], row["source_sha256"], hint)
        except _UNREADABLE as error:
            raise BuildError(f"{path} is damaged ({_first_line(error)}): take an intact copy") from None
    return [found[name] for name in sorted(found)]


# --- writing ----------------------------------------------------------------------------------------------------------


def _data(
    folder: Path, partial: Path, manifest: Mapping[str, Any], shelf: Shelf, map: OrderedMap
) -> dict[str, dict[str, object]]:
    """The shards with all pixels: those that lacked none linked, the others written again. Raises `BuildError` where a rendered
    image is not the one that was published."""
    known: dict[str, dict[str, object]] = {}
    unfinished = set(_unfinished(folder, partial))
    for view in release.VIEWS:
        for paths in release.shards(folder, view).values():
            for path in paths:
                place = path.relative_to(folder).as_posix()
                if path in unfinished:
                    known[place] = _written(path, partial / place, view, shelf, map)
                elif not (partial / place).is_file():
                    (partial / place).parent.mkdir(parents=True, exist_ok=True)
                    link(path, partial / place)
                    known[place] = dict(manifest["files"][place])
    return known


def _unfinished(folder: Path, partial: Path) -> list[Path]:
    """The shards with rows without pixels that are not written yet with them."""
    paths = [path for view in release.VIEWS for some in release.shards(folder, view).values() for path in some]
    return [path for path in paths if not (partial / path.relative_to(folder)).is_file() and _lacks(path)]


def _lacks(path: Path) -> bool:
    """Whether a shard has rows without pixels."""
    return FETCH in pq.read_schema(path).names and any(row[FETCH] is not None for row in _rows(path, [FETCH]))


def _written(path: Path, there: Path, view: str, shelf: Shelf, map: OrderedMap) -> dict[str, object]:
    tasks = (
        (shelf.path(row["source_sha256"]), view, row[FETCH]) for row in _rows(path, ["source_sha256", FETCH]) if row[FETCH]
    )
    made = iter(map(_made, tasks))
    with ShardWriter(there, release.schema_of(release.features_of(path))) as writer:
        for row in _rows(path):
            if row[FETCH] is None:
                image = (row["image"]["bytes"], row["image"]["path"])
            else:
                data, codec = next(made)
                sha256 = hashlib.sha256(data).hexdigest()
                if sha256 != row["sha256"]:
                    raise BuildError(
                        f"{row['id']} in '{view}': {f'its SHA-256 is {sha256} now' if data else codec}, and not "
                        f"{row['sha256']}; render it with the versions that {release.MANIFEST} names"
                    )
                image = (data, release.image_path(row["id"], codec))
            writer.add(row | {"image": image, FETCH: None})
        return writer.commit()


def _made(task: tuple[Path, str, str]) -> tuple[bytes, str]:
    """The bytes of one row and their codec, or no bytes and what is wrong. At the top of the module, for other processes."""
    path, view, told = task
    data = path.read_bytes()
    try:
        if view == "equalized":
            data = images.render(data, view_of(json.loads(told)["view"]))
        return data, images.measure(data).codec
    except BadImage as error:
        return b"", f"it cannot be rendered ({error})"


def _rest(folder: Path, partial: Path) -> None:
    """Everything that is no data as it is; what tells of the data is written anew."""
    for place in sorted(release.listing(folder)):
        there = partial / place
        if not place.startswith("data/") and not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / place, there)


def _finish(partial: Path, out: Path, manifest: Mapping[str, Any], known: Mapping[str, Mapping[str, object]]) -> None:
    """The texts that follow from the data, the manifest, and the folder in its place."""
    told = {key: value for key, value in manifest.items() if key not in ("complete", "files")}
    bound = rightstable.counted(partial, str(manifest["order"][0]))["must_not_travel"]
    told |= {"withheld": 0, "rebuilt_from": manifest["digest"], "must_not_travel": bound}
    if (partial / metadatatable.FOLDER).is_dir():
        metadatatable.write(partial, str(manifest["order"][0]))
    data = release.inventory(partial, {place: facts for place, facts in known.items() if (partial / place).is_file()})
    told |= {"digest": release.digest(data), "files": data}
    facts, texts = cardlint.expected(partial, told, data)
    for name, text in texts.items():
        (partial / name).write_text(text, encoding="utf-8")
    files = release.inventory(partial, {place: found for place, found in data.items() if place.startswith("data/")})
    told |= {"rows": facts.rows, "views": facts.views, "likeness": facts.likeness, "files": files}
    releasefolder.put(partial, out, told, None)
