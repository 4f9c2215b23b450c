"""The ledger: written before and after, shared by processes, and right about what it does not know."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from imaginet_build.paying import journal, ledger
from imaginet_build.paying.ledger import SOON, Busy, Ledger, Limits, Spent

ANY = Limits()

ASKS_AND_DIES = """
import os, signal, sys
from pathlib import Path
from imaginet_build.paying.ledger import Ledger, Limits
book = Ledger(Path(sys.argv[1]))
book.begin(["lost", "kept"], 0.5, Limits(), {})
book.answers.keep("kept", b"image", {"usage": {"output_tokens": 7}, "usd": 0.25})
print("asked", flush=True)
if sys.argv[2] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


def test_a_request_is_on_the_disk_before_it_leaves_and_its_end_after(tmp_path):
    book = Ledger(tmp_path)
    assert book.begin(["a", "b"], 0.04, ANY, {"model": "m", "size": "64x48"}) == 0
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [(x["event"], x["order"], x["attempt"], x["usd"], x["model"]) for x in lines] == [
        ("sent", "a", 1, 0.04, "m"), ("sent", "b", 1, 0.04, "m"),
    ]  # fmt: skip
    assert book.answered("a", b"image", {"output_tokens": 7}, 0.03, 1.5) is None
    book.refused("b", "moderation", "no", billed=False, usage={}, usd=None)
    other = Ledger(tmp_path).read()
    assert {name: entry.state for name, entry in other.entries.items()} == {"a": "answered", "b": "refused"}
    assert (other.totals.images, other.totals.usd, other.totals.seconds) == (1, pytest.approx(0.03), 1.5)
    assert other.answers.get("a") == (b"image", {"usage": {"output_tokens": 7}, "usd": 0.03})
    other.answers.clear(["a", "nothing"])
    assert book.answers.get("a") is None


@pytest.mark.parametrize("end", ["die", "live"])
def test_what_a_dead_process_left_is_settled_and_what_a_live_one_asked_is_left_alone(tmp_path, end):
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", ASKS_AND_DIES, str(tmp_path), end], stdin=pipe, stdout=pipe)
    assert process.stdout.readline() == b"asked\n"
    book = Ledger(tmp_path)
    if end == "live":
        assert book.settle() == []
        with pytest.raises(Busy, match="is being drawn by another process"):
            book.begin(["lost"], 0.5, ANY, {})
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert book.settle() == ["lost"]
    # The image was on the disk, so it was not lost: bought once, for what its answer said.
    assert book.standing("kept").state == "answered"
    assert (book.totals.images, book.totals.unknown, book.totals.usd) == (2, 1, pytest.approx(0.75))
    assert book.settle() == []
    assert list((tmp_path / "senders").iterdir()) == []


