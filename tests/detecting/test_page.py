"""The page of `detect --serve`: what it answers, and everything it refuses."""

from __future__ import annotations

import http.client
import io
import json
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from imaginet_build.detect import detect
from imaginet_build.detecting import keeper as keepers
from imaginet_build.detecting import page as module
from imaginet_build.detecting.keeper import Busy, Keeper, TooSlow
from imaginet_build.detecting.page import Page
from imaginet_build.errors import UsageError

DATA = Path(__file__).resolve().parents[1] / "data"
BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def keeper() -> Iterator[Keeper]:
    keeper = Keeper()
    yield keeper
    keeper.close()


@pytest.fixture
def page(keeper: Keeper) -> Iterator[Page]:
    page = Page(keeper, port=0)
    thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield page
    page.shutdown()
    thread.join()
    page.server_close()


def picture(side: int = 120) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def ask(
    page: Page, method: str, path: str, body: bytes | None = None, headers: dict[str, str] = BYTES
) -> tuple[int, http.client.HTTPMessage, bytes]:
    link = http.client.HTTPConnection("127.0.0.1", page.port, timeout=120)
    try:
        link.request(method, path, body, headers)
        answer = link.getresponse()
        return answer.status, answer.msg, answer.read()
    finally:
        link.close()


def raw(page: Page, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", page.port), timeout=120) as link:
        link.sendall(text)
        link.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: link.recv(65536), b""))


# --- what it answers ---------------------------------------------------------------------------------------------------


def test_the_endpoint_says_what_detect_says(page: Page, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    (expected,) = detect([tmp_path / "a.png"])
    status, headers, body = ask(page, "POST", "/detect?name=a.png", picture())
    assert status == 200
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert json.loads(body) == [expected | {"path": "a.png"}]


def test_the_page_is_told_the_patches_and_what_the_file_claims(page: Page) -> None:
    status, _, body = ask(page, "POST", "/look?name=x.jpg", (DATA / "c2pa-generated.jpg").read_bytes())
    found = json.loads(body)
    assert status == 200
    assert found["answer"]["verdict"] == "cannot tell"
    assert found["evidence"]["c2pa"] == {"generators": ["ACME Imagine"], "source_types": ["trainedAlgorithmicMedia"]}
    assert found["evidence"]["file"]["codec"] == "jpeg"
    assert found["evidence"]["seen"] == {"width": 64, "height": 64}
    assert [p["side"] for p in found["patches"]] == [64]


def test_what_is_no_image_is_an_answer_with_its_reason(page: Page) -> None:
    for body in (b"no image", b"", picture()[:300]):
        status, _, said = ask(page, "POST", "/detect?name=n.png", body)
        (answer,) = json.loads(said)
        assert (status, answer.keys(), answer["path"]) == (200, {"path", "error"}, "n.png")


@pytest.mark.parametrize("path", ["/", "/detect.css", "/detect.js"])
def test_the_page_forbids_everything_but_itself(page: Page, path: str) -> None:
    status, headers, body = ask(page, "GET", path)
    assert status == 200
    assert body
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers
    text = body.decode()
    assert "http://" not in text
    assert "https://" not in text
    assert "innerHTML" not in text
    assert ask(page, "HEAD", path)[2] == b""


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("?name=..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("?name=C%3A%5Cpictures%5Ca.png", "a.png"),
        ("?name=" + quote("a\r\nX-Evil: 1\x00\x1b[31m"), "aX-Evil: 1[31m"),
        ("?name=" + "n" * 5000, "n" * 200),
        ("?" + "&".join(["a=b"] * 50), "image"),
        ("", "image"),
    ],
)
def test_a_name_is_shown_and_never_a_path(page: Page, query: str, name: str) -> None:
    assert json.loads(ask(page, "POST", "/detect" + query, b"x")[2])[0]["path"] == name


# --- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "127.0.0.1"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://127.0.0.1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": ""}, 415),
    ],
)
def test_pages_of_other_sites_may_not_ask(page: Page, headers: dict[str, str], status: int) -> None:
    answered, _, body = ask(page, "POST", "/detect", picture(), BYTES | headers)
    assert answered == status
    assert json.loads(body).keys() == {"error"}


def test_a_rebound_name_gets_not_even_the_page(page: Page) -> None:
    assert ask(page, "GET", "/", headers={"Host": f"evil.example:{page.port}"})[0] == 421
    assert ask(page, "GET", "/", headers={"Host": f"localhost:{page.port}"})[0] == 200
    two = raw(page, f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nHost: evil.example\r\n\r\n".encode())
    assert two.startswith(b"HTTP/1.0 421")
    assert raw(page, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 421")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/templates/card.md.j2", 404),
        ("GET", "/detect", 404),
        ("POST", "/", 404),
        ("PUT", "/detect", 501),
        ("OPTIONS", "/detect", 501),
        ("GET", "/favicon.ico", 204),
    ],
)
def test_there_is_nothing_else_here(page: Page, method: str, path: str, status: int) -> None:
    found, headers, body = ask(page, method, path)
    assert found == status
    assert "Access-Control-Allow-Origin" not in headers
    assert status == 204 or json.loads(body).keys() == {"error"}


