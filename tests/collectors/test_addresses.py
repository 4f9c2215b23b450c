"""Where a URL may lead: the public network alone, however the address is written and whoever resolves the name."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build.collectors.addresses import Addresses, Unwelcome, forbidden, parse
from imaginet_build.errors import UsageError


def looked_up(answers: dict[str, list[str]], url: str, loopback: tuple[str, ...] = ()) -> tuple[str, ...]:
    def resolve(host: str, port: int) -> list[str]:
        return answers[host]

    return asyncio.run(Addresses(loopback, resolve).of(parse(url)))


FORBIDDEN = {
    "unspecified": "0.0.0.0 ::",
    "loopback": "127.0.0.1 127.255.0.9 ::1",
    "link-local": "169.254.169.254 fe80::1 fe80::1%eth0",
    "carrier-grade NAT": "100.64.0.1 100.127.255.254",
    "multicast": "224.0.0.1 239.255.255.255 ff02::1",
    "private": "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 0.1.2.3 192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.7 203.0.113.7 "
    "240.0.0.1 255.255.255.255 fc00::1 fd12::1 fec0::1 2001:db8::1 2001::1",
    "reserved": "64:ff9b:1::1 ::127.0.0.1",
    "special": "2002:7f00:1::1 192.88.99.1",
    "loopback, written as IP version 6": "::ffff:127.0.0.1 ::ffff:7f00:1 64:ff9b::127.0.0.1",
    "link-local, written as IP version 6": "::ffff:169.254.169.254 64:ff9b::a9fe:a9fe",
    "private, written as IP version 6": "64:ff9b::10.0.0.1",
    "no address": "localhost 127.1 1.2.3.4.5",
}


@pytest.mark.parametrize(("kind", "address"), [(kind, one) for kind, some in FORBIDDEN.items() for one in some.split()])
def test_addresses_that_are_never_connected_to(kind, address):
    assert forbidden(address) == kind


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "100.63.0.1", "172.32.0.1"]
)
def test_addresses_of_the_public_network(address):
    assert forbidden(address) is None


@given(st.ip_addresses(v=4))
@settings(max_examples=200, deadline=None)
def test_an_address_is_judged_alike_in_every_spelling(address):
    for spelling in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert (forbidden(spelling) is None) == (forbidden(str(address)) is None)
    if not address.is_global or address.is_multicast:
        assert forbidden(str(address))


def test_one_bad_address_condemns_a_name():
    with pytest.raises(Unwelcome, match=r"http://mixed.example leads to 10.0.0.7 \(private\)"):
        looked_up({"mixed.example": ["93.184.215.14", "10.0.0.7"]}, "http://mixed.example/a.jpg")


def test_a_name_is_looked_up_once_and_its_answer_kept():
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["93.184.215.14"] if len(asked) == 1 else ["127.0.0.1"]  # a rebinding name server

    async def twice() -> list[tuple[str, ...]]:
        addresses = Addresses(resolve=resolve)
        return await asyncio.gather(*[addresses.of(parse("http://rebind.example/")) for _ in range(5)])

    assert set(asyncio.run(twice())) == {("93.184.215.14",)}
    assert asked == [("rebind.example", 80)]


def test_a_name_server_that_never_answers_is_given_up():
    held = []

    async def ask() -> None:
        import threading

        gate = threading.Event()
        held.append(gate)
        addresses = Addresses(resolve=lambda host, port: [str(gate.wait(5))], seconds=0.05)
        try:
            await addresses.of(parse("http://silent.example/"))
        finally:
            gate.set()

    with pytest.raises(socket.gaierror, match="no answer from the name server"):
        asyncio.run(ask())


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/", "http://[::1]:8000/", "http://local.example:8000/"])
def test_loopback_is_closed_unless_the_very_place_was_named(url):
    answers = {"local.example": ["127.0.0.1"]}
    for allowed in ((), ("127.0.0.1:8001",), ("127.0.0.2:8000", "[::1]:8001")):
        with pytest.raises(Unwelcome, match="loopback"):
            looked_up(answers, url, allowed)
    assert looked_up(answers, url, ("127.0.0.1:8000", "[::1]:8000"))


@pytest.mark.parametrize("place", ["127.0.0.1", "10.0.0.1:80", "localhost:80", "0.0.0.0:80", "127.0.0.1:0", "127.0.0.1:x", ""])
def test_nothing_but_a_place_on_loopback_can_be_named(place):
    with pytest.raises(UsageError, match=r"ADDRESS:PORT, such as 127\.0\.0\.1:8000"):
        Addresses((place,))


# --- URLs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("http://a.example", "http://a.example/"),
        ("HTTPS://A.Example:443/x#part", "https://a.example/x"),
        ("http://a.example:8080/x?q=1&r=[2]", "http://a.example:8080/x?q=1&r=[2]"),
        (" http://é.example/ü y.jpg?q=ß ", "http://xn--9ca.example/%C3%BC%20y.jpg?q=%C3%9F"),
        ("http://a.example/%2e%2E/a%20b", "http://a.example/%2e%2E/a%20b"),
        ("http://[2606:4700:0::1111]/", "http://[2606:4700::1111]/"),
        ("http://a_b.example./", "http://a_b.example./"),
    ],
)
def test_urls_have_one_form(text, meant):
    assert parse(text).text == meant
    assert parse(parse(text).text) == parse(text)


UNWELCOME = {
    "scheme": [
        "ftp://a.example/x", "file:///etc/passwd", "data:image/png;base64,AA", "javascript:alert(1)", "//a.example/x", "x.jpg",
        '=HYPERLINK("http://a.example")', "gopher://a.example/", "httpx://a.example/",
    ],
    "credentials": ["http://user:secret@a.example/", "http://@a.example/", "https://secret@a.example:443/x"],
    "port": ["http://a.example:22/", "http://a.example:6379/", "http://a.example:0/", "https://a.example:25/"],
    "bad-url": [
        "", "http://a.example:99999/", "http://a.example:x/", "http://a.example/\r\nX: y", "http://a.example\\@b.example/",
        "http://[::1", "http://[v1.x]/", "http://[a.example]/", "http:///x", "http://a b.example/", "http://-a.example/",
        "http://a..b/", f"http://{'a' * 64}.example/", "http://127.1/", "http://2130706433/", "http://0x7f000001/",
        "http://0177.0.0.1/", "http://1.2.3.4.5/", "http://a.example/" + "x" * 9000, "http://a.example/\0", "http://[::1%25lo]/",
        "http://user:secret@[bad/",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason, some in UNWELCOME.items() for text in some])
def test_urls_that_are_not_asked_for(reason, text):
    with pytest.raises(Unwelcome) as said:
        parse(text)
    assert said.value.reason == reason
    assert "secret" not in str(said.value)


def test_a_redirect_is_read_against_the_page_it_came_from():
    base = parse("https://a.example/x/y.jpg?key=1")
    assert parse("z.jpg", base).text == "https://a.example/x/z.jpg"
    assert parse("//b.example/z", base).text == "https://b.example/z"
    assert "key" not in base.shown


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_url_or_refused(text):
    for candidate in (text, "http://" + text, "http://a.example/" + text):
        try:
            url = parse(candidate)
        except Unwelcome:
            continue
        assert url.text.isascii()
        assert url.text.isprintable()
        assert " " not in url.text
        assert parse(url.text) == url
