"""Which URLs may be asked for and which addresses may be connected to: the public network alone, over HTTP.

A list of URLs comes from strangers, and so does every redirect. Neither may reach the machine itself, its network or a cloud's
metadata service. A host's addresses are looked up once, every one of them is judged, and the transport connects to those and
no others; it judges once more the address that a socket is opened for, so that a name which changes its meaning between two
look-ups (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from imaginet_build.errors import UsageError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""Host and port -> its addresses as text, best first. Raises `OSError` (`socket.gaierror`), as `getaddrinfo` does."""

MAX_URL = 8192
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_TUNNELS = tuple(ipaddress.ip_network(n) for n in ("2001::/23", "2002::/16", "3fff::/20", "5f00::/16"))
# RFC 2544 and friends are private to `ipaddress`; what it takes for global is still judged by these.
_NEVER_V4 = tuple(ipaddress.ip_network(n) for n in ("100.64.0.0/10", "192.88.99.0/24", "192.31.196.0/24", "192.52.193.0/24"))
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PORTS = frozenset({80, 443})
_BAD_PORTS = frozenset(
    {
        1719, 1720, 1723, 2049, 3306, 3659, 4045, 4190, 5060, 5061, 5432, 6000, 6379, 6566, 6665, 6666, 6667, 6668, 6669, 6679,
        6697, 9200, 10080, 11211, 27017,
    }
)  # fmt: skip
"""Ports of other protocols (those of the fetch standard, and of common data bases); below 1024 only 80 and 443 are open."""


class Unwelcome(Exception):
    """A URL that will not be asked for. `reason` is a short stable word, `detail` says it in a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in one form that every parser reads alike: ASCII, no user, no fragment."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """`http://host`, with the port where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _default(self.scheme) else f":{self.port}")

    @property
    def text(self) -> str:
        """The whole of it."""
        return self.origin + self.path

    @property
    def shown(self) -> str:
        """As messages show it: without the query, which may be somebody's key."""
        return (self.origin + self.path.partition("?")[0])[:200]


def parse(text: str, base: Url | None = None) -> Url:
    """The URL in `text` (relative to `base`, as redirects are). Raises `Unwelcome`; the detail never repeats a password."""
    text = text.strip(" \t\r\n\f")
    if not text:
        raise Unwelcome("bad-url", "there is none")
    if len(text) > MAX_URL:
        raise Unwelcome("bad-url", f"it has {len(text):,} characters, more than {MAX_URL:,}")
    if _CONTROL.search(text) or "\\" in text:
        raise Unwelcome("bad-url", "it holds control characters or a backslash")
    try:
        parts = urlsplit(urljoin(base.text, text) if base else text)
        port = parts.port
    except ValueError as error:
        raise Unwelcome("bad-url", f"it cannot be read ({_first_word(error)})") from None
    if parts.scheme not in ("http", "https"):
        raise Unwelcome("scheme", f"only http and https are fetched, not {parts.scheme[:20] or 'a bare path'}")
    if "@" in parts.netloc:
        raise Unwelcome("credentials", "it carries a user name or password, which are never sent")
    if "[" in parts.netloc and ":" not in (parts.hostname or ""):
        raise Unwelcome("bad-url", "its host is no address of IP version 6")
    host = _host(parts.hostname or "")
    port = _default(parts.scheme) if port is None else port
    if (port < 1024 and port not in _PORTS) or port in _BAD_PORTS:
        raise Unwelcome("port", f"port {port} is not one that serves images")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + ("?" + _query(parts.query) if parts.query else "")
    return Url(parts.scheme, host, port, path)


def _first_word(error: Exception) -> str:
    # Such messages quote the URL, and with it what must not be logged.
    return re.sub(r"['\"].*", "", str(error)).strip()[:60] or type(error).__name__


def _query(query: str) -> str:
    return quote(query, safe="/%:@!$&'()*+,;=~-._?[]")


def _default(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _host(host: str) -> str:
    """A host name in ASCII, or an address in its one plain form."""
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host.replace("%", " ")).compressed  # no zone: it would name a wire of this machine
        except ValueError:
            raise Unwelcome("bad-url", "its host is no address of IP version 6") from None
    try:
        name = host.lower() if host.isascii() else host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise Unwelcome("bad-url", "its host cannot be written as a domain name") from None
    last = name.rstrip(".").rpartition(".")[2]
    if last.isdigit() or last.startswith("0x"):
        # 127.1, 0x7f000001 and 2130706433 are addresses to some and names to others: only the plain form is read.
        try:
            return ipaddress.IPv4Address(name).compressed
        except ValueError:
            raise Unwelcome("bad-url", "its host is a number, but no address in four decimal parts") from None
    if len(name) > 253 or not _HOST.fullmatch(name):
        raise Unwelcome("bad-url", "its host is no domain name" if name else "it has no host")
    return name


