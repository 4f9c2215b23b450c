"""Buying images through `generate`: what a run would cost, what stops it, what the next goes on with, and no key anywhere."""

from __future__ import annotations

import base64
import json
import logging

import pytest
from inline import Inline
from paid_server import KEY, answer, drops, gemini_answer, picture, problem, says, serving

from imaginet_build import engine
from imaginet_build.cli import main
from imaginet_build.errors import BuildError
from imaginet_build.generate import generate
from imaginet_build.paying import dues
from imaginet_build.paying.ledger import Stopped
from imaginet_build.recipe import Generate
from imaginet_build.store import Store

TEXTS = ["a red barn under heavy snow", "the old harbour seen at dawn", "an empty tram in the rain", "a stone bridge at noon"]


@pytest.fixture
def place(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", Inline())
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "list.txt").write_text("\n".join(TEXTS))
    yield tmp_path
    assert "THE-SECRET" not in caplog.text
    held = [path for path in tmp_path.rglob("*") if path.is_file() and b"THE-SECRET" in path.read_bytes()]
    assert not held


@pytest.fixture
def server(place):
    with serving() as served:
        yield served


def entry(server, generator="gpt-image-2", **options) -> Generate:
    settings = {"base_url": server.url, "first_wait": 0.01, "timeout": 5, "concurrency": 1} | options
    return Generate(
        generator=generator, category="photos", count=4, batch=2, prompts="list.txt", width=64, height=48, options=settings
    )


def drawn(place, wanted):
    return generate(Store(place / "work"), [wanted], 0, engine.Pool(workers=1))


def test_a_budget_stops_a_run_and_a_larger_one_goes_on_with_the_rest(server, place):
    with pytest.raises(Stopped, match="budget_images = 3 is spent") as caught:
        drawn(place, entry(server, budget_images=3))
    assert caught.value.exit_code == 1
    store = Store(place / "work")
    assert len(store.ids("generate")) == 3
    assert drawn(place, entry(server, budget_images=4)).total == 4
    assert dict(server.billed) == dict.fromkeys(TEXTS, 1)
    assert not dues.ledger(store.root, "gpt-image-2").leftover()


def test_images_that_came_after_a_stop_are_kept_for_the_next_run(server, place):
    server.script = {TEXTS[0]: [says(429, problem("insufficient_quota"))], TEXTS[2]: [says(429, problem("insufficient_quota"))]}
    wanted = entry(server, concurrency=2)
    with pytest.raises(BuildError, match="insufficient_quota"):
        drawn(place, wanted)
    bought = sum(server.billed.values())
    assert drawn(place, wanted).total == 4
    assert dict(server.billed) == dict.fromkeys(TEXTS, 1)
    assert bought <= 2


def test_what_may_be_lost_is_a_reject_until_it_may_be_asked_for_again(server, place, caplog):
    server.script = {TEXTS[1]: [drops], TEXTS[3]: [says(500, problem(None))] * 9}
    done = drawn(place, entry(server, retries=1))
    assert (done.total, done.rejected, done.failed) == (2, {"dropped": 1, "server-error": 1}, 2)
    assert drawn(place, entry(server)).new == 0
    server.script = {}
    (bill,) = dues.bills(Store(place / "work"), [entry(server, ask_again=True)])
    assert bill["images"] == 2, "what would be asked for anew is in the estimate"
    assert bill["usd"] == [pytest.approx(bill["spent_usd"] / bill["spent_images"] * 2, abs=1e-4)] * 2
    assert "images so far" in bill["price"]
    assert caplog.text.count("which may have been billed, is given up") == 2
    assert drawn(place, entry(server, ask_again=True)).total == 4
    assert server.billed[TEXTS[1]] == 2
    assert caplog.text.count("is asked for again and may be billed twice") == 2


def test_an_image_that_was_bought_and_whose_part_is_gone_is_not_bought_again_in_silence(server, place):
    wanted = entry(server)
    drawn(place, wanted)
    for part in Store(place / "work").parts():
        part.unlink()
    done = drawn(place, wanted)
    assert done.rejected == {"bought-before": 4}
    assert drawn(place, entry(server, ask_again=True)).total == 4


def test_a_rate_limit_of_hours_stops_this_run_and_binds_the_next(server, place):
    server.script = {TEXTS[0]: [says(429, problem(None), ("Retry-After", "7200"))]}
    for _ in range(2):
        with pytest.raises(Stopped, match=r"asks to wait 7\d\d\d s more, longest_wait is 1800 s"):
            drawn(place, entry(server))
    assert len(server.asked) <= 2
    assert Store(place / "work").ids() == set()


def test_batch_mode_draws_the_same_orders_through_the_same_parts(server, place):
    wanted = entry(server, mode="batch", poll=0.01)
    assert drawn(place, wanted).total == 4
    assert len(server.batches) == 1
    assert server.asked == []
    facts = Store(place / "work").facts().to_pylist()
    images = dict(Store(place / "work").images([row["id"] for row in facts]))
    assert all(images[row["id"]] == picture(row["prompt"], "64x48") for row in facts)
    # Directly, they would be the same orders: nothing is left to draw.
    assert drawn(place, entry(server)).new == 0


