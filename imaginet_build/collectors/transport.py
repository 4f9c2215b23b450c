"""One request to one host over libcurl: HTTP/2 where it is served, bounded in time, in bytes and in where it may connect.

libcurl follows no redirect, decodes nothing, reads no proxy from the environment and no password from a file. It is given
the addresses that were judged, and every socket is judged again when it is opened.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imaginet_build.collectors.addresses import Addresses, Url
from imaginet_build.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    import pycurl


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered. `headers` by lower-case name, in the order they came; `address` is the one connected to."""

    status: int
    headers: Mapping[str, Sequence[str]]
    body: bytes
    address: str = ""
    http: str = "1.1"

    def header(self, name: str) -> str:
        """The last value of a header, '' where there is none."""
        return next(reversed(self.headers.get(name, ("",))), "")


class Failure(Exception):
    """No whole answer came. `reason` is a short stable word; `again`: whether another try may do better."""

    def __init__(self, reason: str, detail: str, again: bool) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.again = reason, detail, again

    def anew(self) -> Failure:
        """The same without its history, to be kept or raised again."""
        return Failure(self.reason, self.detail, self.again)


class Transport(Protocol):
    """Whatever can ask one host for one thing."""

    async def get(self, url: Url, addresses: Sequence[str], most: int, grow: Callable[[int], bool]) -> Reply:
        """One answer of at most `most` bytes. `grow(n)` is asked before n more bytes are kept. Raises `Failure`."""
        ...

    async def close(self) -> None:
        """End what is under way."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: to connect, for a whole answer, and without `slow_bytes` a second of it; connections kept open in all."""

    connect: float = 10.0
    total: float = 60.0
    stalled: float = 15.0
    slow_bytes: int = 512
    connections: int = 64
    per_host: int = 8


OVER_BUDGET = "over-budget"
"""The reason of a `Failure` that is no fault of the server's: there was no memory to spare just then."""

_E_WEIRD_SERVER_REPLY, _E_HTTP2_STREAM = 8, 92  # pycurl has no names for these


class Curl:
    """The transport in use. `ca_file`: certificates to trust in place of certifi's. Raises `MissingExtra` without pycurl."""

    def __init__(self, judge: Addresses, agent: str, limits: Limits | None = None, ca_file: str | None = None) -> None:
        try:
            import pycurl
        except ImportError:
            raise MissingExtra("a list of URLs", "pycurl", "urls") from None
        self.curl = pycurl
        self.judge, self.agent, self.limits = judge, agent, limits or Limits()
        self.ca_file = certificates(ca_file)
        self.multi = pycurl.AsyncCurlMulti()
        self.multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, self.limits.per_host)
        self.multi.setopt(pycurl.M_MAXCONNECTS, self.limits.connections)
        self._idle: list[pycurl.Curl] = []

    async def get(self, url: Url, addresses: Sequence[str], most: int, grow: Callable[[int], bool]) -> Reply:
        """See `Transport.get`."""
        easy = self._idle.pop() if self._idle else self.curl.Curl()
        taken = _Taken(most, grow)
        opened = _Opened(self.judge, self.curl.SOCKET_BAD)
        lines: list[bytes] = []
        try:
            self._set_up(easy, url, addresses)
            easy.setopt(self.curl.WRITEFUNCTION, taken)
            easy.setopt(self.curl.HEADERFUNCTION, lines.append)
            easy.setopt(self.curl.OPENSOCKETFUNCTION, opened)
            easy.setopt(self.curl.MAXFILESIZE_LARGE, most)
            await self.multi.perform(easy)
            address = easy.getinfo(self.curl.PRIMARY_IP)
            self._check_peer(address, url)
            versions = {self.curl.CURL_HTTP_VERSION_2_0: "2", self.curl.CURL_HTTP_VERSION_1_0: "1.0"}
            http = versions.get(easy.getinfo(self.curl.INFO_HTTP_VERSION), "1.1")
            reply = Reply(easy.getinfo(self.curl.RESPONSE_CODE), _headers(lines), b"".join(taken.chunks), address, http)
        except self.curl.error as error:
            raise self._failure(error, easy.getinfo(self.curl.OS_ERRNO), taken, opened, url) from None
        finally:
            opened.close()
        easy.reset()  # also lets go of the callbacks
        self._idle.append(easy)
        return reply

    def _set_up(self, easy: pycurl.Curl, url: Url, addresses: Sequence[str]) -> None:
        c, limits = self.curl, self.limits
        easy.setopt(c.URL, url.text)
        easy.setopt(c.PROTOCOLS, c.PROTO_HTTP | c.PROTO_HTTPS)
        easy.setopt(c.FOLLOWLOCATION, 0)
        easy.setopt(c.HTTP_VERSION, c.CURL_HTTP_VERSION_2TLS)
        easy.setopt(c.PIPEWAIT, 1)
        easy.setopt(c.HTTP_CONTENT_DECODING, 0)
        easy.setopt(c.HTTP09_ALLOWED, 0)
        easy.setopt(c.HTTPHEADER, ["Accept: image/*,*/*;q=0.5", "Accept-Encoding: identity", f"User-Agent: {self.agent}"])
        easy.setopt(c.PROXY, "")
        easy.setopt(c.NOPROXY, "*")
        easy.setopt(c.NETRC, c.NETRC_IGNORED)
        easy.setopt(c.NOSIGNAL, 1)
        easy.setopt(c.BUFFERSIZE, 128 * 1024)
        easy.setopt(c.CONNECTTIMEOUT_MS, round(limits.connect * 1000))
        easy.setopt(c.TIMEOUT_MS, round(limits.total * 1000))
        easy.setopt(c.LOW_SPEED_LIMIT, limits.slow_bytes)
        easy.setopt(c.LOW_SPEED_TIME, max(1, round(limits.stalled)))
        if url.scheme == "https":
            easy.setopt(c.CAINFO, self.ca_file)
        if url.host not in addresses:
            # "+": forgotten after a minute, as an answer of a name server would be.
            places = ",".join(f"[{a}]" if ":" in a else a for a in addresses)
            easy.setopt(c.RESOLVE, [f"+{url.host}:{url.port}:{places}"])

    def _check_peer(self, address: str, url: Url) -> None:
        if kind := self.judge.judge(address, url.port):
            raise Failure("private-address", f"{url.shown} was answered by {address} ({kind})", again=False)

    def _failure(self, error: Exception, number: int, taken: _Taken, opened: _Opened, url: Url) -> Failure:
        c = self.curl
        code, said = int(error.args[0]), str(error.args[1])[:200]
        if opened.refused:
            return Failure("private-address", f"{url.shown} led to {opened.refused}, where nothing is fetched", again=False)
        if taken.over == OVER_BUDGET:
            return Failure(OVER_BUDGET, "no memory to spare", again=True)
        if taken.over or code == c.E_FILESIZE_EXCEEDED:
            return Failure("too-large", f"{url.shown} has more than {taken.most:,} bytes", again=False)
        if code == c.E_COULDNT_CONNECT and number == errno.ENETUNREACH:
            return Failure("no-network", f"{url.shown}: {os.strerror(number)}", again=True)
        kinds = {
            # No HTTP: often what an earlier answer on the same connection had left over, such as a body behind a 304.
            c.E_UNSUPPORTED_PROTOCOL: ("bad-answer", True),
            _E_WEIRD_SERVER_REPLY: ("bad-answer", True),
            c.E_COULDNT_RESOLVE_HOST: ("no-such-host", True),
            c.E_COULDNT_CONNECT: ("unreachable", True),
            c.E_OPERATION_TIMEDOUT: ("timeout", True),
            c.E_PARTIAL_FILE: ("cut-short", True),
            c.E_GOT_NOTHING: ("dropped", True),
            c.E_RECV_ERROR: ("dropped", "Too large response headers" not in said),
            c.E_SEND_ERROR: ("dropped", True),
            c.E_HTTP2: ("dropped", True),
            _E_HTTP2_STREAM: ("dropped", True),
            c.E_PEER_FAILED_VERIFICATION: ("tls", False),
            c.E_SSL_CONNECT_ERROR: ("tls", True),
            c.E_SSL_CACERT_BADFILE: ("tls", False),
        }
        reason, again = kinds.get(code, ("bad-answer", False))
        return Failure("bad-answer" if reason == "dropped" and not again else reason, f"{url.shown}: {said}", again)

    async def close(self) -> None:
        """See `Transport.close`."""
        await self.multi.aclose()
        for easy in self._idle:
            easy.close()
        self._idle.clear()


