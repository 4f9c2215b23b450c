"""The page and the HTTP endpoint of `detect --serve`: one image in, its verdict out, on this machine.

    GET  /                     the page
    POST /detect?name=x.jpg    the image's bytes -> what `detect --json` prints
    POST /look?name=x.jpg      the same, its patches, and what the file says of itself

Who may ask: a browser page served from here, or a program. Other sites' pages are kept out thrice: the Host header must name
this server (a name that was rebound to 127.0.0.1 does not), the Origin must be its own, and the body must have a type that a
foreign form cannot send. Bodies, times and numbers are bounded; nothing is written to a file, nothing asked of another machine.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from imaginet_build.detecting.keeper import Busy, Keeper, TooSlow
from imaginet_build.errors import UsageError

log = logging.getLogger(__name__)

PORT = 8631
MAX_BYTES = 32 * 2**20
READ_SECONDS = 30.0
CONNECTIONS = 16
_LINGER_SECONDS = 5.0
_FILES = {
    "/": ("detect.html", "text/html; charset=utf-8"),
    "/detect.css": ("detect.css", "text/css; charset=utf-8"),
    "/detect.js": ("detect.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_MOST_NAME = 200


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Page(ThreadingHTTPServer):
    """The server, bound but not yet serving: `serve_forever()`, then `close()`.

    `address` must be a loopback one unless `hosts` names what it will be reached as: then everybody on the network may ask.
    `port` 0 takes a free one. Raises `UsageError` where it cannot listen there.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = CONNECTIONS

    def __init__(self, keeper: Keeper, address: str = "127.0.0.1", port: int = PORT, hosts: Sequence[str] = ()) -> None:
        try:
            ip = ipaddress.ip_address("127.0.0.1" if address == "localhost" else address)
        except ValueError:
            raise UsageError(f"--bind {address}: name an address of this machine, such as 127.0.0.1 or 0.0.0.0") from None
        if not ip.is_loopback and not hosts:
            raise UsageError(
                f"--bind {address} lets the whole network in; if you mean it, say under which name it is reached: "
                "--allow-host NAME"
            )
        self.address_family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
        self.keeper, self._free = keeper, threading.BoundedSemaphore(CONNECTIONS)
        try:
            super().__init__((str(ip), port), _Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(f"cannot listen on {address} port {port}: {error}; choose another with --port") from None
        shown = f"[{ip}]" if ip.version == 6 else str(ip)
        self.port = int(self.server_address[1])
        known = [shown] if not ip.is_unspecified else []
        known += ["127.0.0.1", "localhost", "[::1]"] if ip.is_loopback or ip.is_unspecified else []
        self.hosts = frozenset(f"{name.lower()}:{self.port}" for name in [*known, *hosts])
        self.hosts |= {name.rpartition(":")[0] for name in self.hosts} if self.port == 80 else set()
        self.url = f"http://{[*known, *hosts][0]}:{self.port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for the request, or 503 where there are too many already."""
        if not self._free.acquire(blocking=False):
            busy = b'{"error": "too many connections; try again in a moment"}'
            head = b"HTTP/1.0 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\r\n"
            try:
                request.settimeout(1)
                request.sendall(head + busy)
            except OSError:
                log.debug("a client that was one too many went away")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One request, and its place given back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that went away is its own affair; anything else is said."""
        if isinstance(sys.exception(), OSError):
            log.debug("a client went away", exc_info=True)
        else:
            log.error("a request could not be answered", exc_info=True)

    def close(self) -> None:
        """Let go of the port and end the detector's process."""
        self.server_close()
        self.keeper.close()


class _Handler(BaseHTTPRequestHandler):
    server: Page
    server_version, sys_version = "imaginet-build", ""
    timeout = 10

    def setup(self) -> None:
        super().setup()
        self._unread = False
        # The timeout is of one read; a client that sends a byte now and then is ended by this.
        self._deadline = time.monotonic() + READ_SECONDS
        self._clock = threading.Timer(READ_SECONDS, self._end)
        self._clock.daemon = True
        self._clock.start()

    def finish(self) -> None:
        self._clock.cancel()
        super().finish()
        if self._unread:
            self._linger()

    def _linger(self) -> None:
        """Take what a refused sender is still sending: closed at once, the connection would be reset, and the answer lost."""
        deadline, left = time.monotonic() + _LINGER_SECONDS, 2 * MAX_BYTES
        try:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1)
            while left > 0 and time.monotonic() < deadline and (piece := self.connection.recv(1 << 16)):
                left -= len(piece)
        except OSError:
            log.debug("a refused sender had gone by itself")

    def _end(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            log.debug("a slow client had gone by itself")

    def do_GET(self) -> None:
        try:
            self._known_host()
            path = urlsplit(self.path).path
            if path == "/favicon.ico":
                self._send(HTTPStatus.NO_CONTENT, b"", "image/x-icon")
                return
            if path not in _FILES:
                raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here; the page is at /")
            name, kind = _FILES[path]
            self._send(HTTPStatus.OK, resources.files("imaginet_build").joinpath("templates", name).read_bytes(), kind)
        except _Refused as refused:
            self._say(refused.status, {"error": str(refused)})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._unread = True
        try:
            self._known_host()
            self._own_page()
            where = urlsplit(self.path)
            if where.path not in ("/detect", "/look"):
                raise _Refused(HTTPStatus.NOT_FOUND, "post an image to /detect or /look")
            data = self._body()
            self._unread = False
            self._clock.cancel()
            found = self.server.keeper.look(_named(where.query), data)
        except _Refused as refused:
            self._say(refused.status, {"error": str(refused)})
        except Busy as error:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
        except TooSlow as error:
            self._say(HTTPStatus.GATEWAY_TIMEOUT, {"error": str(error)})
        else:
            self._say(HTTPStatus.OK, [found["answer"]] if where.path == "/detect" else found)

    def _known_host(self) -> None:
        said = self.headers.get_all("Host", [])
        if len(said) == 1 and said[0].lower() in self.server.hosts:
            return
        raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, f"this server is {self.server.url}; other names: --allow-host NAME")

    def _own_page(self) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower().removeprefix("http://") not in self.server.hosts:
            raise _Refused(HTTPStatus.FORBIDDEN, "pages of other sites may not ask here")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise _Refused(HTTPStatus.FORBIDDEN, "pages of other sites may not ask here")
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not (kind.startswith("image/") or kind == "application/octet-stream"):
            said = "send the image's bytes as the body, with Content-Type: application/octet-stream (or image/…)"
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, said)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit()):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "say how long the body is (Content-Length), and send it in one piece")
        if len(length) > 12 or int(length) > MAX_BYTES:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BYTES:,} bytes")
        left, pieces = int(length), []
        while left:
            try:
                piece = self.rfile.read1(min(left, 1 << 20))
            except OSError:
                piece = b""
            if not piece or time.monotonic() > self._deadline:
                raise _Refused(HTTPStatus.REQUEST_TIMEOUT, "the body did not come whole in its time")
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _say(self, status: HTTPStatus, document: Any) -> None:
        self._send(status, json.dumps(document, ensure_ascii=False).encode(), "application/json; charset=utf-8")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """The library's own refusals (a method, a broken request) in our form."""
        self.close_connection = True
        self.command = self.command or "GET"
        self._say(HTTPStatus(code), {"error": message or HTTPStatus(code).phrase})

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug(format, *arguments)


def _named(query: str) -> str:
    """The name that the sender gives the image: shown, never used as a path."""
    try:
        said = parse_qs(query, max_num_fields=8).get("name", [""])[0]
    except ValueError:
        said = ""
    plain = "".join(c for c in said.replace("\\", "/").rpartition("/")[2] if c.isprintable())
    return plain[:_MOST_NAME] or "image"