def test_a_body_must_say_its_size_and_keep_to_it(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    head = f"POST /detect HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nContent-Type: image/png\r\n"
    assert raw(page, f"{head}\r\n".encode()).startswith(b"HTTP/1.0 411")
    for length, status in (("-1", 411), ("1e3", 411), ("٣", 411), (str(module.MAX_BYTES + 1), 413), ("9" * 400, 413)):
        assert f"HTTP/1.0 {status}".encode() in raw(page, f"{head}Content-Length: {length}\r\n\r\n".encode())[:20]
    chunked = f"{head}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    assert raw(page, chunked.encode()).startswith(b"HTTP/1.0 411")
    assert raw(page, f"{head}Content-Length: 100\r\n\r\nshort".encode()).startswith(b"HTTP/1.0 408")


def test_a_decompression_bomb_is_refused_by_its_header(page: Page) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    (answer,) = json.loads(ask(page, "POST", "/detect", bomb)[2])
    assert answer["error"].startswith("too-large")


def test_a_client_that_never_ends_its_request_is_ended(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_SECONDS", 0.2)
    page = Page(keeper, port=0)
    thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with socket.create_connection(("127.0.0.1", page.port), timeout=120) as link:
            link.sendall(b"GET / HTTP/1.1\r\nHost: ")
            try:
                rest = link.recv(1)
            except ConnectionResetError:
                rest = b""
            assert rest == b"", "the server hangs up by itself"
    finally:
        page.shutdown()
        thread.join()
        page.server_close()


def test_only_so_many_connections_at_once(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    # However slow this machine is, none of them is ended for saying nothing.
    monkeypatch.setattr(module._Handler, "timeout", 600)
    monkeypatch.setattr(module, "READ_SECONDS", 600.0)
    held = [socket.create_connection(("127.0.0.1", page.port), timeout=120) for _ in range(module.CONNECTIONS)]
    try:
        with socket.create_connection(("127.0.0.1", page.port), timeout=120) as late:
            assert late.recv(100).startswith(b"HTTP/1.0 503"), "nothing was asked, and it was refused all the same"
    finally:
        for link in held:
            link.close()


# --- the process behind it ---------------------------------------------------------------------------------------------


def test_an_image_that_takes_too_long_is_given_up_and_the_next_one_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(seconds=0)
    try:
        with pytest.raises(TooSlow, match="given up"):
            keeper.look("x", picture())
        monkeypatch.setattr(keeper, "_seconds", 120)
        assert keeper.look("y", picture())["answer"]["path"] == "y"
        keeper._process.kill()
        keeper._process.join()
        assert keeper.look("z", picture())["answer"]["path"] == "z"
    finally:
        keeper.close()


def test_only_so_many_images_wait(keeper: Keeper) -> None:
    taken = [keeper._room.acquire(blocking=False) for _ in range(keepers.WAITING)]
    try:
        assert all(taken)
        with pytest.raises(Busy, match="try again"):
            keeper.look("x", picture())
    finally:
        for _ in taken:
            keeper._room.release()


def test_wrong_calls_are_known_before_anything_is_served(keeper: Keeper, page: Page, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a checkpoint"):
        Keeper(tmp_path)
    with pytest.raises(UsageError, match=r"whole network.*--allow-host"):
        Page(keeper, "0.0.0.0", 0)
    with pytest.raises(UsageError, match="--bind nonsense"):
        Page(keeper, "nonsense", 0)
    with pytest.raises(UsageError, match="choose another with --port"):
        Page(keeper, "127.0.0.1", 99_999)


def test_told_so_it_answers_to_other_names(keeper: Keeper) -> None:
    page = Page(keeper, "0.0.0.0", 0, ["lab.example"])
    try:
        assert page.hosts == {f"{name}:{page.port}" for name in ("127.0.0.1", "localhost", "[::1]", "lab.example")}
        assert page.url == f"http://127.0.0.1:{page.port}/"
    finally:
        page.server_close()


def test_a_refused_sender_hears_why_however_much_it_was_sending(page: Page) -> None:
    status, _, body = ask(page, "POST", "/detect", bytes(module.MAX_BYTES + 1))
    assert status == 413
    assert "more than 33,554,432 bytes" in json.loads(body)["error"]
    assert ask(page, "POST", "/nowhere", bytes(3_000_000))[0] == 404
