"""Where archives lie: files, folders, patterns and fsspec URLs, the numbered parts of one archive joined, opened for reading.

A URL is read in place, in blocks. Over HTTP every socket is judged when it is opened (redirects and changed names gain
nothing); for other protocols that name a host, the host is judged before the first connection.
"""

from __future__ import annotations

import io
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from imaginet_build.collectors.addresses import Addresses
from imaginet_build.collectors.members import ARCHIVES, Broken, BrokeOff
from imaginet_build.errors import MissingExtra, UsageError, suggest

_PART = re.compile(r"(?P<whole>.+)\.(?P<number>\d{3,})")
_PATTERN = re.compile(r"[*?\[]")
_HOSTLESS = frozenset(
    {"memory", "local", "file", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "adl", "az", "oci", "oss", "obs", "hf"}
)
"""Protocols whose URL names no host to connect to, or one that only the user's own configuration can choose."""
_SECONDS = 60.0
_HOW_TO_NAME = (
    'Name the file, folder, pattern or URL in the recipe\'s entry: options = { root = "PLACE" }. '
    "What a source needs to be fetched by hand, and how: build-imaginet collect --list"
)
_NOT_FETCHED = "where nothing is fetched"


@dataclass(frozen=True, slots=True)
class Volume:
    """One archive: its name within its source, and the files (several where it is cut into parts) that are it."""

    name: str
    parts: tuple[str, ...]
    missing: str | None = None