def forbidden(address: str) -> str | None:
    """What kind of address it is that must not be connected to, such as `loopback`; None for a public one."""
    try:
        ip: IPAddress = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "no address"
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is not None:
            kind = forbidden(str(inner))
            return kind and f"{kind}, written as IP version 6"
    kinds = {
        "unspecified": ip.is_unspecified,
        "loopback": ip.is_loopback,
        "link-local": ip.is_link_local,
        "multicast": ip.is_multicast,
        "carrier-grade NAT": ip.version == 4 and ip in _NEVER_V4[0],
        "private": ip.is_private or getattr(ip, "is_site_local", False),
        "reserved": ip.is_reserved or not ip.is_global,
        "special": any(ip in net for net in (_NEVER_V4 if ip.version == 4 else _TUNNELS))
        or (ip.version == 6 and ip not in _GLOBAL_V6),
    }
    return next((kind for kind, so in kinds.items() if so), None)


class Addresses:
    """Looks hosts up and judges what comes back. `loopback`: exactly these places of this machine are allowed all the same.

    `loopback` names them as `127.0.0.1:8000` or `[::1]:8000`; `UsageError` for anything that is not a place on loopback.
    """

    def __init__(self, loopback: Sequence[str] = (), resolve: Resolve | None = None, seconds: float = 20.0) -> None:
        self.allowed = frozenset(_place(text) for text in loopback)
        self.resolve = resolve or _getaddrinfo
        self.seconds = seconds
        self._known: OrderedDict[tuple[str, int], tuple[float, asyncio.Future[tuple[str, ...]]]] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None

    def judge(self, address: str, port: int) -> str | None:
        """Why this address must not be connected to, or None."""
        return None if (_plain(address), port) in self.allowed else forbidden(address)

    async def of(self, url: Url) -> tuple[str, ...]:
        """The addresses of its host, all public. Raises `Unwelcome` (`private-address`), or `OSError` where there are none."""
        loop = asyncio.get_running_loop()
        key = (url.host, url.port)
        until, future = self._known.get(key, (0.0, None))
        if future is None or loop.time() > until or (future.done() and (future.cancelled() or future.exception() is not None)):
            future = loop.create_task(self._look_up(url))
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, even if nobody waits any more
            self._known[key] = (loop.time() + _KEEP_SECONDS, future)
            self._known.move_to_end(key)
            if len(self._known) > _KEEP_HOSTS:
                self._known.popitem(last=False)
        return await asyncio.shield(future)

    async def _look_up(self, url: Url) -> tuple[str, ...]:
        try:
            found: Sequence[str] = [str(ipaddress.ip_address(url.host))]
        except ValueError:
            # Threads of its own: a name server that never answers must not hold up anything else.
            self._threads = self._threads or ThreadPoolExecutor(16, "urls-resolve")
            call = asyncio.get_running_loop().run_in_executor(self._threads, self.resolve, url.host, url.port)
            try:
                found = await asyncio.wait_for(call, self.seconds)
            except TimeoutError:
                raise socket.gaierror(socket.EAI_AGAIN, f"no answer from the name server in {self.seconds:g} s") from None
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        for address in found:
            # One bad address condemns the name: an honest one has none, and which is used must not be a matter of luck.
            if kind := self.judge(address, url.port):
                raise Unwelcome("private-address", f"{url.origin} leads to {address} ({kind}), where nothing is fetched")
        return tuple(_plain(address) for address in found)

    def close(self) -> None:
        """Let go of the threads, without waiting for those that are still looking up a name."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


_KEEP_SECONDS = 300.0
_KEEP_HOSTS = 4096


def _getaddrinfo(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _plain(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return address


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        ip, number = ipaddress.ip_address("0.0.0.0"), 0  # noqa: S104
    if not (ip.is_loopback and 0 < number < 65536):
        raise UsageError(f"allow_loopback = {text!r}: name a place on this machine as ADDRESS:PORT, such as 127.0.0.1:8000")
    return str(ip), number
