"""Paid image models, against a server on this machine that can do everything wrong that a real one can."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import time
from collections import Counter

import pytest
from inline import Inline
from paid_server import KEY, answer, drips, drops, drops_in_the_body, picture, problem, says, serving, waits

from imaginet_build import catalog, engine
from imaginet_build.errors import UsageError
from imaginet_build.generate import generate
from imaginet_build.generators import api, conformance, openai_images, pace
from imaginet_build.generators.openai_images import OpenAIImages
from imaginet_build.paying import ledger
from imaginet_build.paying.ledger import Stopped
from imaginet_build.recipe import Generate
from imaginet_build.records import Refusal
from imaginet_build.store import Store

ORDERS = conformance.orders(6, 64, 48, needs="prompt")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("OPENAI_BASE_URL", "OPENAI_LOG", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    with serving() as served:
        yield served


@pytest.fixture(autouse=True)
def the_key_stays_secret(caplog):
    """Whatever else a test is about: nothing that is logged holds the key."""
    caplog.set_level(logging.DEBUG)
    yield
    assert "THE-SECRET" not in caplog.text


def made(server, **more) -> OpenAIImages:
    return OpenAIImages("gpt-image-test", server.url, **({"first_wait": 0.01, "timeout": 5} | more))


def first(server, *acts, **more):
    """The answer to one order to which these things happen."""
    server.script = {ORDERS[0].prompt.text: list(acts)}
    (got,) = made(server, **more).draw(ORDERS[:1])
    if isinstance(got, Refusal):
        assert "THE-SECRET" not in repr(got)
    return got


def stops(server, *acts, **more) -> str:
    """What is said when these things end the whole run."""
    server.script = {ORDERS[0].prompt.text: list(acts)}
    with pytest.raises(more.pop("error", Stopped)) as caught:
        list(made(server, **({"concurrency": 1} | more)).draw(ORDERS[:3]))
    assert "THE-SECRET" not in f"{caught.value!r}"
    return str(caught.value)


HONEST = picture(ORDERS[0].prompt.text, "64x48")


# --- what comes, and what is said of it ----------------------------------------------------------------------------------


def test_it_conforms(server):
    assert conformance.check(lambda: made(server), ORDERS) == []
    assert conformance.check_import("imaginet_build.generators.openai_images") == []


def test_answers_are_the_services_own_bytes_in_the_order_asked_whoever_is_first(server):
    server.script = {order.prompt.text: [waits(0.3 - 0.05 * i)] for i, order in enumerate(ORDERS)}
    got = list(made(server, concurrency=3).draw(ORDERS))
    assert got == [picture(order.prompt.text, "64x48") for order in ORDERS]
    assert server.most == 3


def test_one_request_is_one_image_and_carries_what_the_card_says(server):
    generator = made(server, quality="low", output_format="png", options={"moderation": "low"})
    list(generator.draw(ORDERS[:2]))
    assert server.keys == {f"Bearer {KEY}"}
    assert sorted(server.asked, key=str)[0] == {
        "model": "gpt-image-test",
        "prompt": ORDERS[0].prompt.text,
        "size": "64x48",
        "n": 1,
        "quality": "low",
        "output_format": "png",
        "moderation": "low",
    }
    params = generator.params()
    assert params.pop("openai")[0].isdigit()
    assert params == {
        "model": "gpt-image-test",
        "host": server.url.split("/")[2],
        "seeded": False,
        "quality": "low",
        "output_format": "png",
        "options": {"moderation": "low"},
    }


def test_the_key_is_in_no_attribute_and_no_pickle(server):
    generator = made(server)
    list(generator.draw(ORDERS[:1]))
    assert b"THE-SECRET" not in pickle.dumps(generator)
    assert "THE-SECRET" not in f"{generator!r}{vars(generator)}{generator.params()}"


def test_it_works_inside_a_running_event_loop(server):
    async def notebook():
        return list(made(server).draw(ORDERS[:1]))

    assert pace.run(notebook()) == [HONEST]


def test_what_a_server_says_is_repeated_without_keys():
    mine = "my-own-KEY-0123456789"
    assert api.scrub(f"bad key {mine},\nsent", mine) == "bad key ***, sent"
    assert api.scrub("cut short: 'my-own-KEY-01", mine) == "cut short: '***"
    assert api.scrub("short ones too: tiny", "tiny") == "short ones too: ***"
    assert api.scrub("another's: sk-proj-abc123, Bearer abc123") == "another's: ***, ***"
    assert len(api.scrub("x" * 5000)) == 200


def test_a_server_without_keys_needs_none_and_one_on_this_machine_may_do_without(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "mine-0123456789")
    assert first(server, key_variable="MY_KEY") == HONEST
    monkeypatch.delenv("OPENAI_API_KEY")
    assert first(server, key_variable="") == HONEST
    assert first(server) == HONEST
    assert server.keys == {"Bearer mine-0123456789", "Bearer none"}


# --- rate limits and broken servers --------------------------------------------------------------------------------------


def test_retry_after_is_obeyed_by_all_and_fewer_are_asked_at_once_afterwards(server):
    server.script = {ORDERS[0].prompt.text: [says(429, problem("rate_limit_exceeded"), ("Retry-After", "1"))]}
    generator = made(server, concurrency=2)
    assert list(generator.draw(ORDERS)) == [picture(order.prompt.text, "64x48") for order in ORDERS]
    before = [at for at in server.times if at < server.times[0] + 0.95]
    assert len(before) <= 4, "those under way when the limit was met, and no more"
    assert Counter(asked["prompt"] for asked in server.asked)[ORDERS[0].prompt.text] == 2


def test_a_limit_halves_what_runs_at_once_and_success_raises_it_by_one():
    async def run():
        course = pace.Pace(8)
        seen = []
        for happens in (
            course.well,
            lambda: course.slow(0),
            lambda: course.slow(0),
            *[course.well] * 5,
            *[lambda: course.slow(0)] * 3,
        ):
            happens()
            seen.append(course.limit)
        return seen

    assert pace.run(run()) == [8, 4, 2, 2, 3, 3, 3, 4, 2, 1, 1]


def test_a_rate_limit_longer_than_longest_wait_ends_the_run_and_rejects_nothing(server):
    began = time.monotonic()
    said = stops(server, says(429, problem(None), ("Retry-After", "7200")))
    assert "asks to wait 7200 s more, longest_wait is 1800 s" in said
    assert time.monotonic() - began < 3
    assert len(server.asked) == 1


def test_rate_limits_without_a_time_or_with_none_are_waited_out_but_not_for_ever(server):
    assert first(server, *[says(429, problem(None)), says(429, problem(None), ("Retry-After", "0"))] * 2) == HONEST
    assert "longest_wait is 0 s" in stops(server, *[says(429, problem(None), ("Retry-After", "0"))] * 50, longest_wait=0.2)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "86400"}, 86400),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "Fri, 01 Jan 2021 00:00:00 GMT"}, 0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e300"}, None),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_every_spelling(headers, seconds):
    assert pace.retry_after(headers) == seconds


@pytest.mark.parametrize("status", [500, 502, 503, 520, 529])
def test_broken_servers_are_asked_again_so_many_times(server, status):
    act = says(status, problem(None))
    assert first(server, act, act) == HONEST
    got = first(server, *[act] * 9, retries=2)
    assert got.reason == "server-error"
    assert len(server.asked) == 3 + 3


def test_a_server_that_is_down_and_says_for_how_long_is_waited_for_and_bills_nothing(server):
    generator = made(server)
    server.script = {ORDERS[0].prompt.text: [says(503, problem(None), ("Retry-After", "1"))]}
    assert list(generator.draw(ORDERS[:1])) == [HONEST]
    assert server.times[1] - server.times[0] >= 1
    assert (generator.ledger.totals.images, generator.ledger.totals.unknown) == (1, 0)
    assert "asks to wait 7200 s more" in stops(server, says(503, problem(None), ("Retry-After", "7200")))


@pytest.mark.parametrize("tokens", [-(10**9), 10**400, True, "7", 1.5], ids=range(5))
def test_a_count_of_tokens_that_none_can_be_loosens_no_budget_and_loses_no_image(server, tokens):
    generator = made(server, prices={"images": {"any": 0.5}, "output": 30.0})
    server.script = {ORDERS[0].prompt.text: [says(200, answer(HONEST) | {"usage": {"output_tokens": tokens}})]}
    assert list(generator.draw(ORDERS[:1])) == [HONEST]
    assert 0 <= generator.ledger.totals.usd <= 0.5


@pytest.mark.parametrize("act", [drops, drops_in_the_body])
def test_a_dropped_connection_may_have_been_billed_and_is_asked_again_only_where_that_is_allowed(server, act, caplog):
    got = first(server, act)
    assert (got.reason, len(server.asked)) == ("dropped", 1)
    assert "may have been billed" in got.detail
    assert first(server, act, act, ask_again=True) == HONEST
    assert len(server.asked) == 1 + 3
    assert "may have been billed" in caplog.text
    assert first(server, *[act] * 9, ask_again=True, retries=1).reason == "dropped"
    assert len(server.asked) == 4 + 2


@pytest.mark.parametrize("act", [drips, waits(600), says(504, b"<html>gateway</html>", kind="text/html"), says(524, b"")])
def test_a_timeout_is_never_asked_again_and_says_what_it_may_have_cost(server, act):
    got = first(server, act, timeout=1)
    assert (got.reason, len(server.asked)) == ("timeout", 1)
    assert "may have been billed" in got.detail


def test_a_server_that_is_not_there_ends_the_run_and_costs_no_budget(server, caplog):
    with pytest.raises(Stopped, match=r"127\.0\.0\.1:1 cannot be reached"):
        list(OpenAIImages("m", "http://127.0.0.1:1/v1", first_wait=0.01, retries=1, budget_images=2).draw(ORDERS))
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1


# --- refusals, money and keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["moderation_blocked", "content_policy_violation"])
def test_moderation_is_a_refusal_of_that_prompt_alone(server, code):
    server.script = {ORDERS[1].prompt.text: [says(400, problem(code, "rejected by the safety system"))]}
    one, two, three = made(server).draw(ORDERS[:3])
    assert two.reason == "moderation"
    assert "rejected by the safety system" in two.detail
    assert "THE-SECRET" not in two.detail
    assert isinstance(one, bytes)
    assert isinstance(three, bytes)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "insufficient_quota", "insufficient_quota"),
        (429, None, "insufficient_quota"),
        (400, "billing_hard_limit_reached", "invalid_request_error"),
        (402, None, "payment"),
    ],
)
def test_without_money_nothing_more_is_sent(server, status, code, kind):
    assert "billing" in stops(server, *[says(status, problem(code, kind=kind), ("Retry-After", "1"))] * 3)
    assert len(server.asked) == 1


def test_images_finished_before_a_stop_are_given_out_and_lost_ones_are_said(server):
    server.script = {ORDERS[2].prompt.text: [says(429, problem("insufficient_quota"))]}
    answers = made(server, concurrency=1).draw(ORDERS)
    assert [next(answers), next(answers)] == [picture(order.prompt.text, "64x48") for order in ORDERS[:2]]
    with pytest.raises(Stopped, match="insufficient_quota"):
        next(answers)
    assert len(server.asked) == 3

    server.script = {ORDERS[0].prompt.text: [slowly_out_of_money]}
    with pytest.raises(Stopped, match=r"1 image\(s\) that came after it were paid for and are not kept"):
        list(made(server, concurrency=2).draw(ORDERS[:2]))


def slowly_out_of_money(handler, asked):
    handler.server.closing.wait(0.3)
    handler.reply(429, problem("insufficient_quota"))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (says(401, problem("invalid_api_key", "Incorrect API key provided")), "does not accept the key in OPENAI_API_KEY"),
        (says(403, problem(None, "organization must be verified")), "does not accept the key"),
        (says(404, problem("model_not_found")), "no model 'gpt-image-test'"),
        (says(400, problem("invalid_value", param="quality")), "does not take this quality"),
    ],
)
def test_what_every_order_would_meet_ends_the_run(server, act, words):
    assert words in stops(server, *[act] * 3, error=UsageError)
    assert len(server.asked) == 1


def test_the_budget_is_never_passed(server, caplog):
    generator = made(server, budget_images=4)
    assert len(list(generator.draw(ORDERS[:3]))) == 3
    answers = generator.draw(ORDERS[3:])
    assert isinstance(next(answers), bytes)
    with pytest.raises(Stopped, match="budget_images = 4 is spent"):
        next(answers)
    assert len(server.asked) == 4
    # What failed on the way may have been billed, so it counts.
    assert "budget_images = 3 is spent" in stops(server, says(500, problem(None)), budget_images=3)
    assert len(server.asked) == 4 + 3
    # Dollars: what is under way holds back the most it may cost; what came counts as it was billed.
    prices = {"images": {"any": 0.01}, "input": 5.0, "output": 30.0}
    generator = made(server, budget_usd=0.02, prices=prices, concurrency=1)
    with pytest.raises(Stopped, match=r"budget_usd = 0.02 allows no request of up to \$0.01 more: \$0.0122 is spent"):
        list(generator.draw(ORDERS))
    assert len(server.asked) == 7 + 4
    # One that cost more than the card says is said, and believed of those that follow.
    prices = {"images": {"any": 0.002}, "input": 5.0, "output": 30.0}
    generator = made(server, budget_usd=0.0085, prices=prices, concurrency=1)
    with pytest.raises(Stopped, match=r"allows no request of up to \$0.00305 more: \$0.0061 is spent"):
        list(generator.draw(ORDERS))
    assert len(server.asked) == 11 + 2
    assert caplog.text.count("an image cost $0.00305 where budget_usd held back $0.002") == 1
    with pytest.raises(UsageError, match="budget_usd needs the most that one image of 64x48 costs"):
        list(made(server, budget_usd=1).draw(ORDERS[:1]))
    assert len(server.asked) == 11 + 2


def test_settings_and_keys_that_cannot_work_are_named_before_a_request(server, monkeypatch):
    with pytest.raises(UsageError, match=r"timeout is 0.*concurrency is 0.*budget_images is 0.*options may not set prompt"):
        made(server, timeout=0, concurrency=0, budget_images=0, options={"prompt": "mine"})
    for key in ("budget_usd", "per_minute", "timeout", "longest_wait"):
        for value in (float("nan"), float("inf"), "5"):
            with pytest.raises(UsageError, match=f"{key} is .*; it is a number above 0"):
                made(server, **{key: value})
    with pytest.raises(UsageError, match=r"budget_images is 2\.5; it is a whole number, at least 1"):
        made(server, budget_images=2.5)
    wrong = ("ftp://x", "http://user:word@127.0.0.1/v1", "nonsense", "http://127.0.0.1:port/", f"http://127.0.0.1/v1?key={KEY}")
    for url in wrong:
        with pytest.raises(UsageError, match="base_url is an http"):
            OpenAIImages("m", url)
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(UsageError, match="holds characters that no key has") as caught:
        made(server)
    assert "THE-SECRET" not in str(caught.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match="export OPENAI_API_KEY="):
        OpenAIImages("m")


# --- bytes that are no image ---------------------------------------------------------------------------------------------


WHOLE = base64.b64encode(HONEST).decode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (answer(WHOLE[:-7]), "bad-base64"),
        (answer(WHOLE[: len(WHOLE) // 8 * 4]), "truncated"),
        (answer("!" + WHOLE), "bad-base64"),
        (answer(f"<html>{KEY}</html>".encode()), "not-an-image"),
        (answer(""), "empty"),
        (answer(picture("another", "48x64")), "wrong-size"),
        ({"data": []}, "no-data"),
        ({"data": [{"b64_json": 3}]}, "no-data"),
        ({"data": [{"url": "http://127.0.0.1/x.png"}]}, "no-data"),
        ([], "no-data"),
        (f"<html>it works, {KEY}</html>".encode(), "not-json"),
        (b"", "not-json"),
    ],
)
def test_what_is_no_whole_image_of_the_ordered_size_is_refused(server, body, reason):
    got = first(server, says(200, body, kind="text/html" if isinstance(body, bytes) else "application/json"))
    assert (got.reason, len(server.asked)) == (reason, 1)


def test_an_answer_without_end_is_read_no_further_than_an_image_reaches(server, monkeypatch):
    monkeypatch.setattr(openai_images, "LONGEST", 100_000)
    got = first(server, says(200, b" " * 3_000_000))
    assert (got.reason, got.detail) == ("too-large", "the answer is longer than 100,000 bytes")


def test_an_error_without_end_fills_no_memory(server, monkeypatch):
    monkeypatch.setattr(api, "LONGEST_BODY", 100_000)
    got = first(server, says(500, b" " * 3_000_000), retries=0)
    assert (got.reason, len(server.asked)) == ("too-large", 1)
    assert "may have been billed" in got.detail


def test_data_urls_are_read(server):
    assert first(server, says(200, answer(f"data:image/png;base64,{WHOLE}"))) == HONEST


def test_one_image_delivered_for_two_orders_is_kept_once(server):
    server.script = {ORDERS[1].prompt.text: [says(200, answer(HONEST))]}
    one, two = made(server, concurrency=1).draw(ORDERS[:2])
    assert one == HONEST
    assert (two.reason, two.detail) == ("duplicate-delivery", f"the bytes are those of order {ORDERS[0].id}")


def test_sizes_a_model_does_not_draw_cost_nothing(server):
    for wrong in ((1000, 1000), (64, 256), (4096, 4096)):
        (got,) = made(server).draw(conformance.orders(1, *wrong, needs="prompt"))
        assert got.reason == "bad-size"
    (got,) = made(server, sizes=[(1024, 1024)]).draw(ORDERS[:1])
    assert got.reason == "bad-size"
    assert server.asked == []


# --- cards ---------------------------------------------------------------------------------------------------------------


def test_every_card_is_built_and_draws(server):
    cards = [card for card in catalog.cards("generators").values() if card.family == "gpt_image"]
    assert len(cards) >= 6
    for card in cards:
        generator = catalog.build(card, base_url=server.url)
        side = 1024 if "sizes" in card.options else 64
        (got,) = generator.draw(conformance.orders(1, side, side, needs="prompt"))
        assert isinstance(got, bytes)
        assert server.asked[-1]["model"] == card.model
        assert card.about.environment == ["OPENAI_API_KEY"]


def test_on_a_full_disk_nothing_is_bought(server, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger.shutil, "disk_usage", lambda path: ledger.shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    generator = made(server)
    generator.ledger = ledger.Ledger(tmp_path / "paid")
    with pytest.raises(Stopped, match=r"cannot be written \(No space left on device\): nothing more is sent"):
        list(generator.draw(ORDERS))
    assert server.asked == []


def test_a_run_keeps_images_and_refusals_and_the_key_nowhere(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", Inline())
    texts = ["a red barn under heavy snow", "the old harbour seen at dawn", "an empty tram in the rain"]
    (tmp_path / "list.txt").write_text("\n".join(texts))
    server.script = {texts[1]: [says(429, problem(None)), says(400, problem("moderation_blocked"))]}
    options = {"base_url": server.url, "first_wait": 0.01}
    entry = Generate(
        generator="gpt-image-2", category="photos", count=3, prompts="list.txt", width=64, height=48, options=options
    )
    store = Store(tmp_path / "work")
    done = generate(store, [entry], 0, engine.Pool(workers=1))
    assert (done.total, done.rejected, done.failed) == (2, {"moderation": 1}, 0)
    rows = {row["id"]: row for row in store.facts().to_pylist()}
    assert {name: data == picture(rows[name]["prompt"], "64x48") for name, data in store.images(rows)} == dict.fromkeys(
        rows, True
    )
    assert {json.loads(row["params"])["host"] for row in rows.values()} == {server.url.split("/")[2]}
    tables = [*store.facts().to_pylist(), *store.rejects().to_pylist()]
    assert "THE-SECRET" not in repr(tables)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"THE-SECRET" in path.read_bytes()]

    # What was refused is not asked again.
    assert (generate(store, [entry], 0, engine.Pool(workers=1)).new, len(server.asked)) == (0, 4)
