"""Images named by a list of URLs: many at a time, politely, from the public network alone, delivered in the list's order.

Bytes stay as delivered. What a list may look like is in `listfiles`, where a request may go in `addresses`, who is left alone
in `optouts`, what becomes of one URL in `fetching`.
"""

from __future__ import annotations

import email.utils
import hashlib
import importlib.util
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field

from imaginet_build import __version__
from imaginet_build.collectors.addresses import Addresses
from imaginet_build.collectors.ahead import Hold, in_order
from imaginet_build.collectors.fetching import OFFLINE, Fetcher, Known, Manners
from imaginet_build.collectors.optouts import AGENT, OPT_OUTS
from imaginet_build.collectors.transport import OVER_BUDGET, Curl, Failure, Limits, Reply, Transport, certificates
from imaginet_build.collectors.urllist import Listed, UrlList
from imaginet_build.errors import BuildError, MissingExtra, UsageError
from imaginet_build.records import Found, Origin, Refusal, Want

log = logging.getLogger(__name__)

MAX_BYTES = 64 * 2**20
"""A larger image is refused, and no more of it is read."""

MEMORY = 256 * 2**20
"""Bytes of images held at a time, under way or waiting for their turn."""

OFFLINE_AFTER = 20
"""So many images in a row that our own network could not reach end the run: nothing is recorded of them."""

_WEB_PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body|script|title|meta)\b", re.IGNORECASE)
_Positive = Annotated[int, Field(ge=1)]
_Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class _Unreached:
    """An image that our own network did not let us ask for."""

    key: str
    host: str
    why: Failure


_Row = Listed | Refusal
_Answer = Found | Refusal | _Unreached


class Urls:
    """The images of a list.

    `root`: the list, or a folder of lists (CSV, TSV, JSON Lines, Parquet, or text with a URL a line). `key`, `caption`,
    `group`, `sha256`, `md5`, `etag`, `stratum`, `date` and those that end in `_column` name columns; without them the usual
    names are looked for (`listfiles.NAMES`), and '' means none. `origin` and `category` say what every image is where no column
    does; `categories` maps a list's words for content types to ours. An image's name is its `key`, else its URL.

    The rest says how: `concurrency` requests at once, `per_host` of them to one host, `timeout` seconds for an answer,
    `attempts` of what may be better next time, `max_bytes` an image, `memory` bytes held in all. `robots`, `opt_outs`: whether
    robots.txt is kept to, and the words of `X-Robots-Tag` that keep an image out; the name to speak to is `imaginet-build`.
    `contact`: an address or page that hosts see beside that name. `last_modified`: take the server's date where the list has
    none. `allow_loopback`: places on this machine that may be connected to all the same, as `127.0.0.1:8000`. `ca_file`:
    certificates to trust in place of the usual ones. Raises `UsageError` for a wrong call, `MissingExtra` without the extra
    `urls`, `BuildError` when the network is gone.
    """

    HOW: ClassVar[frozenset[str]] = frozenset(
        {
            "concurrency", "per_host", "timeout", "attempts", "max_bytes", "memory", "robots", "opt_outs", "contact",
            "last_modified", "allow_loopback", "ca_file",
        }
    )  # fmt: skip
    """Options that change how images are fetched, not which: they are no part of an image's id."""

    def __init__(
        self,
        root: str,
        url_column: str | None = None,
        key: str | None = None,
        caption: str | None = None,
        group: str | None = None,
        sha256: str | None = None,
        md5: str | None = None,
        etag: str | None = None,
        stratum: str | None = None,
        date: str | None = None,
        origin_column: str | None = None,
        category_column: str | None = None,
        generator_column: str | None = None,
        licence_column: str | None = None,
        source_column: str | None = None,
        origin: Origin | None = None,
        category: str | None = None,
        categories: Mapping[str, str] | None = None,
        concurrency: _Positive = 64,
        per_host: _Positive = 8,
        timeout: _Seconds = 60.0,
        attempts: _Positive = 3,
        max_bytes: _Positive = MAX_BYTES,
        memory: _Positive = MEMORY,
        robots: bool = True,
        opt_outs: tuple[str, ...] = OPT_OUTS,
        contact: str | None = None,
        last_modified: bool = False,
        allow_loopback: tuple[str, ...] = (),
        ca_file: str | None = None,
    ) -> None:
        columns = {
            "url": url_column, "key": key, "caption": caption, "group": group, "sha256": sha256, "md5": md5, "etag": etag,
            "stratum": stratum, "date": date, "origin": origin_column, "category": category_column,
            "generator": generator_column, "licence": licence_column, "source": source_column,
        }  # fmt: skip
        self.list = UrlList(root, columns, origin, category, categories)
        if contact is not None and not (contact.isascii() and contact.isprintable()):
            raise UsageError(f"contact = {contact!r}: plain letters only, such as a mail address or a page")
        self.agent = f"{AGENT}/{__version__}" + (f" (+{contact})" if contact else "")
        self.manners = Manners(concurrency, per_host, attempts, robots, frozenset(word.strip().lower() for word in opt_outs))
        self.limits = Limits(
            connect=min(10.0, timeout), total=timeout, stalled=min(15.0, timeout), connections=concurrency, per_host=per_host
        )
        self.max_bytes, self.memory = max_bytes, memory
        self.last_modified, self.ca_file = last_modified, ca_file
        self.allow_loopback = allow_loopback
        self.known = Known()
        # Their faults are to be known before anything begins.
        Addresses(allow_loopback)
        certificates(ca_file)
        for package in ("pycurl", "protego"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtra("a list of URLs", package, "urls")
        self.transport: Callable[[Addresses], Transport] = self._curl
        self.resolve: Callable[[str, int], Sequence[str]] | None = None

    def _curl(self, addresses: Addresses) -> Transport:
        return Curl(addresses, self.agent, self.limits, self.ca_file)

    # --- the collector -------------------------------------------------------------------------------------------------

    def find(self, want: Want) -> Iterator[Found | Refusal]:
        """The images that `want` asks for, in the list's order, whatever arrived first."""

        most = max(4 * self.manners.concurrency, 16)
        wanted = want.count if want.now is None else want.now
        answers = in_order(
            lambda: self.list.rows(want), self._open, most, self.memory, wanted, lambda answer: isinstance(answer, Found)
        )
        return _while_online(answers, self.known)

    def strata(self, want: Want) -> dict[str, int]:
        """How many images the list names in each stratum."""
        return self.list.strata(want)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Callable[[_Row, Hold], Awaitable[_Answer]]]:
        addresses = Addresses(self.allow_loopback, self.resolve)
        fetcher = Fetcher(self.transport(addresses), addresses, self.manners, self.known)

        async def work(row: _Row, hold: Hold) -> _Answer:
            return row if isinstance(row, Refusal) else await self._one(fetcher, row, hold)

        try:
            yield work
        finally:
            await fetcher.close()

    async def _one(self, fetcher: Fetcher, row: Listed, hold: Hold) -> _Answer:
        """One row's image, or why there is none."""
        key = row.found.source_key
        while True:
            try:
                reply = await fetcher.fetch(row.url, self.max_bytes, hold.grow, hold.drop)
                break
            except Failure as failure:
                hold.drop()
                if failure.reason == OVER_BUDGET:
                    await hold.room()
                    continue
                if failure.reason in OFFLINE or failure.reason == "no-such-host":
                    return _Unreached(key, row.url.host, failure.anew())
                return Refusal(failure.reason, failure.detail, key)
        answer = self._judged(row, reply)
        if isinstance(answer, Refusal):
            hold.drop()
        return answer

    def _judged(self, row: Listed, reply: Reply) -> Found | Refusal:
        """The bytes, if they are what the list and the server say they are. Whether they are an image, the decoder decides."""
        key, data = row.found.source_key, reply.body
        coding = reply.header("content-encoding").lower()
        if not data:
            return Refusal("empty", f"{row.url.shown} answers with nothing", key)
        if coding not in ("", "identity"):
            return Refusal("encoded", f"{row.url.shown} comes as {coding[:40]}, which was not asked for", key)
        if _is_web_page(data):
            said = reply.header("content-type")[:80] or "nothing"
            return Refusal("web-page", f"{row.url.shown} serves a web page in the image's place (it says it is {said})", key)
        for name, asked in (("sha256", row.found.sha256), ("md5", row.md5)):
            if asked and hashlib.new(name, data, usedforsecurity=False).hexdigest() != asked.lower():
                return Refusal("checksum", f"{row.url.shown} is not the file that the list describes ({name} differs)", key)
        if row.etag and _entity(reply.header("etag")) != _entity(row.etag):
            return Refusal("etag", f"{row.url.shown} has changed: its ETag is {reply.header('etag')[:80] or 'absent'}", key)
        found = replace(row.found, data=data)
        if self.last_modified and found.date is None:
            found = replace(found, date=_day(reply.header("last-modified")))
        return found