class Places:
    """The archives at `root`: a file, a folder, a pattern such as `data/*.tar`, an fsspec URL of any of them, or several.

    `loopback`: places of this machine, as `127.0.0.1:8000`, that may be connected to all the same.
    """

    def __init__(self, root: str | Sequence[str], loopback: Sequence[str] = ()) -> None:
        self.roots = [root] if isinstance(root, str) else list(root)
        self.judge = Addresses(loopback)
        self.systems: dict[str, Any] = {}
        if not self.roots:
            raise UsageError("root names no archive: give a file, a folder, a pattern or a URL")
        for one in self.roots:
            if "::" in one:
                raise UsageError(f"root = {one!r}: a chained URL reads one archive inside another; name the outer one alone")

    def volumes(self) -> list[Volume]:
        """Every archive, sorted by name. Raises `UsageError` where there is none, or where two have one name."""
        found = [volume for root in self.roots for volume in self._at(root)]
        names = [volume.name for volume in found]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(
                f"two archives are called {twice[0]}: their images could not be told apart; put them in one folder"
            )
        return sorted(found, key=lambda volume: volume.name)

    def open(self, volume: Volume) -> tuple[BinaryIO, int]:
        """The archive as one seekable file, and its length. Raises `Broken`, or `BrokeOff` where only the transport failed."""
        if volume.missing:
            raise Broken("missing-part", volume.missing)
        files = [self._open(part) for part in volume.parts]
        lengths = [file.seek(0, 2) for file in files]
        for file in files:
            file.seek(0)
        if len(files) == 1:
            return files[0], lengths[0]
        return cast(BinaryIO, io.BufferedReader(_Joined(files, lengths), 2**20)), sum(lengths)

    # --- listing -------------------------------------------------------------------------------------------------------

    def _at(self, root: str) -> list[Volume]:
        if root.startswith(("file://", "local://")):
            root = root.partition("://")[2]
        if "://" in root:
            return self._remote(root)
        path = Path(root)
        if path.is_dir():
            inside = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")]
            return self._whole(root, {name: str(path / name) for name in inside if _is_archive(name)})
        if path.is_file() and not _PART.fullmatch(path.name):
            return [Volume(path.name, (root,))]
        if _PATTERN.search(root):
            base, pattern = _split(root)
            inside = [p.relative_to(base).as_posix() for p in Path(base).glob(pattern) if p.is_file()]
            return self._whole(root, {name: str(Path(base) / name) for name in inside})
        whole = match["whole"] if (match := _PART.fullmatch(path.name)) else path.name
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        parts = {n: str(path.parent / n) for n in beside if (m := _PART.fullmatch(n)) and m["whole"] == whole}
        if not parts:
            raise UsageError(f"no archive {root}{suggest(path.name, beside) or '.'} {_HOW_TO_NAME}")
        return self._whole(root, parts)

    def _remote(self, url: str) -> list[Volume]:
        system, path = self._system(url)
        try:
            if _PATTERN.search(path):
                base = _split(path)[0]
                found = {str(place): str(place) for place in system.glob(path)}
            elif not url.startswith(("http://", "https://")) and system.isdir(path):
                base = path.rstrip("/")
                found = {str(place): str(place) for place in system.find(path) if _is_archive(str(place))}
            else:
                base, found = path.rpartition("/")[0], {path: path}
                if match := _PART.fullmatch(path):
                    found = {str(p): str(p) for p in system.glob(f"{match['whole']}.*") if _PART.fullmatch(str(p))}
        except Exception as error:  # each file system raises what it likes
            raise UsageError(f"{_shown(url)} cannot be listed: {_said(error)}") from None
        protocol = url.partition("://")[0]
        places = {
            place.removeprefix(base).lstrip("/"): place if "://" in place else f"{protocol}://{place.lstrip('/')}"
            for place in found
        }
        return self._whole(_shown(url), places)

    def _whole(self, root: str, places: dict[str, str]) -> list[Volume]:
        """Volumes from names, parts put together."""
        whole: dict[str, dict[int, str]] = {}
        for name in places:
            match = _PART.fullmatch(name)
            whole.setdefault(match["whole"] if match else name, {})[int(match["number"]) if match else 0] = name
        volumes = []
        for name, parts in sorted(whole.items()):
            numbers = sorted(parts)
            gap = next((n for n, m in zip(range(numbers[0], numbers[-1] + 1), numbers, strict=False) if n != m), None)
            gap = 1 if numbers[0] > 1 else gap
            missing = (
                f"its part {gap:03d} is missing; there are {len(numbers)} of up to {numbers[-1]:03d}"
                if gap is not None
                else None
            )
            volumes.append(Volume(name, tuple(places[parts[n]] for n in numbers), missing))
        if not volumes:
            raise UsageError(
                f"no archive in {root}: it may hold tar, tar.gz, zip, 7z and Parquet files, whole or in numbered parts. "
                f"{_HOW_TO_NAME}"
            )
        return volumes

    # --- opening -------------------------------------------------------------------------------------------------------

    def _open(self, place: str) -> BinaryIO:
        try:
            if "://" not in place:
                return Path(place).open("rb", buffering=2**16)
            system, path = self._system(place)
            return cast(BinaryIO, _Fetched(system.open(path, "rb"), _shown(place)))
        except FileNotFoundError as error:
            # fsspec says so of whatever happened to a request; the truth stands behind it.
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(cause, FileNotFoundError):
                raise Broken("missing", f"{_shown(place)} is not there") from error
            raise _broke_off(_shown(place), cause) from error
        except PermissionError as error:
            raise Broken("unreadable", f"{_shown(place)}: {error.strerror or 'it may not be read'}") from error
        except (UsageError, Broken):
            raise
        except Exception as error:
            if "://" in place:
                raise _broke_off(_shown(place), error) from error
            raise Broken("unreadable", f"{place}: {_said(error)}") from error

    def _system(self, url: str) -> tuple[Any, str]:
        """The file system of a URL, and the path as it knows it."""
        import fsspec

        protocol = url.partition("://")[0]
        options: dict[str, Any] = {}
        if protocol in ("http", "https"):
            options = {"get_client": self._session, "skip_instance_cache": True}
        try:
            fsspec.get_filesystem_class(protocol)
            if protocol not in _HOSTLESS and not options:
                self._judged(url)
            system = self.systems.get(protocol) or fsspec.filesystem(protocol, **options)
        except ImportError as error:
            raise MissingExtra(_shown(url), _said(error), "archive") from None
        except ValueError as error:
            raise UsageError(f"{_shown(url)}: {_said(error)}") from None
        self.systems[protocol] = system
        return system, str(system._strip_protocol(url))

    async def _session(self, **options: Any) -> Any:
        """fsspec's HTTP session, each of whose sockets is judged."""
        import aiohttp

        def judged(entry: Any) -> socket.socket:
            family, kind, protocol, _, address = entry
            if why := self.judge.judge(str(address[0]), int(address[1])):
                raise OSError(f"{address[0]} is a {why} address, {_NOT_FETCHED}")
            return socket.socket(family, kind, protocol)

        connector = aiohttp.TCPConnector(socket_factory=judged)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SECONDS, sock_read=_SECONDS)
        return aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False, **options)

    def _judged(self, url: str) -> None:
        """Refuse a host of another protocol that is, or stands for, a place on this machine or its network."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 0
        try:
            found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port)} if host else set()
        except OSError as error:
            raise UsageError(f"{_shown(url)}: {error}") from None
        for address in sorted(found):
            if why := self.judge.judge(address, port):
                said = f"{_shown(url)} leads to {address}, a {why} address, {_NOT_FETCHED}"
                raise UsageError(f"{said}. To mend it: {_remedy(said, None)}")


class _Fetched(io.RawIOBase):
    """A remote file whose every failure is the transport's, so that no archive is called damaged for it."""

    def __init__(self, file: Any, shown: str) -> None:
        super().__init__()
        self.file, self.shown = file, shown

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self.file.read(size))
        except Exception as error:  # each transport raises what it likes
            raise _broke_off(self.shown, error) from error

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, position: int, whence: int = 0) -> int:
        try:
            return int(self.file.seek(position, whence))
        except (ValueError, OSError) as error:
            raise BrokeOff(f"{self.shown}: it cannot be read from a given place ({_said(error)})") from error

    def tell(self) -> int:
        return int(self.file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()


class _Joined(io.RawIOBase):
    """Files behind one another as one."""

    def __init__(self, files: Sequence[BinaryIO], lengths: Sequence[int]) -> None:
        super().__init__()
        self.files, self.lengths = list(files), list(lengths)
        self.at = 0

    def readinto(self, buffer: Any) -> int:
        at = self.at
        for file, length in zip(self.files, self.lengths, strict=True):
            if at < length:
                file.seek(at)
                data = file.read(min(len(buffer), length - at))
                buffer[: len(data)] = data
                self.at += len(data)
                return len(data)
            at -= length
        return 0

    def seek(self, position: int, whence: int = 0) -> int:
        base = (0, self.at, sum(self.lengths))[whence]
        if base + position < 0:
            raise OSError("before the beginning")
        self.at = base + position
        return self.at

    def tell(self) -> int:
        return self.at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        for file in self.files:
            file.close()
        super().close()


def _is_archive(name: str) -> bool:
    match = _PART.fullmatch(name)
    return (match["whole"] if match else name).rpartition(".")[2].lower() in ARCHIVES - {"rar"}


def _split(pattern: str) -> tuple[str, str]:
    """A pattern's fixed folder, and the rest."""
    fixed = _PATTERN.split(pattern, maxsplit=1)[0].rpartition("/")[0]
    return fixed or ("/" if pattern.startswith("/") else "."), pattern[len(fixed) :].lstrip("/")


def _shown(url: str) -> str:
    """A URL as messages show it: no password, no query."""
    if "://" not in url:
        return url
    protocol, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"[:300]


def _broke_off(shown: str, error: BaseException) -> BrokeOff:
    said = _said(error)
    return BrokeOff(f"{shown}: {said}", _remedy(said, getattr(error, "status", None)))


def _remedy(said: str, status: object) -> str:
    """What helps where trying again would not: the URL is wrong, or leads where nothing is fetched."""
    if _NOT_FETCHED in said and "loopback" in said:
        return 'if that is a server of your own, allow it in the recipe\'s entry: options = { allow_loopback = ["HOST:PORT"] }'
    if _NOT_FETCHED in said:
        return "give a public URL, or fetch the archive yourself and give the file as `root`"
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
        return "correct the URL in `root`, or take it out"
    return ""


def _said(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
