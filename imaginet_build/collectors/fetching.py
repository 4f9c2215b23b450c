"""One URL to its bytes: redirects, retries, politeness, opt-outs. Whatever happens ends in bytes or in a reason."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import logging
import socket
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from imaginet_build.collectors.addresses import Addresses, Unwelcome, Url, parse
from imaginet_build.collectors.optouts import MAX_ROBOTS, OPT_OUTS, Kept, Robots, opted_out
from imaginet_build.collectors.transport import OVER_BUDGET, Failure, Reply, Transport
from imaginet_build.records import seed_of

log = logging.getLogger(__name__)

MAX_REDIRECTS = 5
"""More in a row are a loop or a game."""

LONGEST_WAIT = 120.0
"""Seconds that a server may ask us to wait (Retry-After) before its image is given up."""

DEAD_AFTER = 16
"""A host that never answered is not asked again in this run after so many failures in a row."""

OFFLINE = frozenset({"no-name-server", "no-network"})
"""Reasons that speak of our own network rather than of the image."""

_SILENCE = OFFLINE | {"unreachable", "timeout", "dropped", "tls", "no-such-host", "private-address"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_BUSY = frozenset({429, 503})
_FIRST_WAIT = 0.5
_KEEP_HOSTS = 10_000
_NO_SUCH_NAME = frozenset(
    code for name in ("EAI_NONAME", "EAI_NODATA", "EAI_FAIL") if (code := getattr(socket, name, None)) is not None
)


@dataclass(slots=True)
class _Host:
    """One host's share: how many at once, and not before when."""

    slots: asyncio.Semaphore
    free_at: float = 0.0
    failed: int = 0
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Manners:
    """How a fetcher behaves: requests at once, and to one host; tries of one URL; whether robots.txt is asked for; the
    `X-Robots-Tag` directives that keep an image out."""

    concurrency: int = 64
    per_host: int = 8
    attempts: int = 3
    robots: bool = True
    opt_outs: Collection[str] = OPT_OUTS
    first_wait: float = _FIRST_WAIT


@dataclass(slots=True)
class Known:
    """What was learnt of hosts and outlasts one fetcher: their rules, those that never answer, those that want it slow, and
    whether anything at all was heard."""

    rules: Kept = field(default_factory=OrderedDict)
    dead: dict[str, Failure] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    heard: bool = False