def test_a_batch_stopped_by_a_budget_keeps_what_it_was_allowed(server, place):
    with pytest.raises(Stopped, match=r"1 image\(s\) were not ordered"):
        drawn(place, entry(server, mode="batch", poll=0.01, budget_images=3))
    assert len(Store(place / "work").ids("generate")) == 3
    assert sum(server.billed.values()) == 3


RECIPE = """
name = "paid"
[[generate]]
generator = "{generator}"
category = "photos"
count = 4
batch = 2
prompts = "list.txt"
options = {{ base_url = "{url}" }}
"""


def test_a_dry_run_says_what_it_costs_what_was_spent_and_what_is_not_known(server, place, capsys):
    def said(*more, generator="gpt-image-1.5"):
        (place / "r.toml").write_text(RECIPE.format(generator=generator, url=server.url))
        with pytest.raises(SystemExit) as ended:
            main(["generate", "--recipe", "r.toml", "--work", "dry", "--dry-run", *more])
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    text = said()
    assert "4 images left: 4 requests, $0.04 to $0.80, hours not known before the first image" in text
    assert "prices read on 2026-11-22 at https://www.llmreference.com/" in text
    assert "spent so far: $0.00 for 0 images; no budget is set: options.budget_usd, options.budget_images" in text
    text = said("--set", "generate.0.options.quality=low", "--set", "generate.0.options.per_minute=0.01", "--set",
                "generate.0.options.budget_usd=3")  # fmt: skip
    assert "$0.04 to $0.05, about 6.7 hours" in text
    assert "budget_usd = 3" in text
    bill = json.loads(said("--json", generator="gemini-nano-banana-2.1"))["generate"][0]["paid"]
    assert (bill["usd"], bill["requests"]) == ([0.1344, 0.1344], 4)
    assert "not known: its card names no price" not in bill["price"]
    assert "1 images left: 1 requests, $0.03, hours" in said("--limit", "1", generator="gemini-nano-banana-2.1")
    bill = json.loads(said("--json", generator="gpt-image-2"))["generate"][0]["paid"]
    assert bill["usd"] is None
    assert "$30 for a million tokens of image" in bill["price"]
    assert server.asked == []
    assert not (place / "dry").exists()


QUOTA = [{"violations": [{"quotaId": f"PerDay {KEY}"}]}]
ECHOES = [
    says(400, problem("invalid_request", f"you sent {KEY}"), ("X-Your-Key", KEY), ("Set-Cookie", f"key={KEY}")),
    says(400, problem(KEY, KEY, KEY, KEY)),
    says(500, f"<html>{KEY}</html>".encode(), ("X-Request-Id", KEY), kind="text/html"),
    says(200, f"<html>{KEY}</html>".encode(), kind="text/html"),
    says(200, {"data": [{"b64_json": KEY}]}),
    says(200, {"data": [{"b64_json": base64.b64encode(KEY.encode()).decode()}]}),
    says(200, {"data": KEY, "usage": {"input_tokens": KEY}}),
    says(200, {"promptFeedback": {"blockReason": KEY}}),
    says(200, {"candidates": [{"finishReason": KEY, "content": {"parts": [{"text": KEY}]}}], "usageMetadata": KEY}),
    says(200, {"candidates": KEY}),
    says(401, problem("invalid_api_key", f"Incorrect API key provided: {KEY[:12]}***")),
    says(403, {"error": KEY}),
    says(404, {"error": {"message": KEY, "status": KEY, "details": [{"reason": KEY, "violations": [{"quotaId": KEY}]}]}}),
    says(429, {"error": {"message": KEY, "code": "insufficient_quota", "details": QUOTA}}),
    says(429, problem("rate_limit_exceeded", KEY), ("Retry-After", KEY)),
    says(418, KEY.encode(), ("Retry-After", "9999")),
    says(200, answer(KEY)),
    says(200, gemini_answer(KEY.encode(), KEY)),
]  # fmt: skip


@pytest.mark.parametrize("act", ECHOES, ids=range(len(ECHOES)))
@pytest.mark.parametrize("generator", ["gpt-image-2", "gemini-nano-banana-2.1"])
def test_a_server_that_repeats_the_key_puts_it_nowhere(server, place, generator, act):
    """Not in the log, the ledger, a part, a reject, nor an error: the fixture looks at every file of the work folder."""
    more = {"shapes": {"64x48": ["4:3", "1K"]}, "base_url": server.url.removesuffix("/v1")} if "gemini" in generator else {}
    server.script = {"*": [act] * 2}
    try:
        drawn(place, entry(server, generator, retries=0, longest_wait=1, **more))
    except BuildError as error:
        chain = [error, error.__cause__, error.__context__]
        assert "THE-SECRET" not in "".join(f"{one!r}{one}" for one in chain if one is not None)
    store = Store(place / "work")
    assert "THE-SECRET" not in repr([store.facts().to_pylist(), store.rejects().to_pylist()])
    assert server.asked
