"""A web server on 127.0.0.1 that serves images and every fault a server can have. Paths say what happens:

/image/7.jpg          an image, with ETag, Last-Modified and Content-Length
/status/404           that status; /busy/429/1/7.jpg: that status once (with Retry-After: 1), then the image
/drop                 the connection closes without an answer; /hang: nothing ever comes; /cut/7.jpg: half of the image
/drip                 one byte now and then; /endless: no end; /short/7.jpg: a Content-Length that is too small
/headers, /informed   headers, or 1xx answers, without an end; /nonsense: no HTTP at all
/page.jpg             a web page as image/jpeg; /empty.jpg: nothing; /gzip: ten megabytes in ten kilobytes
/tag/VALUE/7.jpg      with X-Robots-Tag: VALUE
/to/STATUS/URL        a redirect there; /loop: one to itself
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from urllib.parse import unquote

from pictures import jpeg

DATE = "Tue, 05 May 2020 10:00:00 GMT"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sorry</title></head><body>gone</body></html>"


def image(number: int) -> bytes:
    return jpeg(f"served {number}", 40, 32)


class FaultyServer:
    """`with FaultyServer() as server`: `server.place` is its address and port, `server.asked` what it was asked for."""

    def __init__(
        self, robots: str | None = None, tls: ssl.SSLContext | None = None, images: dict[int, bytes] | None = None
    ) -> None:
        self.robots, self.tls, self.images = robots, tls, images or {}
        self.gone: set[int] = set()
        self.asked: list[str] = []
        self.agents: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.active = self.most_active = 0
        self.slow = 0.0
        self.times: Counter[str] = Counter()
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"{'https' if self.tls else 'http'}://{self.place}{path}"

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self.tls, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._end.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                path = head[0].split(" ")[1]
                self.asked.append(path)
                self.headers.append(headers)
                self.agents.add(headers.get("user-agent", ""))
                self.active += 1
                self.most_active = max(self.active, self.most_active)
                try:
                    await asyncio.sleep(self.slow)
                    await self._answer(path, writer)
                    await writer.drain()
                finally:
                    self.active -= 1
                if writer.is_closing():
                    break
        writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        self.times[path] += 1
        place, _, query = path.partition("?")
        kind, *rest = place.strip("/").split("/")
        stem = place.rpartition("/")[2].removesuffix(".jpg")
        number = int(stem) if stem.isdigit() else 0
        match kind, rest:
            case "robots.txt", _:
                if self.robots is None:
                    self._send(writer, 404, b"none")
                elif self.robots.isdigit():
                    self._send(writer, int(self.robots), b"")
                else:
                    self._send(writer, 200, self.robots.encode(), {"Content-Type": "text/plain"})
            case "status", [status, *_]:
                self._send(writer, int(status), b"no")
            case "busy", [status, times, _]:
                if self.times[path] <= int(times):
                    self._send(writer, int(status), b"later", {"Retry-After": "0" if status == "429" else "x"})
                else:
                    self._image(writer, number)
            case "wait", [seconds, *_]:
                self._send(writer, 503, b"", {"Retry-After": seconds})
            case "drop", _:
                writer.transport.abort()
            case "hang", _:
                await self._end.wait()
            case "cut", _:
                body = image(number)
                self._head(writer, 200, len(body))
                writer.write(body[: len(body) // 2])
                await writer.drain()
                writer.close()
            case "drip", _:
                self._head(writer, 200, 100_000)
                while not self._end.is_set():
                    writer.write(b"\xff")
                    await writer.drain()
                    await asyncio.sleep(0.1)
            case "endless", _:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n")
                while not writer.is_closing():
                    writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    await writer.drain()
            case "headers", _:
                writer.write(b"HTTP/1.1 200 OK\r\n")
                while not writer.is_closing():
                    writer.write(b"X-More: " + b"y" * 1000 + b"\r\n")
                    await writer.drain()
            case "informed", _:
                while not writer.is_closing():
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
                    await writer.drain()
            case "short", _:
                self._head(writer, 200, 100)
                writer.write(image(number))
                writer.close()
            case "nonsense", _:
                writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
                writer.close()
            case "page.jpg", _:
                self._send(writer, 200, PAGE)
            case "empty.jpg", _:
                self._send(writer, 200, b"")
            case "gzip", _:
                self._send(writer, 200, gzip.compress(bytes(10_000_000)), {"Content-Encoding": "gzip"})
            case "tag", [value, _]:
                self._image(writer, number, {"X-Robots-Tag": unquote(value)})
            case "tdm", _:
                self._image(writer, number, {"TDM-Reservation": "1"})
            case "to", [status]:
                self._send(writer, int(status), b"elsewhere", {"Location": unquote(query)})
            case "loop", _:
                self._send(writer, 302, b"", {"Location": "/loop"})
            case _:
                self._image(writer, number)

    def _image(self, writer: asyncio.StreamWriter, number: int, headers: dict[str, str] | None = None) -> None:
        if number in self.gone:
            return self._send(writer, 404, b"gone")
        body = self.images.get(number) or image(number)
        self._send(writer, 200, body, {"ETag": f'"v{number}"', "Last-Modified": DATE} | (headers or {}))

    def _send(self, writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(writer, status, len(body), headers)
        writer.write(body)

    def _head(self, writer: asyncio.StreamWriter, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        told = {"Content-Type": "image/jpeg", "Content-Length": str(length)} | (headers or {})
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        writer.write(f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode("latin-1"))


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 at which nobody answers."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
