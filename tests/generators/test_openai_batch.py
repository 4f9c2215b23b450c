"""Batches of images: submitted once whatever happens, joined on their orders' ids, and kept row by row."""

from __future__ import annotations

import gc
import json
import logging

import pytest
from paid_server import KEY, answer, drops, picture, problem, says, serving

from imaginet_build.errors import UsageError
from imaginet_build.generators import conformance, paid_batch
from imaginet_build.generators.openai_images import OpenAIImages
from imaginet_build.generators.pace import run
from imaginet_build.paying.ledger import Ledger, Stopped
from imaginet_build.records import Refusal

ORDERS = conformance.orders(6, 64, 48, needs="prompt")
PICTURES = [picture(order.prompt.text, "64x48") for order in ORDERS]


@pytest.fixture
def server(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(paid_batch.PaidBatches, "settle_seconds", 0.2)
    with serving() as served:
        yield served
    assert "THE-SECRET" not in caplog.text


@pytest.fixture
def made(server, tmp_path):
    def make(**more) -> OpenAIImages:
        settings = {"mode": "batch", "poll": 0.01, "first_wait": 0.01, "timeout": 5} | more
        generator = OpenAIImages("gpt-image-test", server.url, **settings)
        generator.ledger = Ledger(tmp_path / "paid")
        return generator

    return make


def submitted(server) -> list[list[str]]:
    """The orders of each batch that the service accepted."""
    uploads = [server.files[batch["input_file_id"]] for batch in server.batches.values()]
    return [[json.loads(x)["custom_id"] for x in data.splitlines() if x.startswith(b'{"custom_id"')] for data in uploads]


def test_orders_are_drawn_in_batches_and_joined_on_their_ids(server, made, tmp_path):
    server.rows = lambda requests: [server.row(request) for request in reversed(requests)]
    generator = made(batch_jobs=4, quality="low", options={"moderation": "low"})
    assert list(generator.draw(ORDERS)) == PICTURES
    assert submitted(server) == [[o.id for o in ORDERS[:4]], [o.id for o in ORDERS[4:]]]
    row = json.loads(next(x for x in server.files["file-0"].splitlines() if x.startswith(b'{"custom_id"')))
    asked = {"model": "gpt-image-test", "prompt": ORDERS[0].prompt.text, "size": "64x48", "n": 1}
    assert row["body"] == asked | {"quality": "low", "moderation": "low"}
    assert (row["method"], row["url"]) == ("POST", "/v1/images/generations")
    # Another process finds them beside the ledger and asks nobody.
    assert list(made().draw(ORDERS)) == PICTURES
    assert len(server.batches) == 2
    assert set(server.billed.values()) == {1}
    assert not list(tmp_path.glob("paid/*-*.jsonl"))


def test_a_batch_at_the_service_is_waited_for_and_not_submitted_again(server, made):
    server.slow = 10**9
    with pytest.raises(Stopped, match=r"not finished within patience = 0.05 s: batch_0; run the same command again later"):
        list(made(patience=0.05).draw(ORDERS))
    server.slow = server.polls["batch_0"] + 2
    assert list(made().draw(ORDERS)) == PICTURES
    assert len(server.batches) == 1


def test_a_batch_whose_acceptance_was_never_heard_is_found_again(server, made, caplog):
    def accepts_and_drops(handler, data):
        handler.begin(json.loads(data))
        drops(handler, data)

    server.on_path["/v1/batches"] = [accepts_and_drops]
    assert list(made().draw(ORDERS[:4])) == PICTURES[:4]
    assert len(server.batches) == 1
    assert "had been accepted and is not submitted again" in caplog.text

    # One that never arrived is submitted after all.
    server.on_path["/v1/batches"] = [drops]
    assert list(made().draw(ORDERS)) == PICTURES
    assert len(server.batches) == 2
    assert set(server.billed.values()) == {1}


def test_a_batch_that_a_killed_process_submitted_is_found_by_its_mark(server, made):
    async def half_a_submission():
        """What a process leaves that is killed between the service's yes and its own line in the ledger."""
        killed = made()
        file = killed.ledger.root / "x.jsonl"
        killed.ledger.begin([o.id for o in ORDERS], 0.0, killed.limits, {}, "token")
        file.write_bytes(b"".join(row for _, row in killed._chunks(ORDERS)[0]))
        async with killed._client(KEY) as client:
            await killed._submit(client, "token", file)
        file.unlink()

    run(half_a_submission())
    gc.collect()  # a process that is gone holds no lock
    assert list(made().draw(ORDERS)) == PICTURES
    assert len(server.batches) == 1


def test_every_kind_of_row_has_its_own_end(server, made, caplog):
    def rows(requests):
        drawn = [server.row(request) for request in requests]
        names = [request["custom_id"] for request in requests]
        blocked = {"status_code": 400, "body": problem("moderation_blocked", "rejected")}
        return [
            {"custom_id": "nobody's", "response": {"status_code": 200, "body": answer(PICTURES[0])}},
            b'{"custom_id": torn',
            {"custom_id": names[1], "response": blocked, "error": None},
            drawn[0],
            {**drawn[0], "response": {"status_code": 200, "body": answer(PICTURES[1])}},
            {"custom_id": names[2], "response": {"status_code": 200, "body": answer("!!!")}},
            {"custom_id": names[3], "response": None, "error": {"code": "strange", "message": f"no {KEY}"}},
            {"custom_id": names[4], "response": {"status_code": 200, "body": "<html>"}},
        ]

    server.rows = rows
    got = list(made().draw(ORDERS))
    assert got[0] == PICTURES[0]
    assert [one.reason for one in got[1:]] == ["moderation", "bad-base64", "bad-request", "no-data", "lost-in-batch"]
    assert "THE-SECRET" not in repr(got)
    for words in ("which was not ordered", "cannot be read", "delivered twice"):
        assert words in caplog.text
    # All of that stands: nothing is submitted again, unless what may have been billed may be asked for anew.
    assert list(made().draw(ORDERS)) == got
    assert len(server.batches) == 1
    server.rows = lambda requests: [server.row(request) for request in requests]
    again = list(made(ask_again=True).draw(ORDERS))
    assert again[5] == PICTURES[5]
    assert submitted(server)[1] == [ORDERS[5].id]


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_what_an_unfinished_batch_did_not_draw_is_submitted_again_on_its_own(server, made, status):
    def half(requests):
        server.rows, server.status = lambda rest: [server.row(request) for request in rest], "completed"
        left = [{"custom_id": r["custom_id"], "response": None, "error": {"code": f"batch_{status}"}} for r in requests[3:]]
        return [*(server.row(request) for request in requests[:3]), *left[:1]]

    server.rows, server.status = half, status
    assert list(made().draw(ORDERS)) == PICTURES
    assert submitted(server)[1] == [o.id for o in ORDERS[3:]]
    assert set(server.billed.values()) == {1}


def test_a_batch_that_is_refused_as_a_whole_costs_nothing_and_says_why(server, made):
    server.status = "failed"
    server.rows = lambda requests: []
    with pytest.raises(Stopped, match="batch batch_0 failed: no reason was given"):
        list(made().draw(ORDERS))
    assert made().ledger.read().totals.images == 0
    server.on_path["/v1/files"] = [says(401, problem("invalid_api_key"))]
    with pytest.raises(Stopped, match="does not accept the key in OPENAI_API_KEY"):
        list(made().draw(ORDERS))


def test_budgets_hold_for_batches(server, made):
    with pytest.raises(Stopped, match=r"the budget allows no more: 2 image\(s\) were not ordered"):
        list(made(budget_images=4).draw(ORDERS))
    assert submitted(server) == [[o.id for o in ORDERS[:4]]]
    prices = {"images": {"any": 1.0}, "batch": 0.5}
    with pytest.raises(Stopped, match="the budget allows no more"):
        list(made(budget_usd=0.6, prices=prices).draw(ORDERS))
    assert len(submitted(server)) == 2


def test_a_rate_limit_of_hours_ends_the_run_and_is_not_slept_through(server, made):
    server.on_path["/v1/batches"] = [says(429, problem(None), ("Retry-After", "7200"))]
    with pytest.raises(Stopped, match=r"asks to wait 7\d\d\d s more, longest_wait is 1800 s"):
        list(made().draw(ORDERS))
    assert made().ledger.read().totals.images == 0


def test_a_clock_that_jumps_ahead_submits_nothing_twice(server, made, monkeypatch):
    """The service lists what it accepted a moment later than it accepted it."""
    late = []

    def accepts_and_drops(handler, data):
        late.append(json.loads(data))
        real = paid_batch.time.time
        monkeypatch.setattr(paid_batch.time, "time", lambda: real() + 3600)
        drops(handler, data)

    def lists_later(handler, data):
        handler.reply(200, {"object": "list", "data": [], "has_more": False})
        handler.begin(late.pop())

    server.on_path["/v1/batches"] = [accepts_and_drops, lists_later]
    assert list(made().draw(ORDERS)) == PICTURES
    assert len(server.batches) == 1


def test_faults_while_it_is_waited_for_are_waited_out(server, made):
    server.on_path = {
        "/v1/files": [drops, says(500, problem(None))],
        "/v1/batches/batch_0": [drops, says(503, problem(None)), says(429, problem(None), ("Retry-After", "0"))],
        "/v1/files/batch_0-output_file_id/content": [says(500, problem(None))],
    }
    assert list(made().draw(ORDERS)) == PICTURES
    assert len(server.batches) == 1


def test_a_long_stream_is_cut_into_rows_that_are_never_all_in_memory(monkeypatch, caplog):
    monkeypatch.setattr(paid_batch, "LONGEST_ROW", 10)

    async def chunks():
        for chunk in (b"ab", b"c\nde\n\n", b"0123456", b"789ABC", b"DEF\nlast", b" one"):
            yield chunk

    async def lines():
        return [line async for line in paid_batch.lines_of(chunks())]

    assert run(lines()) == [b"abc", b"de", b"last one"]
    assert "left out a row of more than 10 bytes" in caplog.text


def test_a_batch_needs_a_place_for_its_answers(server):
    generator = OpenAIImages("m", server.url, mode="batch")
    with pytest.raises(UsageError, match='mode = "batch" needs a work folder'):
        list(generator.draw(ORDERS))
    assert not isinstance(OpenAIImages("m", server.url).unfit(ORDERS[0]), Refusal)
