"""Files, folders and URLs as bytes, in the order they were named."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imaginet_build.detecting import given as module
from imaginet_build.detecting.given import given
from imaginet_build.errors import UsageError


class Shop(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/inside":
            self.send_response(302)
            self.send_header("Location", "http://10.0.0.1/secret")
            self.end_headers()
            return
        body = b"<html>a page" if self.path == "/page" else self.path.encode()
        self.send_response(404 if self.path == "/gone" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[tuple[str, list[str]]]:
    pytest.importorskip("pycurl")
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("S", (Shop,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_folders_and_urls_come_in_the_order_they_were_named(tmp_path: Path, shop: tuple[str, list[str]]) -> None:
    place, asked = shop
    (tmp_path / "deep").mkdir()
    for name in ("b.jpg", "deep/a.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    paths = [
        f"http://{place}/2",
        tmp_path / "b.jpg",
        f"http://{place}/1",
        tmp_path,
        f"http://{place}/2",
        tmp_path / "notes.txt",
    ]
    found = list(given(paths, [place]))
    assert [f.data for f in found] == [b"/2", b"b.jpg", b"/1", b"b.jpg", b"deep/a.PNG", b"/2", b"notes.txt"]
    assert found[0].name == f"http://{place}/2"
    assert sorted(asked) == ["/1", "/2"], "an address is asked once, and robots.txt not at all: a person looks, no crawler"


def test_what_a_url_does_not_give_is_an_answer_with_its_reason(shop: tuple[str, list[str]], tmp_path: Path) -> None:
    place, _ = shop
    names = ["gone", "page", "inside", "good"]
    found = list(given([*(f"http://{place}/{name}" for name in names), "http://user:pw@example.org/x"], [place]))
    assert [f.data for f in found] == [None, None, None, b"/good", None]
    for answer, word in zip(found, ["http-404", "web-page", "private-address", "", "credentials"], strict=True):
        assert word in answer.error
    assert "pw" not in found[4].error


def test_nothing_on_this_machine_or_its_network_is_fetched(shop: tuple[str, list[str]]) -> None:
    place, asked = shop
    found = list(given([f"http://{place}/1", "http://169.254.169.254/latest/meta-data", "https://[::1]/x"]))
    assert all("private-address" in f.error and f.data is None for f in found)
    assert asked == []


def test_what_cannot_be_read_is_an_answer_and_what_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "large.png").write_bytes(b"x" * 101)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    found = list(given([tmp_path / "pipe.png", tmp_path / "large.png"]))
    assert [f.data for f in found] == [None, None]
    assert "a device or a pipe" in found[0].error
    assert "too-large" in found[1].error
    (tmp_path / "empty").mkdir()
    for path, word in (("none.png", "does not exist"), ("empty", "holds no image files"), ("ftp://x/y.png", "does not exist")):
        with pytest.raises(UsageError, match=word):
            given([tmp_path / path if "://" not in path else path])


def test_an_address_that_leads_nowhere_does_not_take_another_ones_turn(shop: tuple[str, list[str]]) -> None:
    place, _ = shop
    good = [f"http://{place}/{k}" for k in range(12)]
    names = ["http://no-such-host.invalid/x", *good[:5], "http://127.0.0.1:22/x", *good[5:], "http://\udcff/x"]
    found = list(given(names, [place]))
    assert [f.name for f in found] == names
    assert [f.data for f in found if f.name in good] == [f"/{k}".encode() for k in range(12)]
    wrong = [f for f in found if f.name not in good]
    assert all(f.data is None and f.error for f in wrong)
    assert "port" in wrong[1].error
    assert "urls.jsonl" not in "".join(f.error for f in wrong)


def test_without_a_network_files_are_answered_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycurl")

    def unresolved(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    (tmp_path / "a.png").write_bytes(b"a")
    found = list(given(["http://images.example/x", tmp_path / "a.png"]))
    assert [f.data for f in found] == [None, b"a"]
    assert "Temporary failure" in found[0].error
