"""Lists of URLs against a server with every fault: bytes as delivered, or a reason, in the list's order."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from pathlib import Path

import pytest
from faulty_server import DATE, FaultyServer, closed_port, image

from imaginet_build.collectors import ahead, fetching, urls
from imaginet_build.collectors.transport import Limits
from imaginet_build.collectors.urls import Urls
from imaginet_build.errors import BuildError
from imaginet_build.records import Found, Refusal, Want

Answers = list[Found | Refusal]


@pytest.fixture(scope="module")
def server():
    with FaultyServer() as running:
        yield running


def listed(folder: Path, *lines: str, name: str = "list.txt") -> str:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def adapter(server: FaultyServer | None, root: str, **settings) -> Urls:
    """As a recipe makes it, in a hurry."""
    given = {"origin": "real", "timeout": 2.0, "allow_loopback": (server.place,) if server else ()} | settings
    made = Urls(root, **given)
    made.manners = fetching.Manners(**{f: getattr(made.manners, f) for f in made.manners.__slots__} | {"first_wait": 0.01})
    made.limits = Limits(**{f: getattr(made.limits, f) for f in made.limits.__slots__} | {"stalled": 1.0})
    return made


def collected(server: FaultyServer, folder: Path, *paths: str, have: frozenset[str] = frozenset(), **settings) -> Answers:
    """What the list of these paths gives."""
    root = listed(folder, *[server.url(path) if path.startswith("/") else path for path in paths])
    return list(adapter(server, root, **settings).find(Want("urls", None, 0, have)))


def reasons(answers: Answers) -> list[str]:
    return [item.reason if isinstance(item, Refusal) else "had" for item in answers]


# --- bytes and order ---------------------------------------------------------------------------------------------------


def test_bytes_are_those_the_server_has_and_names_are_the_urls(server, tmp_path):
    paths = [f"/image/{n}.jpg" for n in range(40)]
    found = collected(server, tmp_path, *paths)
    assert [item.source_key for item in found] == [server.url(path) for path in paths]
    assert [item.data for item in found] == [image(n) for n in range(40)]
    assert {item.origin for item in found} == {"real"}


def test_the_order_and_the_set_do_not_depend_on_speed_or_concurrency(server, tmp_path):
    paths = [
        f"/busy/503/1/{n}.jpg?{{}}" if n % 3 == 0 else f"/image/{n}.jpg" if n % 3 == 1 else f"/status/404/{n}"
        for n in range(30)
    ]
    runs = []
    for number, settings in enumerate(
        ({"concurrency": 1}, {"concurrency": 16, "per_host": 2}, {"concurrency": 64, "per_host": 64})
    ):
        answers = collected(server, tmp_path, *[path.format(number) for path in paths], **settings)
        runs.append([(item.source_key.partition("?")[0], *reasons([item])) for item in answers])
    assert runs[0] == runs[1] == runs[2]
    assert {reason for _, reason in runs[0]} == {"had", "http-404"}


def test_what_is_here_is_not_asked_for_again(server, tmp_path):
    paths = [f"/image/{n}.jpg" for n in range(100, 110)]
    have = frozenset(server.url(path) for path in paths[::2])
    assert [item.source_key for item in collected(server, tmp_path, *paths, have=have)] == [server.url(p) for p in paths[1::2]]
    assert not {f"/image/{n}.jpg" for n in range(100, 110, 2)} & set(server.asked)


def test_a_quota_that_is_met_ends_the_asking(server, tmp_path):
    root = listed(tmp_path, *[server.url(f"/image/{n}.jpg") for n in range(5000, 6000)])
    source = iter(adapter(server, root, concurrency=2).find(Want("urls", None, 0)))
    assert [next(source).data for _ in range(3)] == [image(n) for n in range(5000, 5003)]
    threads = threading.active_count()
    source.close()
    assert threading.active_count() < threads
    time.sleep(0.1)
    asked = len([path for path in server.asked if path.startswith("/image/5")])
    assert asked <= 3 + 16
    time.sleep(0.1)
    assert len([path for path in server.asked if path.startswith("/image/5")]) == asked


def test_no_more_is_fetched_than_a_quota_may_need(tmp_path):
    with FaultyServer() as server:
        dead = {n for n in range(40) if n % 5 in (1, 3)}
        root = listed(tmp_path, *[server.url(f"/status/404/{n}" if n in dead else f"/image/{n}.jpg") for n in range(40)])
        source = adapter(server, root).find(Want("urls", None, 0, count=12))
        taken = []
        while sum(isinstance(item, Found) for item in taken) < 12:
            taken.append(next(source))
        time.sleep(0.1)
        assert len(server.asked) == len(taken) + 1  # and robots.txt
        rest = list(source)  # the caller could not use some of them, and asks for more all the same
        assert len(taken) + len(rest) == 40


def test_what_was_learnt_of_a_host_outlasts_one_quota(tmp_path):
    with FaultyServer() as server:
        root = listed(
            tmp_path, "url,stratum", f"{server.url('/image/1.jpg')},a", f"{server.url('/image/2.jpg')},b", name="l.csv"
        )
        source = adapter(server, root)
        for stratum in source.strata(Want("urls", None, 0)):
            (found,) = source.find(Want("urls", None, 0, stratum=stratum))
            assert found.stratum == stratum
        assert server.asked.count("/robots.txt") == 1


def test_memory_is_bounded_when_the_caller_is_slow_and_nothing_is_lost(tmp_path, monkeypatch):
    bodies = {n: image(n) + bytes(50_000) for n in range(60)}
    seen = []
    grow = ahead.Memory.grow
    monkeypatch.setattr(ahead.Memory, "grow", lambda self, turn, size: (grow(self, turn, size), seen.append(self.held))[0])
    with FaultyServer(images=bodies) as server:
        root = listed(tmp_path, *[server.url(f"/image/{n}.jpg") for n in range(60)])
        got = []
        for item in adapter(server, root, memory=200_000, concurrency=16, per_host=16).find(Want("urls", None, 0)):
            got.append(item.data)
            time.sleep(0.002)
    assert got == list(bodies.values())
    assert 100_000 < max(seen) <= 200_000 + max(map(len, bodies.values()))


# --- the server's faults -----------------------------------------------------------------------------------------------

FAULTS = {
    "/status/404": "http-404",
    "/status/403/1": "http-403",
    "/status/500": "http-500",
    "/status/206": "http-206",
    "/status/304": "http-304",
    "/drop": "dropped",
    "/hang": "timeout",
    "/drip": "timeout",
    "/cut/7.jpg": "cut-short",
    "/headers": "bad-answer",
    "/informed": "bad-answer",
    "/nonsense": "bad-answer",
    "/endless": "too-large",
    "/page.jpg": "web-page",
    "/empty.jpg": "empty",
    "/gzip": "encoded",
    "/loop": "too-many-redirects",
    "/to/302?http://169.254.169.254/latest/meta-data": "private-address",
    "/to/302?http://[::1]:8000/x": "private-address",
    "/to/301?http://10.0.0.1/": "private-address",
    "/to/307?http://2130706433/": "bad-url",
    "/to/302?file:///etc/passwd": "scheme",
    "/to/302?ftp://a.example/": "scheme",
    "/to/302?http://user:secret@a.example/": "credentials",
    "/to/302?": "http-302",
    "/tag/noai/1.jpg": "opted-out",
    "/tag/NoIndex,%20noimageai/1.jpg": "opted-out",
    "/tag/imaginet-build:%20noai/1.jpg": "opted-out",
    "/tdm/1.jpg": "opted-out",
}


def test_every_fault_is_a_reason_and_the_rest_goes_on(server, tmp_path):
    paths = [path for fault in FAULTS for path in (fault, f"/image/{len(fault)}.jpg?{fault.replace('/', '-')}")]
    start = time.monotonic()
    answers = collected(server, tmp_path, *paths, max_bytes=1_000_000, attempts=2)
    assert dict(zip(FAULTS, reasons(answers)[::2], strict=True)) == FAULTS
    assert set(reasons(answers)[1::2]) == {"had"}
    assert [item.source_key for item in answers] == [server.url(path) for path in paths]
    assert time.monotonic() - start < 20
    assert not any("secret" in item.detail for item in answers[::2])


def test_web_pages_are_known_by_their_first_bytes():
    start = time.process_time()
    assert urls._is_web_page(b"\xef\xbb\xbf \n<!-- x --><!-- y -->\n<HTML>")
    assert not urls._is_web_page(b"<!---->" * 1000 + b"<svg")
    assert not urls._is_web_page(image(1))
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize(
    "said", ["otherbot: noai", "unavailable_after: 25 Jun 2030 15:00:00 PST", "nofollow", "otherbot: noai, noindex"]
)
def test_what_is_said_to_others_is_not_said_to_us(server, tmp_path, said):
    assert reasons(collected(server, tmp_path, f"/tag/{said.replace(' ', '%20')}/1.jpg")) == ["had"]


def test_opt_outs_can_be_chosen(server, tmp_path):
    assert reasons(collected(server, tmp_path, "/tag/noindex/1.jpg", opt_outs=("noai",))) == ["had"]
    assert reasons(collected(server, tmp_path, "/tag/noai/1.jpg", "/tdm/2.jpg", opt_outs=())) == ["had", "had"]


def test_what_may_be_better_next_time_is_tried_again(server, tmp_path):
    paths = ["/busy/500/1/1.jpg", "/busy/429/2/2.jpg", "/busy/503/2/3.jpg", "/busy/429/3/4.jpg", "/busy/404/1/5.jpg"]
    answers = collected(server, tmp_path, *paths)
    assert reasons(answers) == ["had", "had", "had", "http-429", "http-404"]
    assert answers[1].data == image(2)
    assert [server.times[path] for path in paths] == [2, 3, 3, 3, 1]


def test_a_wait_the_server_asks_for_is_kept_and_a_long_one_given_up(server, tmp_path):
    start = time.monotonic()
    assert reasons(collected(server, tmp_path, "/wait/1", attempts=2)) == ["http-503"]
    assert time.monotonic() - start >= 1
    assert reasons(collected(server, tmp_path, "/wait/100000")) == ["http-503"]
    assert server.times["/wait/1"] == 2
    answers = collected(server, tmp_path, "/wait/100000", "/image/1.jpg", concurrency=1)
    assert reasons(answers) == ["http-503", "http-503"]  # the host wants its rest
    assert "100,000 s of rest and is not asked again in this run" in answers[1].detail
    assert server.times["/wait/100000"] == 2


@pytest.mark.parametrize(
    ("header", "least", "most"), [("7", 7, 7), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0), ("9" * 50, 1e8, 1e10)]
)
def test_retry_after_is_a_number_or_a_date(header, least, most):
    assert least <= fetching.retry_after(header) <= most


def test_retry_after_may_be_nonsense():
    assert fetching.retry_after("soon") is None
    assert fetching.retry_after("-1") is None


def test_redirects_are_followed_within_what_is_allowed(server, tmp_path):
    place = f"/to/301?{server.url('/to/308?')}/image/3.jpg"
    (found,) = collected(server, tmp_path, place)
    assert found.data == image(3)
    assert found.source_key == server.url(place)
    with closed_port() as port:
        (refused,) = collected(server, tmp_path, f"/to/302?http://127.0.0.1:{port}/")
    assert refused.reason == "private-address"  # loopback is open at the named port alone


def test_a_body_longer_than_announced_is_read_as_announced_and_the_connection_left(server, tmp_path):
    answers = collected(server, tmp_path, "/short/1.jpg", "/image/2.jpg")
    assert answers[0].data == image(1)[:100]  # what the decoder makes of it is another matter
    assert answers[1].data == image(2)


def test_a_dead_port_costs_little_and_is_said(tmp_path, server):
    with closed_port() as port:
        place = f"127.0.0.1:{port}"
        answers = collected(
            server,
            tmp_path,
            *[f"http://{place}/{n}.jpg" for n in range(100)],
            "/image/1.jpg",
            allow_loopback=(server.place, place),
        )
    assert reasons(answers) == ["unreachable"] * 100 + ["had"]


def test_nothing_on_this_machine_is_reached_without_the_setting(server, tmp_path):
    before = len(server.asked)
    answers = collected(
        server, tmp_path, "/image/1.jpg", "http://127.0.0.1/", "http://[::1]/", "http://0.0.0.0/", allow_loopback=()
    )
    assert reasons(answers) == ["private-address"] * 4
    assert len(server.asked) == before


def test_proxies_and_passwords_of_the_environment_are_not_used(server, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("default login user password secret\n")
    assert reasons(collected(server, tmp_path, "/image/1.jpg")) == ["had"]
    assert "authorization" not in server.headers[-1]


# --- checks ------------------------------------------------------------------------------------------------------------


def test_checksums_and_etags_of_the_list_are_checked(server, tmp_path):
    good = [hashlib.sha256(image(1)).hexdigest(), hashlib.md5(image(1)).hexdigest(), '"v1"']
    rows = [
        ["a", good[0].upper(), "", ""], ["b", "", good[1], ""], ["c", "", "", "v1"], ["d", "0" * 64, "", ""],
        ["e", "", "0" * 32, ""], ["f", "", "", "v2"], ["g", "nonsense", "", ""],
        ["h", "", base64.b64encode(bytes.fromhex(good[1])).decode(), ""],
    ]  # fmt: skip
    lines = [",".join([key, server.url("/image/1.jpg"), *rest]) for key, *rest in rows]
    root = listed(tmp_path, "key,url,sha256,md5,etag", *lines, name="list.csv")
    answers = list(adapter(server, root).find(Want("urls", None, 0)))
    assert reasons(answers) == ["had", "had", "had", "checksum", "checksum", "etag", "bad-checksum", "had"]
    assert [item.source_key for item in answers] == list("abcdefgh")


def test_the_servers_date_is_taken_where_asked_and_the_list_has_none(server, tmp_path):
    root = listed(
        tmp_path, "url,date", f"{server.url('/image/1.jpg')},", f"{server.url('/image/2.jpg')},2019-01-02", name="l.csv"
    )
    assert [item.date for item in adapter(server, root).find(Want("urls", None, 0))] == [None, "2019-01-02"]
    dated = adapter(server, root, last_modified=True).find(Want("urls", None, 0))
    assert [item.date for item in dated] == ["2020-05-05", "2019-01-02"]
    assert "2020" in DATE


# --- manners -----------------------------------------------------------------------------------------------------------


def test_no_host_is_asked_for_more_than_its_share_at_once(tmp_path):
    with FaultyServer() as server:
        server.slow = 0.02
        answers = collected(server, tmp_path, *[f"/image/{n}.jpg" for n in range(40)], concurrency=32, per_host=3)
        assert set(reasons(answers)) == {"had"}
        assert server.most_active == 3
        assert server.connections <= 4


def test_robots_are_asked_for_once_and_kept_to(tmp_path):
    ours = "User-agent: imaginet-build\nDisallow: /image/1\nAllow: /image/12.jpg\nCrawl-delay: 0.01\n"
    rules = "User-agent: *\nDisallow: /image/\n\n" + ours
    with FaultyServer(rules) as server:
        answers = collected(server, tmp_path, *[f"/image/{n}.jpg" for n in (1, 2, 12, 13)])
        assert reasons(answers) == ["robots", "had", "had", "robots"]
        assert server.asked.count("/robots.txt") == 1
        assert all(agent.startswith("imaginet-build/") for agent in server.agents)
        assert reasons(collected(server, tmp_path, "/image/1.jpg", robots=False)) == ["had"]


def test_a_redirect_into_closed_ground_is_not_followed(tmp_path):
    with FaultyServer("User-agent: *\nDisallow: /image/\n") as server:
        assert reasons(collected(server, tmp_path, f"/to/302?{server.url('/image/1.jpg')}")) == ["robots"]


@pytest.mark.parametrize(
    ("status", "reason"), [("404", "had"), ("403", "had"), ("500", "robots-unreachable"), ("503", "robots-unreachable")]
)
def test_robots_that_cannot_be_read_follow_rfc_9309(tmp_path, status, reason):
    with FaultyServer(status) as server:
        assert reasons(collected(server, tmp_path, "/image/1.jpg", attempts=2)) == [reason]


def test_a_contact_is_told_to_hosts(server, tmp_path):
    collected(server, tmp_path, "/image/1.jpg", contact="https://lab.example/crawler")
    assert server.headers[-1]["user-agent"].endswith("(+https://lab.example/crawler)")


# --- no network --------------------------------------------------------------------------------------------------------


def resolving(made: Urls, answers: dict[str, object]) -> Urls:
    """With a name server of its own: host -> addresses, or the error it gives."""

    def resolve(host: str, port: int) -> list[str]:
        answer = answers[host]
        if isinstance(answer, OSError):
            raise answer
        return answer

    made.resolve = resolve
    return made


def gone_names(start: int, end: int) -> list[str]:
    return [f"http://n{n}.example/" for n in range(start, end)]


def test_a_network_that_is_gone_is_no_fault_of_the_images(server, tmp_path):
    import socket

    away = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    none = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    names = {f"h{n}.example": away for n in range(40)} | {"none.example": none}
    root = listed(tmp_path, server.url("/image/1.jpg"), *[f"http://h{n}.example/" for n in range(40)])
    source = resolving(adapter(server, root), names).find(Want("urls", None, 0))
    assert reasons([next(source)]) == ["had"]
    with pytest.raises(BuildError, match=r"network seems to be gone: 20 images in a row.*run the same command again"):
        next(source)
    few = listed(tmp_path, "http://h1.example/", server.url("/image/1.jpg"), "http://h2.example/", "http://none.example/a")
    answers = list(resolving(adapter(server, few), names).find(Want("urls", None, 0)))
    assert reasons(answers) == ["no-name-server", "had", "no-name-server", "no-such-host"]
    names |= {f"n{n}.example": none for n in range(40)}
    gone = listed(tmp_path, *gone_names(0, 40))
    with pytest.raises(BuildError, match="network seems to be gone"):  # a machine without a network knows no name at all
        list(resolving(adapter(server, gone), names).find(Want("urls", None, 0)))
    mixed = listed(tmp_path, *gone_names(0, 5), server.url("/image/1.jpg"), *gone_names(5, 40))
    answers = list(resolving(adapter(server, mixed), names).find(Want("urls", None, 0)))
    assert reasons(answers) == ["no-such-host"] * 5 + ["had"] + ["no-such-host"] * 35
    with pytest.raises(BuildError, match="2 images in a row"):
        list(
            resolving(adapter(server, listed(tmp_path, "http://h1.example/", "http://h2.example/")), names).find(
                Want("urls", None, 0)
            )
        )


def test_a_name_on_loopback_is_reached_only_at_the_named_place(server, tmp_path):
    port = server.place.rpartition(":")[2]
    names = {"local.example": ["127.0.0.1"], "mixed.example": ["127.0.0.1", "192.168.0.1"]}
    root = listed(tmp_path, f"http://local.example:{port}/image/4.jpg", f"http://mixed.example:{port}/image/4.jpg")
    answers = list(resolving(adapter(server, root), names).find(Want("urls", None, 0)))
    assert reasons(answers) == ["had", "private-address"]
    assert answers[0].data == image(4)
    assert server.headers[-1]["host"] == f"local.example:{port}"
