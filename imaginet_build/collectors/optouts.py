"""Who does not want to be collected: robots.txt (RFC 9309), `X-Robots-Tag` and the TDM reservation header."""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imaginet_build.collectors.addresses import Url
from imaginet_build.collectors.transport import Failure, Reply
from imaginet_build.errors import MissingExtra

if TYPE_CHECKING:
    import protego

AGENT = "imaginet-build"
"""Our name in robots.txt and in `X-Robots-Tag`: `User-agent: imaginet-build` speaks to this program alone."""

OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex", "none")
"""The directives of `X-Robots-Tag` that keep an image out (the first two as DeviantArt defined them; img2dataset keeps to the
first four; `none` means `noindex, nofollow`)."""

MAX_ROBOTS = 512_000
"""Bytes of a robots.txt that are read, a little over the 500 KiB that RFC 9309 asks for at least. The rest is passed over."""

_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"\s*([A-Za-z0-9_*.-]+)\s*:\s*(.*)", re.DOTALL)
_KEEP_HOSTS = 10_000
_KEEP_SECONDS = 24 * 3600.0  # RFC 9309, 2.4
_KEEP_CLOSED_SECONDS = 600.0


def opted_out(headers: Mapping[str, Sequence[str]], words: Collection[str] = OPT_OUTS, agent: str = AGENT) -> str | None:
    """Which header keeps this image out of data sets, or None.

    `X-Robots-Tag: noai`, or `X-Robots-Tag: imaginet-build: noai` for one agent alone; what is said to another agent is not
    said to us. `tdm-reservation: 1` is the TDM Reservation Protocol's (W3C community group report, 2024).
    """
    if words and any(value.strip() == "1" for value in headers.get("tdm-reservation", ())):
        return "tdm-reservation: 1"
    for value in headers.get("x-robots-tag", ()):
        ours = True
        for part in value.split(","):
            directive = part
            named = _AGENT.fullmatch(part)
            if named and named[1].lower() not in _WITH_VALUE:
                ours, directive = named[1].lower() in ("*", agent), named[2]
            if ours and directive.strip().lower() in words:
                return f"X-Robots-Tag: {directive.strip().lower()}"
    return None


@dataclass(frozen=True, slots=True)
class Rules:
    """What one host's robots.txt says to us. `closed`: why nothing of it may be fetched at all."""

    closed: Failure | None = None
    parsed: protego.Protego | None = None

    def allow(self, url: Url) -> bool:
        """Whether this URL may be fetched."""
        return self.closed is None and (self.parsed is None or bool(self.parsed.can_fetch(url.text, AGENT)))

    @property
    def delay(self) -> float:
        """Seconds that the host asks to be left alone between two requests, at most a minute."""
        asked = self.parsed.crawl_delay(AGENT) if self.parsed is not None else None
        return min(60.0, max(0.0, float(asked or 0.0)))


Kept = OrderedDict[str, tuple[float, Rules]]
"""Scheme, host and port -> until when (`time.monotonic`) its rules are good, and the rules."""


class Robots:
    """The robots.txt of every host, asked for once a day. `ask` fetches one, following redirects, and raises `Failure`.

    `kept`: the rules that are known, which may outlast one event loop.
    """

    def __init__(self, ask: Callable[[Url], Awaitable[Reply]], kept: Kept | None = None) -> None:
        try:
            import protego  # noqa: F401
        except ImportError:
            raise MissingExtra("a list of URLs", "protego", "urls") from None
        self.ask = ask
        self.kept: Kept = OrderedDict() if kept is None else kept
        self._asked: dict[str, asyncio.Task[Rules]] = {}

    async def of(self, url: Url) -> Rules:
        """The rules for a URL's scheme, host and port."""
        until, rules = self.kept.get(url.origin, (0.0, None))
        if rules is not None and time.monotonic() < until:
            return rules
        task = self._asked.get(url.origin)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._learn(url))
            self._asked[url.origin] = task
        return await asyncio.shield(task)

    async def _learn(self, url: Url) -> Rules:
        try:
            rules = await self._fetch(Url(url.scheme, url.host, url.port, "/robots.txt"))
        finally:
            del self._asked[url.origin]
        seconds = _KEEP_SECONDS if rules.closed is None else _KEEP_CLOSED_SECONDS
        self.kept[url.origin] = (time.monotonic() + seconds, rules)
        self.kept.move_to_end(url.origin)
        if len(self.kept) > _KEEP_HOSTS:
            self.kept.popitem(last=False)
        return rules

    async def _fetch(self, place: Url) -> Rules:
        """RFC 9309, 2.3.1: what there is, is kept to; 4xx means no rules; no answer or 5xx means that nothing is allowed."""
        import protego

        try:
            reply = await self.ask(place)
        except Failure as failure:
            if failure.reason == "too-many-redirects":
                return Rules()  # 2.3.1.2: treated as unavailable
            plain = failure.reason in ("private-address", "no-such-host")  # the host's own fault, whatever was asked of it
            said = failure.detail if plain else f"robots.txt could not be read: {failure.detail}"
            return Rules(Failure(failure.reason, said, again=False))
        if reply.status >= 500 or reply.status == 429:
            said = f"{place.shown} answers {reply.status}, so nothing of that host may be fetched now (RFC 9309)"
            return Rules(Failure("robots-unreachable", said, again=False))
        if not 200 <= reply.status < 300:
            return Rules()
        text = _plain(reply)
        if text is None:
            said = f"{place.shown} comes as {reply.header('content-encoding')[:40]}, which was not asked for and cannot be read"
            return Rules(Failure("robots-unreachable", said, again=False))
        return Rules(parsed=protego.Protego.parse(text[:MAX_ROBOTS].decode("utf-8", "replace")))


def _plain(reply: Reply) -> bytes | None:
    """The text of a robots.txt, of which a server may have made a gzip all the same; no more than is read is unpacked."""
    coding = reply.header("content-encoding").lower()
    if coding in ("", "identity"):
        return reply.body
    try:
        return zlib.decompressobj(31).decompress(reply.body, MAX_ROBOTS) if coding in ("gzip", "x-gzip") else None
    except zlib.error:
        return None
