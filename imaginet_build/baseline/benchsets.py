"""What a detector is judged on: a release, or other people's test sets as they lie on a disk.

Known by their shape: GenImage (`<generator>/val/{ai,nature}`), ForenSynths of CNNDetection (`<generator>[/<class>]/{0_real,
1_fake}`), Synthbuster (a folder a generator, no real images in it), any folder with real and synthetic (or fake) in it, and
lists of images: those of the ImagiNet paper, of the Corvi and Practical test sets, or any with a header. A real image is held
against the generator it was published beside; where all share one set of real images, against that.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from imaginet_build import cards
from imaginet_build.auditing.facts import inside, walk
from imaginet_build.auditing.lists import DIGITS, ORIGIN_WORDS, read_list
from imaginet_build.baseline.data import Rows, splits
from imaginet_build.errors import BadImage, UsageError, suggest
from imaginet_build.records import ORIGINS, Refusal

log = logging.getLogger(__name__)

SYNTHBUSTER = frozenset(
    {
        "dalle2",
        "dalle3",
        "firefly",
        "glide",
        "midjourney-v5",
        "stable-diffusion-1-3",
        "stable-diffusion-1-4",
        "stable-diffusion-2",
    }
    | {"stable-diffusion-xl"}
)
CORVI = {
    "biggan": "BigGAN", "dalle_2": "DALL·E 2", "dalle-mini": "DALL·E mini", "eg3d": "EG3D", "glide": "GLIDE",
    "guided-diffusion": "ADM", "latent-diffusion": "Latent Diffusion", "progan": "ProGAN",
    "stable_diffusion": "Stable Diffusion", "stylegan2": "StyleGAN2", "stylegan3": "StyleGAN3",
    "taming-transformers": "Taming Transformers",
}  # fmt: skip
"""The twelve generators of the Corvi test set by how the names of their folders begin."""

_SPLIT_NAMES = ("train", "val", "validation", "test")
_ROW = re.compile(r"(?P<path>.+?)[, \t](?P<digits>\d(?:,\d)*)\s*$")
_PRACTICAL = re.compile(r"Test_(?P<generator>.+?)_num\d+", re.IGNORECASE)
_LISTS = frozenset({".txt", ".csv", ".tsv"})
SHAPES = (
    "a release, a folder with index.csv, or with real and synthetic (or fake) in it, GenImage, ForenSynths, Synthbuster (with "
    "--real DIR), a list of images (.txt, .csv), a folder of such lists, or a data set of the Hub (owner/name)"
)


@dataclass(frozen=True)
class Bench:
    """A test. `layout`: what kind of set it was taken for; `release`: the folder of a release, which may hold a robustness set;
    `lost`: what is listed and cannot be had, by name; `revision`: the commit of a data set of the Hub."""

    rows: Rows
    layout: str
    calibration: Rows | None = None
    train: Rows | None = None
    release: Path | None = None
    lost: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class _Image:
    """One image of a set: its name, its file, its label, who made it, and with which others it is compared."""

    name: str
    path: Path
    label: int
    generator: str
    beside: str = "all"
    family: str | None = None
    group: str = ""


def opened(
    on: Path, view: str = "equalized", real: Path | None = None, images: Path | None = None, within: Path | None = None
) -> Bench:
    """The test at `on`. `real`: the real images of a set that brings none; `images`: the folder that a list's names start in,
    its own without it; `within`: the folder that links may lead to, `on` itself without it. Raises `UsageError` for what is
    none of `SHAPES`."""
    if on.is_file():
        if on.suffix.lower() not in _LISTS:
            raise UsageError(f"{on} is no test set; it takes {SHAPES}")
        return _listed([on], images or on.parent, within)
    if not on.is_dir():
        near = suggest(on.name, [p.name for p in on.parent.iterdir()]) if on.parent.is_dir() else ""
        raise UsageError(f"no file or folder {on}{near}; a test is {SHAPES}")
    if (on / "release.json").is_file() or any((on / "data" / view).glob("*.parquet")):
        if real is not None:
            raise UsageError(f"{on} is a release, which has real images of its own: leave --real {real} out")
        return of_release(on, view)
    if real is not None:
        return of_pair(real, on, "Synthbuster" if _is_synthbuster(on) else "folder pair")
    if (on / "index.csv").is_file():
        return _listed([on / "index.csv"], images or on, within)
    if found := _halves(on):
        return _bench(on, _layout(found), _of_halves(on, found, within))
    if _is_synthbuster(on):
        raise UsageError(
            f"{on} looks like Synthbuster, which brings no real images; name them (its paper takes RAISE-1k): --real DIR"
        )
    if lists := sorted(p for p in on.iterdir() if p.suffix.lower() in _LISTS and p.is_file()):
        return _listed(lists, images or on, within)
    raise UsageError(f"{on} is no test set; it takes {SHAPES}")


def of_release(folder: Path, view: str) -> Bench:
    """The splits of a release. Raises `UsageError` where it has no test split."""
    found = splits(folder, view)
    if "test" not in found:
        raise UsageError(f"{folder} has no test split; balance with more images or other splits")
    return Bench(found["test"], "release", found.get("calibration"), found.get("train"), folder)


def of_pair(real: Path, fake: Path, layout: str = "folder pair") -> Bench:
    """Two plain folders: the folder directly below `fake` names the generator, one group a file."""
    for folder in (real, fake):
        if not folder.is_dir():
            raise UsageError(f"no such folder: {folder}{suggest(folder.name, [p.name for p in _siblings(folder)])}")
    made = [_Image(f"{real.name}/{key}", path, 0, "real") for key, path in _images(real)]
    for key, path in _images(fake):
        made.append(_Image(f"{fake.name}/{key}", path, 1, key.split("/")[0] if "/" in key else fake.resolve().name))
    return _bench(fake, layout, made, f"{real.name} against {fake.name}")


def calibration_of(place: Path, images: Path | None = None) -> Rows:
    """The images of a list or a folder that only serve to set the threshold; a release's calibration split. Raises `UsageError`
    where there is none."""
    bench = opened(place, images=images)
    if bench.release is not None and bench.calibration is None:
        raise UsageError(f"{place} has no calibration split; give a list or a folder of real and synthetic images")
    return bench.calibration if bench.calibration is not None else bench.rows


def _siblings(folder: Path) -> list[Path]:
    return sorted(folder.parent.iterdir()) if folder.parent.is_dir() else []


def _images(root: Path, within: Path | None = None) -> Iterator[tuple[str, Path]]:
    """Every image by name below a folder; links that lead out of it, or out of `within`, are left out."""
    found = ((key, _reached(root, key, within) if isinstance(path, Refusal) else path) for key, path in walk(root))
    return ((key, path) for key, path in found if isinstance(path, Path))


def _reached(root: Path, key: str, within: Path | None) -> Path | Refusal:
    """The file `key` below `root`; the Hub's cache holds links, to files beside the folder."""
    found = inside(root, key)
    if within is None or isinstance(found, Path):
        return found
    real = (root / key).resolve()
    return real if real.is_relative_to(within.resolve()) and real.is_file() else found


