"""As much of the Hub as `snapshot_download` of a data set takes, on 127.0.0.1.

`with served(root) as address` serves the folders below `root` as the data sets `lab/<folder>`.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef" * 2 + "01234567"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        asked = re.fullmatch(r"(/api)?/datasets/lab/([^/]+)(?:/(tree|resolve|revision)/([^/]+)(?:/(.*))?)?", path)
        place = self.root / asked[2] if asked else self.root / "nowhere"
        files = sorted(p for p in place.rglob("*") if p.is_file())
        if asked and asked[1] and asked[3] in (None, "revision") and place.is_dir():
            siblings = [{"rfilename": p.relative_to(place).as_posix()} for p in files]
            said = {"id": f"lab/{asked[2]}", "sha": COMMIT, "tags": [], "siblings": siblings}
            self.answer(json.dumps(said).encode())
        elif asked and asked[3] == "tree" and place.is_dir():
            rows = [
                {"type": "file", "oid": "0" * 40, "size": p.stat().st_size, "path": p.relative_to(place).as_posix()}
                for p in files
            ]
            self.answer(json.dumps(rows).encode())
        elif asked and asked[3] == "resolve" and (place / str(asked[5])).is_file():
            data = (place / str(asked[5])).read_bytes()
            self.answer(data, ETag=f'"{hashlib.sha256(data).hexdigest()}"')
        else:
            self.answer(b"{}", 404, **{"X-Error-Code": "EntryNotFound" if place.is_dir() else "RepoNotFound"})

    do_HEAD = do_GET

    def answer(self, body: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for key, value in ({"X-Repo-Commit": COMMIT, "Content-Type": "application/json"} | headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Quiet."""


@contextmanager
def served(root: Path) -> Iterator[str]:
    handler = type("Here", (Handler,), {"root": root})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