class _Taken:
    """The bytes of one answer, as many as are allowed."""

    __slots__ = ("chunks", "grow", "most", "over", "size")

    def __init__(self, most: int, grow: Callable[[int], bool]) -> None:
        self.chunks: list[bytes] = []
        self.most, self.grow = most, grow
        self.size = 0
        self.over = ""

    def __call__(self, chunk: bytes) -> int:
        if self.size + len(chunk) > self.most:
            self.over = "too-large"
        elif not self.grow(len(chunk)):
            self.over = OVER_BUDGET
        if self.over:
            return 0  # libcurl ends the transfer
        self.size += len(chunk)
        self.chunks.append(chunk)
        return len(chunk)


class _Opened:
    """Judges the very address a socket is about to be connected to."""

    __slots__ = ("bad", "judge", "refused", "sockets")

    def __init__(self, judge: Addresses, bad: int) -> None:
        self.judge, self.bad = judge, bad
        self.refused = ""
        self.sockets: list[socket.socket] = []

    def __call__(self, _purpose: int, target: pycurl.CurlSockAddr) -> socket.socket | int:
        if target.family not in (socket.AF_INET, socket.AF_INET6):
            self.refused = "no address of the Internet"
            return self.bad
        address, port = str(target.addr[0]), int(target.addr[1])
        if kind := self.judge.judge(address, port):
            self.refused = f"{address} ({kind})"
            return self.bad
        self.sockets.append(socket.socket(target.family, target.socktype, target.protocol))
        return self.sockets[-1]

    def close(self) -> None:
        """Close our ends: pycurl has duplicated those it works with."""
        for one in self.sockets:
            one.close()


def _headers(lines: Sequence[bytes]) -> dict[str, list[str]]:
    """The headers of the last answer among `lines`: 1xx answers come before it."""
    found: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if line.startswith(b"HTTP/"):
            found = {}
        elif colon:
            found.setdefault(name.strip().lower(), []).append(value.strip())
    return found


def certificates(ca_file: str | None) -> str:
    """The file of certificates to trust: the one given, that of SSL_CERT_FILE, certifi's, or the system's."""
    if ca_file is not None:
        if not os.path.isfile(ca_file):  # noqa: PTH113
            raise UsageError(f"ca_file = {ca_file!r}: no such file")
        return ca_file
    paths = ssl.get_default_verify_paths()
    if os.environ.get(paths.openssl_cafile_env):
        return os.environ[paths.openssl_cafile_env]
    try:
        import certifi
    except ImportError:
        return paths.cafile or ""
    return certifi.where()