def _is_synthbuster(on: Path) -> bool:
    return len(SYNTHBUSTER & {p.name.lower() for p in on.iterdir() if p.is_dir()}) >= 3


def _halves(root: Path) -> list[tuple[Path, dict[str, Path]]]:
    """Every folder (`root` itself too) with both classes directly below it: the folder, and its `real` and `synthetic`."""
    found = []
    places = [root]
    for place in places:
        below = sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
        halves = {ORIGIN_WORDS[p.name.lower()]: p for p in below if p.name.lower() in ORIGIN_WORDS}
        if len(halves) == 2:
            found.append((place, halves))
        elif len(place.relative_to(root).parts) < 4:  # <generator>/<its folder>/val/{ai,nature} is the deepest there is
            places += below
    tests = [one for one in found if _split_of(one[0], root) not in ("train", None)]
    if tests and len(tests) < len(found):
        log.info("%s holds other splits beside the one for tests: they are left alone", root)
        return tests
    return found


def _split_of(place: Path, root: Path) -> str | None:
    parts = [p.lower() for p in (root.resolve().name, *place.relative_to(root).parts)]
    return next((p for p in reversed(parts) if p in _SPLIT_NAMES), None)


def _layout(found: Sequence[tuple[Path, Mapping[str, Path]]]) -> str:
    names = {tuple(sorted(p.name.lower() for p in halves.values())) for _, halves in found}
    return {"ai nature": "GenImage", "0_real 1_fake": "ForenSynths"}.get(" ".join(*names) if len(names) == 1 else "", "folders")


def _of_halves(root: Path, found: Sequence[tuple[Path, Mapping[str, Path]]], within: Path | None) -> Iterator[_Image]:
    for place, halves in found:
        inner = [p for p in place.relative_to(root).parts if p.lower() not in _SPLIT_NAMES]
        named = next((p for p in (root.resolve(), *root.resolve().parents) if p.name.lower() not in _SPLIT_NAMES), root).name
        alone = not inner and _layout(found) == "folders"
        owner = inner[0] if inner else named
        for origin, folder in halves.items():
            for key, path in _images(folder, within):
                below = key.split("/")[0] if alone and "/" in key else None
                maker = (below or (folder.name if alone else owner)) if origin == "synthetic" else "real"
                name = (folder.relative_to(root) / key).as_posix()
                yield _Image(name, path, ORIGINS.index(origin), maker, "all" if alone else owner)