def _is_web_page(data: bytes) -> bool:
    start = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    while start.startswith(b"<!--"):
        start = start.partition(b"-->")[2].lstrip()
    return _WEB_PAGE.match(start) is not None


def _while_online(answers: Iterable[_Answer], known: Known) -> Iterator[Found | Refusal]:
    """The answers. What our own network could not reach is held back until something answers: it is no fault of the images.

    A name that does not exist is such a case too until something was heard, since a machine without a network knows no name at
    all. Raises `BuildError` where nothing answers; what was held back is then not recorded, and asked for again next time.
    """
    held: list[_Unreached] = []
    for answer in answers:
        if isinstance(answer, _Unreached):
            held.append(answer)
            ours = [image for image in held if image.why.reason in OFFLINE or not known.heard]
            if not ours:
                yield from _given_up(held)
                held = []
            elif len(ours) >= OFFLINE_AFTER and (not known.heard or len({image.host for image in ours}) > 1):
                raise _offline(ours)
            continue
        if not _is_of_the_list(answer):
            yield from _given_up(held)
            held, known.heard = [], True
        yield answer
    if held and not known.heard:
        raise _offline(held)
    yield from _given_up(held)


def _is_of_the_list(answer: Found | Refusal) -> bool:
    """Whether this was refused for what its row says, so that no network was asked."""
    return isinstance(answer, Refusal) and answer.reason in _OF_THE_LIST


_OF_THE_LIST = frozenset(
    {
        "broken-row", "broken-list", "not-utf8", "no-url", "bad-url", "bad-key", "scheme", "credentials", "port",
        "listed-twice", "unknown-origin", "unknown-category", "bad-checksum", "private-address",
    }
)  # fmt: skip


def _given_up(held: Iterable[_Unreached]) -> Iterator[Refusal]:
    return (Refusal(image.why.reason, image.why.detail, image.key) for image in held)


def _offline(held: Sequence[_Unreached]) -> BuildError:
    return BuildError(
        f"the network seems to be gone: {len(held)} images in a row could not be asked for ({held[-1].why.detail}). What came "
        "before is kept; run the same command again when it is back, and it goes on there. If it was never gone, the list "
        "names hosts that are no more"
    )


def _entity(etag: str) -> str:
    """An entity tag for weak comparison (RFC 9110, 8.8.3.2); lists often leave the quotes out."""
    return etag.strip().removeprefix("W/").strip('"')


def _day(value: str) -> str | None:
    try:
        return email.utils.parsedate_to_datetime(value).date().isoformat()
    except ValueError:
        return None
