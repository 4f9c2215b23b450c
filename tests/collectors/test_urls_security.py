"""No list, no redirect and no name server can make a request leave for a place that is not public. Nothing here connects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from imaginet_build.collectors import transport as transport_module
from imaginet_build.collectors.addresses import Addresses, Url, parse
from imaginet_build.collectors.fetching import Fetcher, Manners
from imaginet_build.collectors.transport import Curl, Failure, Reply

PUBLIC = "93.184.215.14"


class Scripted:
    """A transport that answers from a table, and notes what it was asked to connect to."""

    def __init__(self, answers: dict[str, Reply]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    async def get(self, url: Url, addresses: Sequence[str], most: int, grow: Callable[[int], bool]) -> Reply:
        self.asked.append((url.text, tuple(addresses)))
        return self.answers.get(url.text, Reply(404, {}, b""))

    async def close(self) -> None:
        pass


def to(place: str) -> Reply:
    return Reply(302, {"location": [place]}, b"")


def fetched(names: dict[str, list[list[str]]], answers: dict[str, Reply], url: str) -> tuple[Reply | str, Scripted]:
    """The answer or the reason, and the transport; each look-up of a name takes its next list of addresses."""
    transport = Scripted(answers)

    def resolve(host: str, port: int) -> list[str]:
        found = names[host]
        return found.pop(0) if len(found) > 1 else found[0]

    async def fetch() -> Reply | str:
        addresses = Addresses(resolve=resolve)
        fetcher = Fetcher(transport, addresses, Manners(attempts=2, first_wait=0.0))
        try:
            return await fetcher.fetch(parse(url), 1000)
        except Failure as failure:
            return failure.reason
        finally:
            await fetcher.close()

    return asyncio.run(fetch()), transport


IMAGE = Reply(200, {}, b"image")


def test_an_image_of_a_public_host_is_asked_for_at_the_judged_address():
    answer, transport = fetched({"a.example": [[PUBLIC]]}, {"http://a.example/x.jpg": IMAGE}, "http://a.example/x.jpg")
    assert answer == IMAGE
    assert transport.asked == [("http://a.example/robots.txt", (PUBLIC,)), ("http://a.example/x.jpg", (PUBLIC,))]


INSIDE = (
    "127.0.0.1 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 ::1 fe80::1 fd00::1 ::ffff:10.0.0.1 "
    "64:ff9b::a00:1 224.0.0.1 255.255.255.255"
)


@pytest.mark.parametrize("inside", INSIDE.split())
def test_a_redirect_to_a_name_inside_is_refused_before_anything_is_asked(inside):
    names = {"a.example": [[PUBLIC]], "inside.example": [[inside]]}
    answers = {"http://a.example/x": to("http://inside.example/secret"), "http://inside.example/secret": IMAGE}
    answer, transport = fetched(names, answers, "http://a.example/x")
    assert answer == "private-address"
    assert {place for _, place in transport.asked} == {(PUBLIC,)}


def test_every_step_of_a_chain_is_judged():
    names = {name: [[PUBLIC]] for name in ("a.example", "b.example", "c.example")}
    answers = {
        "http://a.example/": to("//b.example/"), "http://b.example/": to("https://c.example/"),
        "https://c.example/": to("http://[::ffff:7f00:1]/"),
    }  # fmt: skip
    answer, transport = fetched(names, answers, "http://a.example/")
    assert answer == "private-address"
    assert [url for url, _ in transport.asked if not url.endswith("robots.txt")] == list(answers)


def test_a_robots_txt_cannot_redirect_inside_either():
    answers = {"http://a.example/robots.txt": to("http://10.0.0.1/robots.txt"), "http://a.example/x": IMAGE}
    answer, transport = fetched({"a.example": [[PUBLIC]]}, answers, "http://a.example/x")
    assert answer == "private-address"  # what cannot be read forbids all (RFC 9309)
    assert len(transport.asked) == 1


def test_a_name_that_changes_its_meaning_leads_to_the_judged_address_or_nowhere():
    answer, transport = fetched({"a.example": [[PUBLIC], ["127.0.0.1"]]}, {"http://a.example/x": IMAGE}, "http://a.example/x")
    assert answer == IMAGE
    assert {place for _, place in transport.asked} == {(PUBLIC,)}


class Deceived(Addresses):
    """Takes any address a name server gives: the first wall is down."""

    async def of(self, url: Url) -> tuple[str, ...]:
        return ("10.1.2.3",)


@pytest.mark.parametrize("url", ["http://a.example/x", "https://a.example:8443/x", "http://10.1.2.3/x"])
def test_a_socket_to_an_address_inside_is_never_opened(url, monkeypatch):
    judges = []
    real = transport_module._Opened
    monkeypatch.setattr(transport_module, "_Opened", lambda *given: judges.append(real(*given)) or judges[-1])

    async def ask() -> None:
        addresses = Deceived()
        transport = Curl(addresses, "test")
        try:
            place = parse(url)
            await transport.get(place, await addresses.of(place), 1000, lambda _: True)
        finally:
            await transport.close()

    with pytest.raises(Failure, match=r"led to 10\.1\.2\.3 \(private\), where nothing is fetched") as said:
        asyncio.run(ask())
    assert said.value.reason == "private-address"
    assert [judge.sockets for judge in judges] == [[]]
