"""Images as a person names them, files, folders and URLs, as bytes in that order."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaginet_build import catalog
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import EXTENSIONS, Found, Refusal, Want

MAX_BYTES = 256 * 2**20
"""A larger file is no image that anybody looks at."""
_TOGETHER = 8
_LIST = "urls.jsonl"
_SUFFIXES = frozenset(f".{name}" for name in EXTENSIONS)


@dataclass(frozen=True, slots=True)
class Given:
    """One image as it was named, and its bytes; None where it could not be read, and `error` says why."""

    name: str
    data: bytes | None = None
    error: str = ""


def given(paths: Sequence[Path | str], allow_loopback: Sequence[str] = ()) -> Iterator[Given]:
    """Every image of `paths`, one at a time; folders are walked for image files, sorted.

    Raises `UsageError` before anything is read where a path does not exist or a folder has no images, `MissingExtra` where a
    URL needs the extra `urls`. `allow_loopback`: places on this machine that a URL may lead to all the same (`127.0.0.1:8000`).
    """
    places = [place for path in paths for place in _places(path)]
    remote = list(dict.fromkeys(place for place in places if isinstance(place, str)))
    fetched = _fetched(remote, allow_loopback) if remote else iter(())
    return _read(places, fetched)


def _places(path: Path | str) -> list[Path | str]:
    if str(path).lower().startswith(("http://", "https://")):
        return [str(path)]
    here = Path(path)
    if here.is_dir():
        found = sorted(p for p in here.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
        if not found:
            raise UsageError(f"{here} holds no image files ({', '.join(sorted(s[1:] for s in _SUFFIXES))})")
        return list(found)
    if not here.exists():
        raise UsageError(f"{here} does not exist; name image files, folders of them, or http(s) addresses")
    return [here]


def _read(places: Sequence[Path | str], fetched: Iterator[Given]) -> Iterator[Given]:
    left = Counter(place for place in places if isinstance(place, str))
    seen: dict[str, Given] = {}
    for place in places:
        if isinstance(place, Path):
            yield _file(place)
            continue
        # Fetched once, and held only as long as it is named again.
        found = seen.pop(place) if place in seen else next(fetched)
        left[place] -= 1
        if left[place]:
            seen[place] = found
        yield found


def _file(path: Path) -> Given:
    try:
        if not path.is_file():
            return Given(str(path), error="not a file: a device or a pipe")
        if (size := path.stat().st_size) > MAX_BYTES:
            return Given(str(path), error=f"too-large: {size:,} bytes, more than {MAX_BYTES:,}")
        return Given(str(path), path.read_bytes())
    except OSError as error:
        return Given(str(path), error=f"{error.strerror or error}")


def _fetched(urls: Sequence[str], allow_loopback: Sequence[str]) -> Iterator[Given]:
    """One answer a URL, in order, by the collector of URL lists: it knows how to meet a hostile server, and connects to the
    public network alone. A few are fetched at a time, and no more than those held."""
    # robots.txt and tags against machine learning speak of crawlers and of collecting; here a person looks at one picture.
    options: dict[str, Any] = {"robots": False, "opt_outs": (), "attempts": 2, "allow_loopback": tuple(allow_loopback)}
    for start in range(0, len(urls), _TOGETHER):
        some = urls[start : start + _TOGETHER]
        # What could not be reached comes later than its turn: each is known by its key.
        keys = [f"url {start + k}" for k in range(len(some))]
        answers: dict[str, Given] = {}
        why = "it cannot be fetched"
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / _LIST
            lines = [json.dumps({"url": url, "key": key}) for url, key in zip(some, keys, strict=True)]
            rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
            # A list must say what its images are; nothing is done with the answer.
            collector = catalog.build(catalog.card("sources", "urls"), root=str(rows), origin="real", **options)
            try:
                for answer in collector.find(Want("urls", None, 0)):
                    data, said = (answer.data, "") if isinstance(answer, Found) else (None, _said(answer))
                    answers[answer.source_key or ""] = Given("", data, said)
            except BuildError as error:
                # The collector's sentence is about a list of thousands; what it met stands in brackets.
                met = re.search(r"\((.+?)\)", str(error))
                why = f"not reached: {met[1]}" if met else str(error)
        for url, key in zip(some, keys, strict=True):
            found = answers.pop(key, Given("", error=why))
            yield Given(url, found.data, found.error)


def _said(refusal: Refusal) -> str:
    return f"{refusal.reason}: {re.sub(rf'{re.escape(_LIST)}#[0-9]+:? ', '', refusal.detail)}"
