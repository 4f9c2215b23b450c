"""C2PA claims are read from real manifests and from hostile ones: bounded, and never with an exception."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build.imagefiles import c2pa, containers, provenance

DATA = Path(__file__).parents[1] / "data"


def cbor(value: object) -> bytes:
    """A value as CBOR, the other way round: an encoder of the test's own."""
    if value is None or isinstance(value, bool):
        return bytes([{False: 0xF4, True: 0xF5, None: 0xF6}[value]])
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(cbor, value))
    assert isinstance(value, dict)
    return _head(5, len(value)) + b"".join(cbor(key) + cbor(inner) for key, inner in value.items())


def _head(major: int, size: int) -> bytes:
    for minor, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if size < 24:
            return bytes([major << 5 | size])
        if size < 256**width:
            return bytes([major << 5 | minor]) + size.to_bytes(width, "big")
    raise AssertionError(size)


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def store(*assertions: tuple[bytes, bytes]) -> bytes:
    label = box(b"jumd", b"c2pa" + bytes(12) + b"\x03c2pa\0")
    return box(b"jumb", label + b"".join(box(b"jumb", box(b"jumd", bytes(17)) + box(kind, body)) for kind, body in assertions))


@pytest.mark.parametrize(
    ("name", "generator", "source"),
    [
        ("c2pa-generated.jpg", "ACME Imagine", "trainedAlgorithmicMedia"),
        ("c2pa-camera.png", "ACME Camera", "digitalCapture"),
        ("c2pa-edited.webp", "ACME Retouch", "compositeWithTrainedAlgorithmicMedia"),
    ],
)
def test_what_the_reference_library_signed_is_read(name: str, generator: str, source: str) -> None:
    """The three files were signed with c2pa-python 0.38.1, the Content Authenticity Initiative's own library."""
    data = (DATA / name).read_bytes()
    said = provenance.read(data, containers.sniff(data))
    assert said.odd == []
    assert said.claims == c2pa.Claims((generator,), (source,), None)


def test_claims_and_assertions_in_cbor_and_json_are_both_read() -> None:
    kind = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    claim = cbor({"claim_generator": "maker/1.0", "claim_generator_info": [{"name": "Maker", "version": "1"}]})
    action = json.dumps({"actions": [{"digitalSourceType": kind, "softwareAgent": {"name": "Agent"}}]})
    claims = c2pa.read(store((b"cbor", claim), (b"json", action.encode()), (b"bidb", b"thumbnail")))
    assert claims == c2pa.Claims(("maker/1.0", "Maker", "Agent"), ("trainedAlgorithmicMedia",), None)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_cbor_comes_back_as_it_went_in(value: object) -> None:
    assert c2pa.decode(cbor(value)) == value


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\x9f\x01\x02\xff", [1, 2]),
        (b"\xbf\x61a\x01\xff", {"a": 1}),
        (b"\x7f\x61a\x61b\xff", "ab"),
        (b"\x5f\x41a\x41b\xff", b"ab"),
        (b"\xc0\x61t", "t"),
        (b"\xf9\x3c\x00", 1.0),
    ],
)
def test_indefinite_lengths_tags_and_half_floats_are_read(data: bytes, value: object) -> None:
    assert c2pa.decode(data) == value


HOSTILE = {
    "a map that says it has 2**63 entries": b"\xbb" + b"\x7f" * 8,
    "a text of 2**62 bytes": b"\x7b" + b"\x3f" * 8 + b"x",
    "lists in lists": b"\x81" * 100_000,
    "endless lists in endless lists": b"\x9f" * 100_000,
    "a hundred thousand nothings": b"\x9a\x00\x01\x86\xa0" + b"\xf6" * 100_000,
    "a break where none belongs": b"\x82\xff\xff",
    "a reserved length": b"\x1c",
    "a broken text": b"\x62\xff\xfe",
    "nothing": b"",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_cbor_is_said_and_the_rest_of_the_manifest_is_read(body: bytes) -> None:
    start = time.process_time()
    claims = c2pa.read(store((b"cbor", body), (b"cbor", cbor({"claim_generator": "honest"}))))
    assert claims.generators == ("honest",)
    assert claims.odd
    assert time.process_time() - start < 2


def test_hostile_boxes_are_said() -> None:
    deep = b""
    for _ in range(200):
        deep = box(b"jumb", deep)
    wide = box(b"free", b"") * 10_000
    assert "deep" in (c2pa.read(deep).odd or "")
    assert "more than 4096 boxes" in (c2pa.read(wide).odd or "")
    assert "longer than the manifest" in (c2pa.read(struct.pack(">I4s", 9000, b"jumb") + b"x").odd or "")
    assert "ends inside a box" in (c2pa.read(b"\0\0\0").odd or "")
    assert "longer than the manifest" in (c2pa.read(struct.pack(">I4sQ", 1, b"jumb", 2**63)).odd or "")
    assert "a manifest of" in (c2pa.read(bytes(c2pa.MAX_BYTES + 1)).odd or "")
    assert "passed over" in (c2pa.read(store((b"cbor", bytes(c2pa.MAX_CONTENT + 1)))).odd or "")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_damage_raises(data: st.DataObject) -> None:
    whole = bytearray((DATA / "c2pa-generated.jpg").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(2, len(whole) - 1))] = data.draw(st.integers(0, 255))
    said = provenance.read(bytes(whole[: data.draw(st.integers(2, len(whole)))]), "jpeg")
    assert isinstance(said.odd, list)
    assert isinstance(c2pa.read(data.draw(st.binary(max_size=300))), c2pa.Claims)
