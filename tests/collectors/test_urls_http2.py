"""HTTP/2 over TLS where it is served: many images over one connection, and certificates that are looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_server import image
from http2_server import Http2Server

from imaginet_build.collectors.urls import Urls
from imaginet_build.errors import UsageError
from imaginet_build.records import Found, Refusal, Want


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Http2Server(tmp_path_factory.mktemp("tls")) as running:
        yield running


def collected(server: Http2Server, folder: Path, count: int, **settings) -> list[Found | Refusal]:
    root = folder / "list.txt"
    root.write_text("".join(f"https://{server.place}/image/{n}.jpg\n" for n in range(count)))
    given = {"origin": "real", "allow_loopback": (server.place,), "ca_file": server.ca_file, "attempts": 1}
    return list(Urls(str(root), **given | settings).find(Want("urls", None, 0)))


def test_many_images_come_over_one_connection(server, tmp_path):
    answers = collected(server, tmp_path, 50)
    assert [item.data for item in answers] == [image(n) for n in range(50)]
    assert server.answered == 51  # and robots.txt
    assert server.connections == 1


def test_a_certificate_nobody_vouches_for_is_refused(server, tmp_path):
    answers = collected(server, tmp_path, 2, ca_file=None)
    assert [item.reason for item in answers] == ["tls", "tls"]
    assert "certificate" in answers[0].detail


def test_a_file_of_certificates_must_be_there(server, tmp_path):
    with pytest.raises(UsageError, match=r"ca_file = 'nowhere\.pem': no such file"):
        collected(server, tmp_path, 1, ca_file="nowhere.pem")
