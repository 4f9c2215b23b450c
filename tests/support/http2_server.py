"""An HTTP/2 server over TLS on 127.0.0.1, with a certificate of its own making: `/image/7.jpg` is an image, the rest 404."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import trustme
from faulty_server import image


class Http2Server:
    """`with Http2Server(folder) as server`: `server.ca_file` is the certificate to trust, `server.connections` counts them."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca_file = str(folder / "authority.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.set_alpn_protocols(["h2"])
        authority.issue_cert("127.0.0.1").configure_cert(self.tls)
        self.connections = self.answered = 0
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Http2Server:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._end.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        talk = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        talk.initiate_connection()
        writer.write(talk.data_to_send())
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                for event in talk.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        self._answer(talk, event)
                writer.write(talk.data_to_send())
                await writer.drain()
        writer.close()

    def _answer(self, talk: h2.connection.H2Connection, event: h2.events.RequestReceived) -> None:
        path = dict(event.headers)[b":path"].decode()
        self.answered += 1
        stem = path.rpartition("/")[2].removesuffix(".jpg")
        body = image(int(stem)) if stem.isdigit() else b"none"
        status = "200" if stem.isdigit() else "404"
        talk.send_headers(event.stream_id, [(":status", status), ("content-length", str(len(body)))])
        talk.send_data(event.stream_id, body, end_stream=True)  # smaller than a window