class Fetcher:
    """Fetches over `transport` from the addresses that `addresses` allows. Lives in one event loop."""

    def __init__(
        self, transport: Transport, addresses: Addresses, manners: Manners | None = None, known: Known | None = None
    ) -> None:
        self.transport, self.addresses, self.manners = transport, addresses, manners or Manners()
        self.known = known or Known()
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._slots = asyncio.Semaphore(self.manners.concurrency)
        self._robots = Robots(self._ask_robots, self.known.rules) if self.manners.robots else None

    async def fetch(
        self, url: Url, most: int, grow: Callable[[int], bool] = lambda _: True, drop: Callable[[], object] = lambda: None
    ) -> Reply:
        """The answer 200 to this URL, of at most `most` bytes. `grow(n)`: whether n more bytes may be held; `drop()` gives them
        back before another try. Raises `Failure` with the reason; that of `OVER_BUDGET` asks to be called again later."""
        reply = await self._with_retries(url, most, grow, drop, self._robots)
        if reply.status != 200:  # pages that say so are often tagged too, and dead links all the same
            raise Failure(f"http-{reply.status}", f"{url.shown} answers {reply.status}", again=False)
        if said := opted_out(reply.headers, self.manners.opt_outs):
            raise Failure("opted-out", f"{url.shown}: {said}", again=False)
        return reply

    async def _ask_robots(self, url: Url) -> Reply:
        return await self._with_retries(url, 8 * MAX_ROBOTS, lambda _: True, lambda: None, None)

    async def _with_retries(
        self, url: Url, most: int, grow: Callable[[int], bool], drop: Callable[[], object], robots: Robots | None
    ) -> Reply:
        for attempt in range(1, self.manners.attempts + 1):
            last = attempt == self.manners.attempts
            wait = self._backoff(url, attempt)
            try:
                reply = await self._follow(url, most, grow, drop, robots)
                if reply.status not in _AGAIN or last:
                    return reply
                asked = retry_after(reply.header("retry-after"))
                if asked is not None and asked > LONGEST_WAIT:
                    return reply
                wait = max(wait, asked or 0.0)
            except Failure as failure:
                drop()
                if last or not failure.again or failure.reason == OVER_BUDGET:
                    raise
            drop()
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _backoff(self, url: Url, attempt: int) -> float:
        """Doubles with every attempt, spread a little by the URL's own name, so that a crowd does not come back as one."""
        spread = seed_of(url.text, f"attempt {attempt}") % 1000 / 1000
        return self.manners.first_wait * 2.0 ** (attempt - 1) * (1 + spread)

    async def _follow(
        self, url: Url, most: int, grow: Callable[[int], bool], drop: Callable[[], object], robots: Robots | None
    ) -> Reply:
        """The first answer that is no redirect. Every step is judged like the first."""
        place = url
        for _ in range(MAX_REDIRECTS + 1):
            reply = await self._once(place, most, grow, robots)
            target = reply.header("location")
            if reply.status not in _REDIRECTS or not target:
                return reply
            drop()
            try:
                place = parse(target, base=place)
            except Unwelcome as error:
                raise Failure(
                    error.reason, f"{url.shown} redirects to what is not fetched: {error.detail}", again=False
                ) from None
        raise Failure("too-many-redirects", f"{url.shown} redirects more than {MAX_REDIRECTS} times", again=False)

    async def _once(self, url: Url, most: int, grow: Callable[[int], bool], robots: Robots | None) -> Reply:
        delay = 0.0
        if robots is not None:
            rules = await robots.of(url)
            if rules.closed is not None:
                raise rules.closed.anew()
            if not rules.allow(url):
                raise Failure("robots", f"{url.shown} is closed to us by the host's robots.txt", again=False)
            delay = rules.delay
            if delay >= 1 and url.origin not in self.known.slow:
                self.known.slow.add(url.origin)
                log.warning(
                    "%s asks for %g s between requests (robots.txt): %.0f images an hour", url.origin, delay, 3600 / delay
                )
        host = self._host(url)
        async with host.slots:
            await self._turn(host, delay)
            async with self._slots:
                if (dead := self.known.dead.get(url.origin)) is not None:
                    raise dead.anew()
                try:
                    reply = await self.transport.get(url, await self._addresses_of(url), most, grow)
                except Failure as failure:
                    self._note(host, url, failure)
                    raise
        host.answered = True
        host.failed = host.failed + 1 if reply.status in _BUSY else 0
        if reply.status in _BUSY:
            self._note_busy(host, url, reply)
        return reply

    def _note(self, host: _Host, url: Url, failure: Failure) -> None:
        """Count a failure; a host that never answered so many times is not asked again."""
        host.answered |= failure.reason not in _SILENCE
        host.failed += 1
        if host.failed >= DEAD_AFTER and not host.answered:
            said = f"{url.origin} gave no answer {host.failed} times and is not asked again in this run ({failure.detail})"
            self.known.dead[url.origin] = Failure(failure.reason, said, again=False)

    def _note_busy(self, host: _Host, url: Url, reply: Reply) -> None:
        """Leave a host alone as long as it asks; one that asks for too long, or never ceases to, for the rest of the run."""
        asked = retry_after(reply.header("retry-after")) or 0.0
        if asked <= LONGEST_WAIT:
            host.free_at = max(host.free_at, asyncio.get_running_loop().time() + asked)
        if asked > LONGEST_WAIT or host.failed >= max(DEAD_AFTER, 4 * self.manners.per_host):
            why = f"asks for {asked:,.0f} s of rest" if asked > LONGEST_WAIT else f"answered {reply.status} {host.failed} times"
            said = f"{url.origin} {why} and is not asked again in this run"
            self.known.dead[url.origin] = Failure(f"http-{reply.status}", said, again=False)

    async def _turn(self, host: _Host, delay: float) -> None:
        """Wait until the host may be asked again, and take the next moment if it wants its requests apart."""
        loop = asyncio.get_running_loop()
        while (wait := host.free_at - loop.time()) > 0:
            await asyncio.sleep(wait)
        if delay:
            host.free_at = loop.time() + delay

    async def _addresses_of(self, url: Url) -> Sequence[str]:
        try:
            return await self.addresses.of(url)
        except Unwelcome as error:
            raise Failure(error.reason, error.detail, again=False) from None
        except socket.gaierror as error:
            if error.errno in _NO_SUCH_NAME:
                raise Failure("no-such-host", f"{url.origin}: {error.strerror}", again=False) from None
            raise Failure("no-name-server", f"{url.origin}: {error.strerror}", again=True) from None
        except (OSError, UnicodeError) as error:
            raise Failure("no-such-host", f"{url.origin}: {error}", again=False) from None

    def _host(self, url: Url) -> _Host:
        host = self._hosts.get(url.origin)
        if host is None:
            host = self._hosts[url.origin] = _Host(asyncio.Semaphore(self.manners.per_host))
            if len(self._hosts) > _KEEP_HOSTS:
                self._hosts.popitem(last=False)
        return host

    async def close(self) -> None:
        """End what is under way and let go of the threads."""
        await self.transport.close()
        self.addresses.close()


def retry_after(value: str) -> float | None:
    """Seconds that a Retry-After header asks for (a number or a date, RFC 9110), or None where it says nothing."""
    if value.isdecimal():
        return float(value[:9])
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
    return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())