def _listed(lists: Sequence[Path], images: Path, within: Path | None = None) -> Bench:
    """Lists of images: `path,origin[,content_type,family,generator]` in digits or with a header, `path,label`, `path label`."""
    if not images.is_dir():
        raise UsageError(f"--images {images}: no such folder; give the one that the names in {lists[0].name} start in")
    made: list[_Image] = []
    lost: dict[str, str] = {}
    kinds, named = set(), set[str]()
    for one in lists:
        kind, rows = _rows_of(one)
        kinds.add(kind)
        for row in rows:
            path = _reached(images, row.name, within)
            label = f"{one.stem}/{row.name}" if len(lists) > 1 else row.name
            if label in named:
                lost[f"{label} (again)"] = "listed-twice: the list names it twice"
            elif isinstance(path, Refusal):
                lost[label] = f"{path.reason}: {path.detail}"
            else:
                made.append(replace(row, name=label, path=path, group=row.name))
            named.add(label)
    if not made:
        raise UsageError(
            f"none of the {len(lost)} images of {lists[0].name} is below {images} ({next(iter(lost), 'it names none')}); give "
            "the folder that their names start in: --images DIR"
        )
    if lost:
        log.warning(
            "%d of %d listed images are not below %s, such as %s", len(lost), len(made) + len(lost), images, next(iter(lost))
        )
    title = lists[0].stem if len(lists) == 1 and lists[0].stem != "index" else lists[0].parent.resolve().name
    return replace(_bench(lists[0], kinds.pop() if len(kinds) == 1 else "lists", made, title), lost=lost)


def _rows_of(path: Path) -> tuple[str, list[_Image]]:
    lines = [line for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if line.strip()]
    matches = [_ROW.fullmatch(line) for line in lines]
    rows = [match for match in matches if match]
    if not rows or len(rows) < len(lines):
        return "list", list(_of_table(path))
    names = [(match["path"].strip().removeprefix("./"), match["digits"].split(",")) for match in rows]
    if all(len(digits) == 4 for _, digits in names):
        return "ImagiNet list", [_of_digits(name, digits) for name, digits in names]
    practical = _PRACTICAL.fullmatch(path.stem)
    if practical or any("/fake/" in f"/{name.lower()}" for name, _ in names):
        return "Practical", [_practical(name, int(d[0]), practical["generator"] if practical else "") for name, d in names]
    return "Corvi", [_Image(name, path, int(d[0]), _corvi(name) if int(d[0]) else "real") for name, d in names]


def _of_digits(name: str, digits: Sequence[str]) -> _Image:
    """A row of the ImagiNet paper's lists: origin, content type, family, generator."""
    try:
        origin, kind, family, generator = (DIGITS[c][int(d)] for c, d in zip(DIGITS, digits, strict=True))
    except IndexError:
        raise UsageError(f"{name}: no such label {','.join(digits)} in the lists of the ImagiNet paper") from None
    return _Image(name, Path(), ORIGINS.index(origin), generator, kind, family)


def _practical(name: str, label: int, listed: str) -> _Image:
    """`AIDraw_1122/Fake/<generator>/…` and `…/Real/<artist>/…`; a generator's own list has its own real images."""
    parts = name.split("/")
    made = next((parts[i + 1] for i, part in enumerate(parts[:-2]) if part.lower() == "fake"), listed or "unknown")
    return _Image(name, Path(), label, (listed or made) if label else "real", listed or "all")


def _corvi(name: str) -> str:
    folder = name.partition("/")[0]
    return next((title for begin, title in CORVI.items() if folder.lower().startswith(begin)), folder)


def _of_table(path: Path) -> Iterator[_Image]:
    for row in read_list(path).table.to_pylist():
        made = row["generator"] or "unknown"
        label = ORIGINS.index(row["origin"])
        yield _Image(row["path"], path, label, made if label else "real", row["content_type"] or "all", row["family"])


def _bench(on: Path, layout: str, made: Iterable[_Image], title: str | None = None) -> Bench:
    """Rows of images on a disk, sorted by name. Raises `UsageError` where there are not both classes."""
    named = sorted(made, key=lambda image: image.name)
    if len({image.label for image in named}) < 2:
        raise UsageError(
            f"{on} must hold both real and synthetic images; it has {len(named)} of {'one class' if named else 'none'}"
        )
    taxonomy = cards.taxonomy()
    paths = [image.path for image in named]
    rows = Rows(
        title=title or on.resolve().name,
        ids=tuple(image.name for image in named),
        label=np.array([image.label for image in named], np.int64),
        content_type=tuple(image.beside for image in named),
        family=tuple((image.family or taxonomy.family_of(image.generator)) if image.label else "real" for image in named),
        generator=tuple(image.generator for image in named),
        group=tuple(image.group or image.name for image in named),
        size=np.zeros((len(named), 2), np.int64),
        read=functools.partial(_file, paths),
    )
    return Bench(rows, layout)


def _file(paths: Sequence[Path], row: int) -> bytes:
    """The bytes of one file. Raises `BadImage` where it cannot be read."""
    try:
        return paths[row].read_bytes()
    except OSError as error:
        raise BadImage("unreadable", f"{paths[row]}: {error.strerror or error}") from None
