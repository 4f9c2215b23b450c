"""Where the pixels that a release may not hold are had again: a work folder, a place given by hand, or their own source.

What counts is the SHA-256 of the bytes as born, whatever a file is called by now. Bytes that are found are kept under that name
until the release is whole, so that nothing is fetched twice.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from imaginet_build import cards, catalog, images
from imaginet_build.collecting.entries import PLACES
from imaginet_build.errors import BuildError, UsageError, suggest
from imaginet_build.records import Found, Want
from imaginet_build.store import Store, StoreError, written

Places = Mapping[str, Sequence[Path]]
"""Card name -> where its images lie: work folders, folders of files, or what the card's collector takes as its `root`."""

_NO_REVISION = frozenset({cards.UNRESOLVED, "bundled", "local", "listed", "installed"})


@dataclass(frozen=True, slots=True)
class Missing:
    """One image without pixels: how it is to be had (`rights.hint`)."""

    id: str
    sha256: str
    hint: Mapping[str, Any]

    @property
    def card(self) -> str:
        """The card it came by."""
        return str(self.hint["card"])

    @property
    def key(self) -> str:
        """Its name in its source, '' for what was generated."""
        return str(self.hint.get("source_key") or "")


def hint_of(name: str, told: str, path: Path) -> dict[str, Any]:
    """The hint in a row of the shard at `path`. Raises `BuildError` where it is none, or no image can be made by it."""
    try:
        hint = json.loads(told)
        wrong = [key for key, fits in _HINT.items() if not fits(hint.get(key))]
        if not wrong:
            wrong = [f"view.{key}" for key, fits in _VIEW.items() if not fits(hint["view"].get(key))]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        wrong = [str(error) or type(error).__name__]
    if wrong:
        raise BuildError(f"{path}: the cell 'fetch' of {name} is no hint ({', '.join(wrong)}): take an intact copy")
    return cast(dict[str, Any], hint)


def _count(value: object) -> bool:
    return type(value) is int and value >= 0


def _number(value: object) -> bool:
    return value is None or type(value) is int


def _text(value: object) -> bool:
    return value is None or isinstance(value, str)


_HINT: Mapping[str, Callable[[Any], bool]] = {
    "kind": ("source", "generator").__contains__,
    "card": lambda value: isinstance(value, str) and bool(value),
    "nbytes": _count,
    "view": lambda value: isinstance(value, dict),
    "options": lambda value: value is None or isinstance(value, dict),
    "seed": _number,
    **dict.fromkeys(("category", "revision", "source_key", "by_hand"), _text),
}
"""What a hint says (`rights.hint`), and whether a value can be that."""

_VIEW: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("left", "top", "width", "height", "quality"), _count),
    "codec": images.CODECS.__contains__,
    **dict.fromkeys(("subsampling", "first_subsampling"), (None, "", *images.SUBSAMPLINGS).__contains__),
    "first_quality": _number,
}
"""The same of its `view` (`records.View`)."""


class Others(frozenset[str]):
    """Every key but some: what a collector need not fetch where only these are wanted."""

    wanted: frozenset[str]

    def __new__(cls, wanted: frozenset[str]) -> Others:
        """All but `wanted`."""
        made = super().__new__(cls)
        made.wanted = wanted
        return made

    def __contains__(self, key: object) -> bool:
        return key not in self.wanted


