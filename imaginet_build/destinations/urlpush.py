"""`publish --out` with an address that fsspec knows (s3://, gs://, memory://, …): a release put there file by file, safely.

Such a place cannot be swapped as a whole. So the manifest is taken away first and comes back last: what has a `release.json`
is whole. A note says which files are ours while that lasts, so that a killed call can be made again. Every file is read back
and hashed; one that is there already, byte for byte, does not travel.
"""

from __future__ import annotations

import hashlib
import json
import logging
import posixpath
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from imaginet_build.destinations import pushplan
from imaginet_build.destinations.pushplan import Mine, Theirs
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.releases import release

log = logging.getLogger(__name__)
T = TypeVar("T")

NOTE = "release.unfinished.json"
_BLOCK = 1 << 20
_HOPELESS = (PermissionError, NotImplementedError, TypeError, AttributeError)
"""What a store raises that cannot do what is asked of it."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A release at an address. `sent`: files that travelled, with their bytes; `same`: there already; `deleted`: of the
    release before; `kept`: somebody else's."""

    url: str
    sent: int
    nbytes: int
    same: int
    deleted: tuple[str, ...]
    kept: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What `publish --json` prints of it."""
        return {
            "url": self.url, "sent": self.sent, "nbytes": self.nbytes, "same": self.same,
            "deleted": list(self.deleted), "kept": list(self.kept),
        }  # fmt: skip


def local(out: str) -> Path | None:
    """The folder that an --out means, None where it is an address of another kind. Raises `UsageError` for the folder that
    this program stands in, which nothing can take the place of."""
    found = re.fullmatch(r"(?:file|local)://(/.*)", out)
    if found:
        return Path(found[1])
    if re.match(r"[A-Za-z0-9+._:-]+://", out):
        return None
    if Path.cwd().is_relative_to(Path(out).resolve()):
        raise UsageError(f"--out {out}: a release takes the place of a whole folder, and this one is stood in: name another")
    return Path(out)


def shown(url: str) -> str:
    """An address as it may be read by anybody: without a name, a password or a signature in it."""
    return _unsigned(url.partition("?")[0]).rstrip("/")


class Place:
    """An address below which a release goes. Raises `UsageError` where fsspec knows no such address, or lacks a package."""

    def __init__(self, url: str, *, attempts: int = 5, pause: float = 1.0) -> None:
        import fsspec

        self.shown = shown(url)
        self.attempts, self.pause = attempts, pause
        try:
            self._fs, root = fsspec.url_to_fs(url)
        except ImportError as error:
            raise UsageError(f"--out {self.shown}: {_first_line(error)}") from None
        except ValueError as error:
            raise UsageError(
                f"--out {self.shown}: {_first_line(error)}. Give a folder, or an address that fsspec knows"
            ) from None
        except Exception as error:  # every store raises errors of its own, some where they connect
            raise UsageError(
                f"--out {self.shown}: cannot be opened ({type(error).__name__}: {_first_line(error)}). Give the whole address, "
                "of a store that answers"
            ) from None
        self._root = str(root).rstrip("/")

    def put(self, folder: Path, overwrite: bool = False) -> Placed:
        """Bring the release in `folder` there.

        Raises `UsageError` before anything is sent where somebody else's files are in the way (`overwrite`: they are
        replaced, or deleted where they would be loaded as part of the release), and `BuildError` where a file cannot be
        written, or is another one when it is read back.
        """
        mine = pushplan.whole(folder)
        there = self._listing()
        note = pushplan.listed_in(self._read(NOTE)) if NOTE in there else None
        theirs, ours = self._look({path: size for path, size in there.items() if path != NOTE}, mine, note or {})
        plan = pushplan.compare(mine, theirs, ours, self._read, overwrite)
        if plan.blocked:
            raise UsageError(pushplan.in_the_way(self.shown, plan))
        for path in plan.kept:
            log.info("%s: %s is not of a release and stays as it is", self.shown, path)
        if plan.send or plan.delete:
            listed = {p: {"sha256": f.sha256, "nbytes": f.nbytes} for p, f in mine.items()}
            known = json.dumps({"files": (ours or {}) | {p: {"sha256": "", "nbytes": 0} for p in plan.delete} | listed})
            self._ask(f"writing {NOTE}", lambda: self._note(known.encode()))
            if release.MANIFEST in there:
                self._delete(release.MANIFEST)
            for number, path in enumerate(sorted({*plan.send, release.MANIFEST} - {release.MANIFEST}), 1):
                self._send(folder, path, mine[path])
                log.info("%s: %d of %d files: %s", self.shown, number, len(plan.send), path)
            for path in plan.delete:
                log.info("%s: %s, of the release before, is deleted", self.shown, path)
                self._delete(path)
            self._send(folder, release.MANIFEST, mine[release.MANIFEST])
        if NOTE in self._listing():
            self._delete(NOTE)
        nbytes = sum(mine[path].nbytes for path in plan.send)
        return Placed(self.shown, len(plan.send), nbytes, len(plan.same), plan.delete, plan.kept)

    def _look(
        self, there: Mapping[str, int], mine: Mapping[str, Mine], note: Mapping[str, Any]
    ) -> tuple[dict[str, Theirs], dict[str, dict[str, Any]] | None]:
        """What lies there, hashed where it may be a file of a release; and what is ours of it, None where nothing is."""
        old = pushplan.listed_in(self._read(release.MANIFEST)) if release.MANIFEST in there else None
        theirs = {}
        ours = dict(old or {})
        for path, size in there.items():
            known = {mine[path].nbytes} if path in mine else set()
            known |= {ours[path]["nbytes"]} if path in ours else set()
            digest = self._hash(path) if size in known else "of another size"
            theirs[path] = Theirs(size, digest, None)
            if path in note:  # a call that was killed may have left half of it
                ours[path] = {"sha256": digest, "nbytes": size}
        return theirs, ours if old is not None or note else None

    def _listing(self) -> dict[str, int]:
        """Path below the address -> bytes of every file there."""

        def look() -> dict[str, int]:
            self._fs.invalidate_cache()
            if not self._fs.exists(self._root):
                return {}
            found = self._fs.find(self._root, detail=True)
            return {self._below(p): int(f["size"]) for p, f in found.items() if f["type"] == "file"}

        return self._ask("listing what is there", look)

    def _send(self, folder: Path, path: str, mine: Mine) -> None:
        def put() -> None:
            self._fs.makedirs(posixpath.dirname(self._at(path)), exist_ok=True)
            self._fs.put_file(str(folder / path), self._at(path))
            if self._sha256(path) != mine.sha256:
                raise OSError("it is another file when it is read back")

        self._ask(f"writing {path}", put)

    def _hash(self, path: str) -> str:
        return self._ask(f"reading {path}", lambda: self._sha256(path))

    def _sha256(self, path: str) -> str:
        state = hashlib.sha256()
        with self._fs.open(self._at(path), "rb") as file:
            while block := file.read(_BLOCK):
                state.update(block)
        return state.hexdigest()

    def _read(self, path: str) -> bytes:
        return self._ask(f"reading {path}", lambda: bytes(self._fs.cat_file(self._at(path))))

    def _delete(self, path: str) -> None:
        def remove() -> None:
            if self._fs.exists(self._at(path)):
                self._fs.rm_file(self._at(path))

        self._ask(f"deleting {path}", remove)

    def _note(self, data: bytes) -> None:
        self._fs.makedirs(self._root, exist_ok=True)
        self._fs.pipe_file(self._at(NOTE), data)

    def _below(self, there: str) -> str:
        return posixpath.relpath("/" + there.lstrip("/"), "/" + self._root.lstrip("/"))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        """`call`, again and again as long as it fails."""
        for attempt in range(self.attempts):
            try:
                return call()
            except Exception as error:  # every store raises errors of its own
                if isinstance(error, BuildError):
                    raise
                reason = f"{self.shown}: {what}: {type(error).__name__}: {_first_line(error)}"
                if isinstance(error, _HOPELESS):
                    raise BuildError(f"{reason}. This store refuses what publishing needs: choose another --out") from None
                if attempt + 1 == self.attempts:
                    raise BuildError(
                        f"{reason}. What was sent is kept, and the same command goes on; as long as there is no "
                        f"{release.MANIFEST}, it is no release"
                    ) from None
                log.info("%s; trying again", reason)
                time.sleep(self.pause * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _unsigned(re.sub(r"(\w+://[^\s'\"?]+)\?[^\s'\"]*", r"\1", lines[0]))[:300]


def _unsigned(text: str) -> str:
    """Addresses without the name and the password in them."""
    return re.sub(r"//[^\s/@]*@", "//", text)