def test_a_line_whose_writer_was_killed_in_the_middle_is_left_out_and_said(tmp_path, caplog):
    book = Ledger(tmp_path)
    book.begin(["a"], 0.0, ANY, {})
    del book
    with (tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(b'{"at": 1.0, "event": "answ')
    book = Ledger(tmp_path)
    book.begin(["b"], 0.0, ANY, {})
    assert set(Ledger(tmp_path).read().entries) == {"a", "b"}
    assert "left out a broken line" in caplog.text
    assert (tmp_path / "ledger.jsonl").read_bytes().count(b"\n") == 3


def test_every_prefix_of_a_ledger_is_a_ledger(tmp_path):
    """Whatever byte the disk stopped at: no order is thought paid for less than it was, none is forgotten that was sent."""
    book = Ledger(tmp_path / "whole")
    book.begin(["a", "b"], 0.5, ANY, {})
    book.answered("a", b"image", {}, 0.25)
    book.unknown("b", "timeout", "late")
    data = (tmp_path / "whole" / "ledger.jsonl").read_bytes()
    ends = [i for i, byte in enumerate(data) if byte == 10]
    (tmp_path / "cut").mkdir()
    for size in range(0, len(data), 7):
        (tmp_path / "cut" / "ledger.jsonl").write_bytes(data[:size])
        cut = Ledger(tmp_path / "cut").read()
        assert len(cut.entries) == min(2, sum(end < size for end in ends))
        assert cut.totals.usd >= 0.5 * len(cut.entries) - 0.25
        assert cut.totals.images == len(cut.entries)


def test_budgets_hold_what_is_under_way_and_hold_over_processes(tmp_path):
    limits = Limits(usd=1.0, images=3)
    one, two = Ledger(tmp_path), Ledger(tmp_path)
    one.begin(["a"], 0.4, limits, {})
    two.begin(["b"], 0.4, limits, {})
    # What is under way may yet cost less, or nothing: it is waited for.
    assert one.begin(["c"], 0.4, limits, {}) == SOON
    with pytest.raises(Spent, match=r"budget_usd = 1 allows no request of up to \$0.4 more: \$0.8000 is spent or held back"):
        one.begin(["c"], 0.4, limits, {}, "a batch")
    two.answered("b", b"x", {}, 0.1)
    assert one.affordable(0.4, limits) == 1
    one.begin(["c"], 0.4, limits, {})
    one.failed("c", "rate-limit")
    one.begin(["c"], 0.4, limits, {})
    one.answered("c", b"y", {}, 0.1)
    assert two.begin(["d"], 0.1, limits, {}) == SOON
    one.unknown("a", "timeout", "late")
    with pytest.raises(Spent, match="budget_images = 3 is spent: 3 were or may have been billed"):
        two.begin(["d"], 0.1, limits, {})
    assert two.totals.usd == pytest.approx(0.6)


def test_the_same_bytes_for_two_orders_belong_to_the_first_in_every_process(tmp_path):
    one, two = Ledger(tmp_path), Ledger(tmp_path)
    one.begin(["a"], 0.1, ANY, {})
    two.begin(["b"], 0.1, ANY, {})
    assert one.answered("a", b"image", {}, None) is None
    assert two.answered("b", b"image", {}, None) == "a"
    two.refused("b", "duplicate-delivery", "of a", billed=True, usage={}, usd=None)
    assert two.totals.images == 2
    assert two.totals.usd == pytest.approx(0.2)


def test_a_pause_and_a_rate_are_kept_by_all(tmp_path):
    one, two = Ledger(tmp_path), Ledger(tmp_path)
    one.pause(7200)
    assert 7100 < two.begin(["a"], 0, ANY, {}) <= 7200
    assert "a" not in two.entries
    slow = Ledger(tmp_path / "other"), Ledger(tmp_path / "other")
    limits = Limits(per_minute=2)
    assert [slow[i % 2].begin([str(i)], 0, limits, {}) for i in range(2)] == [0, 0]
    assert 30 < slow[0].begin(["2"], 0, limits, {}) <= 60
    assert 60 < slow[1].begin(["2"], 0, Limits(per_minute=0.5), {}) <= 120


def test_a_clock_that_was_set_back_makes_nobody_wait_a_day(tmp_path, monkeypatch):
    book, limits, now = Ledger(tmp_path), Limits(per_minute=1), time.time()
    book.begin(["a"], 0, limits, {})
    book.pause(20)
    monkeypatch.setattr(ledger.time, "time", lambda: now - 86400)
    assert 15 < Ledger(tmp_path).begin(["b"], 0, limits, {}) <= 20


def test_an_order_that_two_processes_close_counts_once(tmp_path):
    one, two = Ledger(tmp_path), Ledger(tmp_path)
    one.begin(["a", "b"], 0.5, ANY, {}, "batch")
    for book in (one, two):
        book.refused("a", "moderation", "no", billed=False, usage={}, usd=None)
        book.answered("b", b"image", {}, 0.25)
    assert (one.read().totals.images, one.totals.usd, one.totals.answered) == (1, pytest.approx(0.25), 1)


FOREIGN = [
    "null",
    "[]",
    "[" * 100_000,
    "\x00",
    '{"event": "pause", "until": Infinity, "at": 1}',
    *(
        '{"event": "sent", "order": "o", "at": 1, ' + rest + "}"
        for rest in (
            '"usd": NaN, "sender": "s"',
            '"usd": 0, "sender": null',
            '"usd": 0, "sender": "../../x"',
            '"usd": 0, "sender": "a\\u0000b"',
        )
    ),
]


@pytest.mark.parametrize("line", FOREIGN, ids=range(len(FOREIGN)))
def test_a_line_that_is_not_ours_is_left_out_and_loosens_no_budget(tmp_path, line, caplog):
    (tmp_path / "ledger.jsonl").write_text(line + "\n")
    book = Ledger(tmp_path)
    assert book.settle() == []
    assert book.standing("o") is None
    with pytest.raises(Spent):
        book.begin(["mine"], 0.2, Limits(usd=0.1), {})
    assert "left out a broken line" in caplog.text


def test_an_image_whose_lines_were_cut_off_is_not_bought_again(tmp_path):
    book = Ledger(tmp_path)
    book.begin(["a"], 0.5, ANY, {})
    book.answered("a", b"image", {}, 0.25)
    (tmp_path / "ledger.jsonl").write_bytes(b"")
    book = Ledger(tmp_path)
    assert book.standing("a").state == "answered"
    assert (book.totals.images, book.totals.usd) == (1, pytest.approx(0.25))
    (tmp_path / "answers" / "a").write_bytes(b"")
    assert book.answers.get("a") is None


def test_a_ledger_in_memory_keeps_books_and_no_images():
    book = Ledger()
    book.begin(["a"], 0.1, Limits(images=1), {})
    assert book.begin(["b"], 0.1, Limits(images=1), {}) == SOON
    book.answered("a", b"image", {}, None)
    assert book.answers.get("a") is None
    with pytest.raises(Spent):
        book.begin(["b"], 0.1, Limits(images=1), {})


def test_a_journal_that_cannot_be_written_is_an_error_before_anything_is_sent(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Ledger(tmp_path / "file").begin(["a"], 0, ANY, {})


def test_thousands_of_lines_are_read_in_a_moment(tmp_path):
    book = Ledger(tmp_path)
    for start in range(0, 5000, 500):
        names = [str(i) for i in range(start, start + 500)]
        book.begin(names, 0.01, ANY, {"model": "m"})
    began = time.process_time()
    assert Ledger(tmp_path).read().totals.images == 5000
    assert time.process_time() - began < 5
    assert journal.Journal(None, "x", print).live()
