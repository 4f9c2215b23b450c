"""Google's image models, by their true client, against a server on this machine that does what can go wrong."""

from __future__ import annotations

import json
import logging
import pickle

import pytest
from paid_server import (
    KEY,
    drips,
    drops,
    drops_in_the_body,
    gemini_answer,
    picture,
    says,
    serving,
)

from imaginet_build import catalog
from imaginet_build.errors import UsageError
from imaginet_build.generators import api, conformance
from imaginet_build.generators.google_images import GoogleImages
from imaginet_build.paying.ledger import Ledger, Stopped
from imaginet_build.records import Refusal

ORDERS = conformance.orders(4, 64, 48, needs="prompt")
PICTURES = [picture(order.prompt.text, "64x48") for order in ORDERS]
HONEST = PICTURES[0]


def trouble(code: int, status: str = "", message: str = "no", **detail) -> dict:
    return {"error": {"code": code, "status": status, "message": f"{message} (you sent {KEY})", "details": [detail]}}


@pytest.fixture
def server(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GEMINI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with serving() as served:
        served.status = "BATCH_STATE_SUCCEEDED"
        yield served
    assert "THE-SECRET" not in caplog.text


def made(server, **more) -> GoogleImages:
    settings = {"first_wait": 0.01, "timeout": 5, "shapes": {"64x48": ("4:3", "1K")}} | more
    return GoogleImages("gemini-test-image", server.url.removesuffix("/v1"), **settings)


def first(server, *acts, **more):
    server.script = {ORDERS[0].prompt.text: list(acts)}
    (got,) = made(server, **more).draw(ORDERS[:1])
    assert "THE-SECRET" not in repr(got)
    return got


def test_it_conforms(server):
    assert conformance.check(lambda: made(server), ORDERS) == []
    assert conformance.check_import("imaginet_build.generators.google_images") == []


def test_one_request_is_one_image_of_the_size_that_was_ordered(server):
    generator = made(server, options={"temperature": 0.5})
    assert list(generator.draw(ORDERS)) == PICTURES
    assert server.keys == {KEY}
    settings = server.asked[0]["generationConfig"]
    assert settings == {
        "temperature": 0.5,
        "responseModalities": ["IMAGE"],
        "imageConfig": {"aspectRatio": "4:3", "imageSize": "1K"},
    }
    (got,) = generator.draw(conformance.orders(1, 48, 64, needs="prompt"))
    assert got.reason == "bad-size"
    assert b"THE-SECRET" not in pickle.dumps(generator)
    assert generator.ledger.totals.images == 4


def test_tokens_become_dollars(server):
    generator = made(server, prices={"input": 1.5, "output": 30.0, "text": 7.5})
    list(generator.draw(ORDERS[:1]))
    assert generator.ledger.totals.usd == pytest.approx((10 * 1.5 + 1120 * 30 + 30 * 7.5) / 1e6)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, "moderation"),
        ({"candidates": [{"finishReason": "IMAGE_SAFETY"}], "usageMetadata": {"promptTokenCount": 9}}, "moderation"),
        ({"candidates": [{"content": {"parts": [{"text": "I would rather not"}]}, "finishReason": "STOP"}]}, "no-data"),
        ({"candidates": []}, "no-data"),
        ([], "no-data"),
        (gemini_answer(HONEST[: len(HONEST) // 2]), "truncated"),
        (gemini_answer(picture("another", "48x64")), "wrong-size"),
        (f"<html>{KEY}</html>".encode(), "not-json"),
        (b"", "not-json"),
    ],
)
def test_what_is_no_whole_image_is_refused_and_not_asked_again(server, body, reason):
    got = first(server, says(200, body))
    assert (got.reason, len(server.asked)) == (reason, 1)


@pytest.mark.parametrize("act", [drops, drops_in_the_body])
def test_the_client_sends_nothing_again_by_itself(server, act):
    """Left alone it does so after a dropped connection, a second or more later, without a word."""
    assert first(server, act).reason == "dropped"
    assert len(server.asked) == 1


def test_a_slow_answer_may_have_been_billed(server):
    got = first(server, drips, timeout=1)
    assert (got.reason, len(server.asked)) == ("timeout", 1)
    assert "may have been billed" in got.detail


def test_rate_limits_are_waited_out_and_a_days_quota_ends_the_run(server):
    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.2s"}
    assert first(server, says(429, trouble(429, "RESOURCE_EXHAUSTED", **wait)), says(429, b"slow down")) == HONEST
    assert server.times[1] - server.times[0] >= 0.2
    with pytest.raises(Stopped, match="asks to wait 7200 s more"):
        first(server, says(429, trouble(429), ("Retry-After", "7200")))
    with pytest.raises(Stopped, match="today's quota"):
        first(server, says(429, trouble(429, violations=[{"quotaId": "GenerateRequestsPerDayPerProject"}])))


def test_a_server_that_is_down_and_says_for_how_long_is_waited_for_and_bills_nothing(server):
    generator = made(server)
    server.script = {ORDERS[0].prompt.text: [says(503, trouble(503, "UNAVAILABLE"), ("Retry-After", "1"))]}
    assert list(generator.draw(ORDERS[:1])) == [HONEST]
    assert server.times[1] - server.times[0] >= 1
    assert (generator.ledger.totals.images, generator.ledger.totals.unknown) == (1, 0)


@pytest.mark.parametrize(
    "body", [{"error": "x"}, {"error": {"details": "x"}}, {"error": {"details": [{"violations": "x", "retryDelay": "1.2.3s"}]}}]
)
def test_errors_of_another_shape_mean_what_their_status_says(server, body):
    assert first(server, says(429, body)) == HONEST
    with pytest.raises(UsageError, match="does not accept the key"):
        first(server, says(403, body))


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_without_end_fills_no_memory(server, status, monkeypatch):
    monkeypatch.setattr(api, "LONGEST_BODY", 100_000)
    assert first(server, says(status, b" " * 3_000_000), retries=0).reason == "too-large"


def test_which_key_is_taken_is_said_as_it_is(server, monkeypatch, caplog):
    monkeypatch.setenv("GOOGLE_API_KEY", "another-key-0123456789")
    assert first(server) == HONEST
    assert server.keys == {KEY}
    assert "Using GOOGLE_API_KEY" not in caplog.text


@pytest.mark.parametrize(
    ("act", "words", "error"),
    [
        (
            says(400, trouble(400, "INVALID_ARGUMENT", reason="API_KEY_INVALID")),
            "does not accept the key",
            UsageError,
        ),
        (says(403, trouble(403, "PERMISSION_DENIED")), "does not accept the key", UsageError),
        (says(404, trouble(404, "NOT_FOUND")), "has no model 'gemini-test-image'", UsageError),
        (says(400, trouble(400, "FAILED_PRECONDITION", "no billing")), "stops at the account or its billing", Stopped),
    ],
)
def test_what_every_order_would_meet_ends_the_run(server, act, words, error):
    with pytest.raises(error, match=words) as caught:
        first(server, act)
    assert "THE-SECRET" not in repr(caught.value)
    assert len(server.asked) == 1


def test_a_server_that_fails_is_asked_again_and_one_order_refused_alone(server):
    assert first(server, says(503, trouble(503)), says(500, b"<html>"), says(529, b"")) == HONEST
    assert first(server, says(524, b"")).reason == "timeout"
    assert first(server, says(400, trouble(400, "INVALID_ARGUMENT"))).reason == "bad-request"


def test_batches_come_by_file_and_are_joined_on_their_keys(server, tmp_path):
    def rows(requests):
        assert requests[0]["request"]["generationConfig"]["imageConfig"] == {"aspectRatio": "4:3", "imageSize": "1K"}
        texts = [request["request"]["contents"][0]["parts"][0]["text"] for request in requests]
        drawn = [
            {"key": r["key"], "response": gemini_answer(picture(t, "64x48"))} for r, t in zip(requests, texts, strict=True)
        ]
        failed = {"key": requests[0]["key"], "error": {"code": 3, "message": f"bad {KEY}"}}
        return [*reversed(drawn[1:]), failed]

    server.rows = rows
    generator = made(server, mode="batch", poll=0.01)
    generator.ledger = Ledger(tmp_path / "paid")
    refused, *drawn = generator.draw(ORDERS)
    assert drawn == PICTURES[1:]
    assert isinstance(refused, Refusal)
    assert "THE-SECRET" not in repr(refused)
    assert refused.reason == "bad-request"
    assert len(server.batches) == 1
    assert json.loads(server.files["files/0"].splitlines()[0])["key"] == ORDERS[0].id
    assert not list(tmp_path.glob("paid/*-*.jsonl"))

    # A submission that nobody heard the answer of is found again by its mark.
    again = made(server, mode="batch", poll=0.01)
    again.settle_seconds = 0.2
    again.ledger = Ledger(tmp_path / "other")
    (token,) = {path for path in server.paths if path.endswith(":batchGenerateContent")}

    def accepts_and_drops(handler, data):
        asked = json.loads(data)["batch"]
        state = {"displayName": asked["displayName"], "state": "BATCH_STATE_PENDING"}
        server.batches["batches/1"] = {"name": "batches/1", "metadata": state, "input": asked["inputConfig"]["fileName"]}
        drops(handler, data)

    server.on_path[token] = [accepts_and_drops]
    assert list(again.draw(ORDERS))[1:] == PICTURES[1:]
    assert len(server.batches) == 2


def test_every_card_is_built(server):
    cards = [card for card in catalog.cards("generators").values() if card.family == "gemini"]
    assert len(cards) >= 3
    for card in cards:
        generator = catalog.build(card, base_url=server.url)
        assert f"{card.options['width']}x{card.options['height']}" in generator.shapes
        assert card.about.environment == ["GEMINI_API_KEY"]
        assert generator.prices.output