@dataclass(frozen=True, slots=True)
class Shelf:
    """The bytes that were found, each in a file named by its SHA-256."""

    folder: Path

    def path(self, sha256: str) -> Path:
        """Where these bytes lie, or are to lie."""
        return self.folder / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether they are here."""
        return self.path(sha256).is_file()

    def put(self, sha256: str, data: bytes) -> None:
        """Keep bytes whose SHA-256 this is."""
        with written(self.path(sha256)) as temporary:
            temporary.write_bytes(data)


def check(missing: Sequence[Missing], places: Places) -> None:
    """Raises `UsageError` for a place given by hand that is not there, or whose name no missing image came by."""
    names = sorted({one.card for one in missing})
    for name, given in places.items():
        if name not in names and missing:
            near = suggest(name, names) or "."
            raise UsageError(f"--source {name}: no image without pixels came by it{near} They came by {', '.join(names)}")
        if absent := [place for place in given if not place.exists()]:
            raise UsageError(f"--source {name}={absent[0]}: there is no such file or folder")


def restore(missing: Sequence[Missing], places: Places, shelf: Shelf, trust: bool = False) -> dict[str, str]:
    """Put on the shelf whatever can be had; id -> why not, for the others."""
    why: dict[str, str] = {}
    for name in sorted({one.card for one in missing}):
        given: list[Path | None] = [*places.get(name, ())]
        for place in given or [None]:
            ours = [one for one in missing if one.card == name and not shelf.has(one.sha256)]
            if ours and place is not None and (place / "parts").is_dir():
                _from_work(Store(place), ours, shelf)
            elif ours:
                _by_collectors(name, ours, place, shelf, trust, why)
                if place is not None and place.is_dir():
                    _from_files(place, ours, shelf)
    left = [one for one in missing if not shelf.has(one.sha256)]
    return {one.id: why.get(one.id) or _advice(one, places) for one in left}


def _advice(one: Missing, places: Places) -> str:
    if one.card in places:
        return f"nothing in {', '.join(map(str, places[one.card]))} has its bytes"
    if one.hint["kind"] == "generator":
        return f"it was drawn by {one.card}: give a folder that holds it, --source {one.card}=PATH"
    by_hand = one.hint.get("by_hand")
    return f"say where it lies: --source {one.card}=PATH{f' ({by_hand})' if by_hand else ''}"


def _from_work(store: Store, missing: Sequence[Missing], shelf: Shelf) -> None:
    wanted = {one.sha256 for one in missing}
    rows = store.facts(["sha256"]).to_pylist()
    ids = {row["id"]: row["sha256"] for row in rows if row["sha256"] in wanted}
    for _, data in store.images(store.in_part_order(ids)):
        _keep(data, wanted, shelf)


def _from_files(folder: Path, missing: Sequence[Missing], shelf: Shelf) -> None:
    """Any file of the right length and bytes, whatever its name."""
    wanted = {one.sha256 for one in missing if not shelf.has(one.sha256)}
    sizes = {int(one.hint["nbytes"]) for one in missing if one.sha256 in wanted}
    for path in sorted(folder.rglob("*")) if wanted else []:
        if path.is_file() and path.stat().st_size in sizes:
            _keep(path.read_bytes(), wanted, shelf)


def _keep(data: bytes, wanted: set[str], shelf: Shelf) -> bool:
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 in wanted and not shelf.has(sha256):
        shelf.put(sha256, data)
    return sha256 in wanted


def _by_collectors(
    name: str, missing: Sequence[Missing], place: Path | None, shelf: Shelf, trust: bool, why: dict[str, str]
) -> None:
    """Through the card's own collector, once for each set of options that images came by."""
    groups: dict[str, list[Missing]] = defaultdict(list)
    for one in missing:
        if one.key:
            alike = {key: one.hint.get(key) for key in ("options", "category", "seed", "revision")}
            groups[json.dumps(alike, sort_keys=True)].append(one)
    for how, group in groups.items():
        try:
            _collect(name, json.loads(how), group, place, shelf, trust, why)
        except StoreError:
            raise
        except UsageError as error:
            if place is None or not place.is_dir():  # its files are looked at next
                said = "; ".join(str(error).splitlines())
                why |= {one.id: said for one in group}
        except Exception as error:
            # The boundary to any adapter and its vendor: it ends this source, never the others.
            why |= {one.id: f"{name} broke off: {error or type(error).__name__}; run again to go on" for one in group}


def _collect(
    name: str, how: Mapping[str, Any], group: Sequence[Missing], place: Path | None, shelf: Shelf, trust: bool,
    why: dict[str, str],
) -> None:  # fmt: skip
    card = catalog.card("sources", name)
    keys: dict[str, list[Missing]] = defaultdict(list)
    for one in group:
        keys[one.key].append(one)
    revision = None if place is not None or how["revision"] in _NO_REVISION else how["revision"]
    with tempfile.TemporaryDirectory() as scratch:
        # A hint is somebody else's word: it may say which images, never how to go about it, such as which hosts to trust.
        aside = PLACES | getattr(catalog.adapter(card, trust=trust), "HOW", frozenset[str]())
        options = {key: value for key, value in (how["options"] or {}).items() if key not in aside}
        root = place or _list_of(card, sorted(keys), options, Path(scratch), trust)
        known = inspect.signature(catalog.adapter(card, trust=trust)).parameters
        if root is None and "root" not in {**card.options, **options} and "root" in known and "dataset" not in options:
            return  # only whoever asks knows where it lies
        collector = catalog.build(card, trust=trust, revision=revision, **options, **({"root": str(root)} if root else {}))
        want = Want(name, how["category"], int(how["seed"] or 0), Others(frozenset(keys)))
        left = set(keys)
        for answer in collector.find(want):
            if answer.source_key not in left:
                continue
            left.discard(answer.source_key)
            ours = keys[answer.source_key]
            if not isinstance(answer, Found):
                why |= {one.id: f"{answer.reason}: {answer.detail}" for one in ours}
            elif not _keep(answer.data, {one.sha256 for one in ours}, shelf):
                now = hashlib.sha256(answer.data).hexdigest()
                said = f"{answer.source_key} is no longer what was collected: its SHA-256 is {now}"
                why |= {one.id: said for one in ours}
            if not left:
                break
        why |= {one.id: f"{card.name} has no {key} any more" for key in left for one in keys[key]}


def _list_of(card: cards.Card, keys: Sequence[str], options: dict[str, Any], scratch: Path, trust: bool) -> Path | None:
    """For a collector of addresses: a list of those that are wanted, where each is its image's name."""
    known = inspect.signature(catalog.adapter(card, trust=trust)).parameters
    if "url_column" not in known or not all("://" in key for key in keys):
        return None
    listed = scratch / "urls.txt"
    listed.write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
    columns = {name for name in options if name.endswith("_column")} | {"key", "caption", "group", "stratum", "date"}
    for name in (columns | {"sha256", "md5", "etag"}) & options.keys():
        del options[name]
    # It decides nothing here, and the collector asks for it.
    options["origin"] = options.get("origin") or card.origin or "real"
    return listed
