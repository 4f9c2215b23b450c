"""The ledger: quotas are met past dead links, stratum by stratum, and it says what was asked, had, replaced and given up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from inline import Inline, Interrupted
from listed import Listed, cards
from packing import tar
from pictures import jpeg

from imaginet_build import collect as module
from imaginet_build import engine
from imaginet_build.collect import Collected, collect
from imaginet_build.collecting import availability
from imaginet_build.collecting.quotas import spread
from imaginet_build.engine import Pool
from imaginet_build.errors import UsageError
from imaginet_build.recipe import Collect
from imaginet_build.records import Found, Refusal, Want
from imaginet_build.running import summaries
from imaginet_build.store import Store

ONE = Pool(workers=1)
NO_SHRINK = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cards(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", Inline())
    return tmp_path


def entry(wanted: int | None, over: object = None, **options: object) -> Collect:
    return Collect.model_validate(
        {"source": "listed", "category": "photos", "count": wanted, "strata": over, "options": options}
    )


def run(work: Path, *entries: Collect, seed: int = 3) -> Collected:
    return collect(Store(work), entries, seed, ONE, trust=True)


def ledger(work: Path) -> list[dict]:
    return pq.read_table(work / availability.NAME).to_pylist()


def timeless(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "when"} for row in rows]


DEAD = tuple(random.Random(0).sample(range(100), 40))


def test_with_two_links_of_five_dead_the_quota_is_met_exactly_and_the_report_is_exact(place: Path) -> None:
    done = run(place / "work", entry(50, count=100, dead=DEAD))
    (total,) = done.availability
    lines = ledger(place / "work")
    assert (done.total, total.asked, total.had, total.given_up) == (50, 50, 50, 0)
    assert total.failed == total.replaced == done.rejected["dead-link"] == done.failed
    # The first fifty in the seeded order were asked for; each dead one points at the spare that stands for it.
    assert [line["place"] for line in lines] == list(range(50 + total.replaced))
    assert [line["asked"] for line in lines] == ["asked"] * 50 + ["spare"] * total.replaced
    replaced = [line["replaced_by"] for line in lines if line["outcome"] == "failed"]
    assert replaced == [line["source_key"] for line in lines if line["asked"] == "spare"]
    assert all((line["outcome"] == "failed") == (int(line["source_key"][3:7]) in DEAD) for line in lines)
    assert {line["reason"] for line in lines} == {None, "dead-link"}
    assert all(line["when"].endswith("Z") and len(line["when"]) == 20 for line in lines)
    assert total.first is not None
    assert total.last is not None
    assert total.first <= total.last


def test_a_dead_link_is_replaced_by_one_of_its_own_stratum(place: Path) -> None:
    done = run(place / "work", entry(60, "even", count=120, dead=tuple(range(0, 120, 4)), strata=3))
    kept = Counter(row["source_key"][:2] for row in Store(place / "work").facts(["source_key"]).to_pylist())
    assert kept == {"s0": 20, "s1": 20, "s2": 20}
    assert [(t.stratum, t.asked, t.had, t.given_up) for t in done.availability] == [(f"s{n}", 20, 20, 0) for n in range(3)]
    for line in ledger(place / "work"):
        assert line["source_key"].startswith(line["stratum"])
        assert line["replaced_by"] is None or line["replaced_by"].startswith(line["stratum"])


def test_strata_can_be_named_with_their_quotas_and_a_collector_need_not_filter(place: Path) -> None:
    for filters in (True, False):
        options = {"count": 90, "dead": [1, 2, 3], "strata": 3, "filters": filters}
        done = run(place / f"work{filters}", entry(None, {"s2": 7, "s0": 2}, **options))
        assert [(t.stratum, t.asked, t.had) for t in done.availability] == [("s2", 7, 7), ("s0", 2, 2)]
    sets = [Store(place / f"work{f}").facts(["source_key"])["source_key"].to_pylist() for f in (True, False)]
    assert sorted(sets[0]) == sorted(sets[1])


def test_a_stratum_that_runs_out_is_given_up_and_said(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = run(place / "work", entry(None, {"s0": 5, "s1": 5}, count=12, dead=tuple(range(0, 12, 2)), strata=2))
    assert [(t.stratum, t.had, t.failed, t.replaced, t.given_up) for t in done.availability] == [
        ("s0", 0, 6, 1, 5), ("s1", 5, 0, 0, 0),
    ]  # fmt: skip
    (last,) = [line for line in ledger(place / "work") if line["outcome"] == "given-up"]
    assert (last["stratum"], last["count"], last["reason"]) == ("s0", 5, "the source has no more")
    assert "listed, s0: asked for 5, the source has 0 that can be used" in caplog.text


def test_a_source_that_cannot_list_its_strata_says_what_to_write(place: Path) -> None:
    with pytest.raises(UsageError, match="cannot list its strata beforehand: name them"):
        run(place / "work", Collect.model_validate({"source": "wild", "count": 5, "strata": "even"}))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("abc", max_size=3), st.integers(1, 30), max_size=8), st.integers(0, 120), st.integers(0, 3))
def test_a_count_is_spread_as_evenly_as_the_strata_allow(listed: dict[str, int], count: int, seed: int) -> None:
    shares = spread(listed, count, seed)
    assert sum(shares.values()) == min(count, sum(listed.values()))
    assert all(0 < share <= listed[name] for name, share in shares.items())
    # Who got fewer than another had no more to give, or lost the odd one by lot.
    for low, most in listed.items():
        if shares.get(low, 0) < most:
            assert all(share <= shares.get(low, 0) + 1 for share in shares.values())


@settings(max_examples=10, deadline=None, phases=NO_SHRINK, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_ledger_is_the_same_whatever_was_interrupted_but_for_its_times(place, tmp_path_factory, monkeypatch, data):
    dead = tuple(data.draw(st.sets(st.integers(0, 39), max_size=25)))
    count, strata = data.draw(st.integers(1, 30)), data.draw(st.sampled_from([None, "even"]))
    want = entry(count, strata, count=40, dead=dead, strata=3, filters=data.draw(st.booleans()))
    monkeypatch.setattr(module, "SEGMENT_IMAGES", data.draw(st.integers(1, 6)))
    works = tmp_path_factory.mktemp("ledger")
    monkeypatch.setattr(engine, "run", Inline())
    calm = run(works / "calm", want)
    for attempt in range(60):
        patience = data.draw(st.integers(0, 3)) if attempt < 8 else None
        monkeypatch.setattr(engine, "run", Inline(attempt, patience))
        try:
            stormy = run(works / "stormy", want)
            break
        except Interrupted:
            continue
    assert timeless(ledger(works / "stormy")) == timeless(ledger(works / "calm"))
    sums = [
        [{k: v for k, v in t.to_json().items() if k not in ("first", "last")} for t in d.availability] for d in (calm, stormy)
    ]
    assert sums[0] == sums[1]
    assert Store(works / "stormy").facts().equals(Store(works / "calm").facts())


def test_times_stand_in_the_ledger_and_nowhere_else(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, time in (("early", "2020-01-01T00:00:00Z"), ("late", "2030-01-01T00:00:00Z")):
        monkeypatch.setattr(availability, "now", lambda time=time: time)
        run(place / name, entry(8, count=20, dead=(1, 2, 3)))
    early, late = Store(place / "early"), Store(place / "late")
    assert early.facts().equals(late.facts())
    assert early.rejects().equals(late.rejects())
    files = [sorted(p.name for p in (place / n).rglob("*.parquet")) for n in ("early", "late")]
    assert files[0] == files[1]
    assert {line["when"] for line in ledger(place / "late")} == {"2030-01-01T00:00:00Z"}


def test_one_source_alone_leaves_the_lines_of_the_others(place: Path) -> None:
    first, second = entry(5, count=20), entry(4, count=21, dead=(1, 2))
    run(place / "work", first, second)
    whole = ledger(place / "work")
    run(place / "work", second)
    assert ledger(place / "work") == whole
    (place / "work" / availability.NAME).write_bytes(b"damaged")
    run(place / "work", first, second)
    assert ledger(place / "work") == whole


def test_a_work_folder_from_before_the_ledger_goes_on(place: Path) -> None:
    run(place / "work", entry(5, count=20))
    for path in (place / "work" / "ledger").rglob("*.parquet"):
        path.unlink()
    (place / "work" / availability.NAME).unlink()
    done = run(place / "work", entry(9, count=20))
    (total,) = done.availability
    assert (done.total, total.asked, total.had, total.given_up) == (9, 9, 9, 0)


# --- what may come back ----------------------------------------------------------------------------------------------


FIND = Listed.find


def down(monkeypatch: pytest.MonkeyPatch, numbers: Collection[int], reason: str = "http-503") -> None:
    """From now on the server gives nothing but `reason` for these numbers."""

    def find(collector: Listed, want: Want) -> Iterator[Found | Refusal]:
        for answer in FIND(collector, want):
            lost = isinstance(answer, Found) and int(answer.source_key[3:7]) in numbers
            yield Refusal(reason, "it is down", answer.source_key, answer.stratum) if lost else answer

    monkeypatch.setattr(Listed, "find", find)


def again(work: Path, *entries: Collect) -> Collected:
    return collect(Store(work), entries, 3, ONE, trust=True, retry=True)


def in_one_place(work: Path) -> None:
    store = Store(work)
    kept, refused = store.facts(["id"])["id"].to_pylist(), store.rejects()["id"].to_pylist()
    assert not set(kept) & set(refused)
    assert len(kept) == len(set(kept))


def test_what_a_server_that_is_down_refuses_comes_with_retry_and_leaves_no_trace(place: Path, monkeypatch) -> None:
    want = entry(None, count=20, dead=(1, 2))
    whole = run(place / "whole", want)
    down(monkeypatch, range(10, 16))
    done = run(place / "work", want)
    assert (done.total, done.rejected) == (12, {"dead-link": 2, "http-503": 6})
    assert [(t.asked, t.failed, t.given_up, t.may_come_back) for t in done.availability] == [(20, 8, 8, 6)]
    assert "6 may come back: build-imaginet collect --retry" in summaries.collected_text(done.to_json())
    # A plain call asks for nothing twice; while the server is down, --retry changes nothing; then some are gone for good.
    down(monkeypatch, ())
    assert run(place / "work", want).new == 0
    down(monkeypatch, range(10, 16))
    assert again(place / "work", want).rejected == done.rejected
    down(monkeypatch, (10,), "http-404")
    done = again(place / "work", want)
    assert (done.new, done.total, done.rejected) == (5, 17, {"dead-link": 2, "http-404": 1})
    down(monkeypatch, ())
    done = again(place / "work", want)
    assert (done.new, done.rejected["http-404"], [t.may_come_back for t in done.availability]) == (0, 1, [0])
    assert "may come back" not in summaries.collected_text(done.to_json())
    in_one_place(place / "work")
    lines = {line["source_key"]: line["outcome"] for line in ledger(place / "work")}
    expected = {line["source_key"]: line["outcome"] for line in ledger(place / "whole")}
    assert {key for key in lines if lines[key] != expected[key]} == {"s0/0010.png"}
    assert whole.total == 18


def test_a_quota_that_was_met_past_an_outage_is_not_exceeded_by_what_comes_back(place: Path, monkeypatch) -> None:
    down(monkeypatch, range(0, 40, 3), "timeout")
    want = entry(20, count=40)
    done = run(place / "work", want)
    (total,) = done.availability
    assert (total.had, total.may_come_back, total.replaced) == (20, 0, total.failed)
    lines, rejects = ledger(place / "work"), Store(place / "work").rejects()
    down(monkeypatch, ())
    again_done = again(place / "work", want)
    assert (again_done.new, again_done.total, again_done.rejected) == (0, 20, done.rejected)
    assert ledger(place / "work") == lines
    assert Store(place / "work").rejects().equals(rejects)
    more = again(place / "work", entry(39, count=40))
    assert (more.total, more.availability[0].had) == (39, 39)
    in_one_place(place / "work")


def test_a_retry_takes_no_more_of_what_failed_than_the_quota_lacks_and_the_rest_stays_in_the_ledger(place: Path, monkeypatch):
    down(monkeypatch, range(0, 40, 5), "http-503")
    want = entry(36, count=40)
    assert run(place / "work", want).rejected == {"http-503": 8}
    down(monkeypatch, ())
    done = again(place / "work", want)
    (total,) = done.availability
    assert (done.new, done.total, done.rejected) == (4, 36, {"http-503": 4})
    assert (total.had, total.failed, total.given_up) == (36, 4, 0)
    assert [line["reason"] for line in ledger(place / "work") if line["outcome"] == "failed"] == ["http-503"] * 4
    in_one_place(place / "work")


def test_what_several_strata_answer_for_is_asked_again_once_a_call(place: Path, monkeypatch) -> None:
    def find(collector: Listed, want: Want) -> Iterator[Found | Refusal]:
        if "whole.tar" not in want.have:
            asked.append(want.stratum)
            yield Refusal("missing", "it is not there", "whole.tar")
        yield from FIND(collector, want)

    asked: list[str | None] = []
    monkeypatch.setattr(Listed, "find", find)
    want = entry(None, {"s0": 9, "s1": 9}, count=12, strata=2)
    run(place / "work", want)
    again(place / "work", want)
    assert asked == ["s0", "s0"]


@pytest.mark.parametrize("quota", [None, 17])
def test_a_retry_that_is_killed_anywhere_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch, quota: int | None) -> None:
    want = entry(quota, count=24, dead=(1, 2))
    monkeypatch.setattr(module, "SEGMENT_IMAGES", 3)
    down(monkeypatch, range(8, 20), "unreachable")
    assert run(place / "work", want).total == 10
    down(monkeypatch, (9,), "http-410")
    for attempt in range(12):
        monkeypatch.setattr(engine, "run", Inline(attempt, attempt % 3 if attempt < 6 else None))
        monkeypatch.setattr(Store, "forget_rejects", _killed if attempt == 0 else FORGET)
        try:
            (again if attempt < 3 or attempt > 6 else run)(place / "work", want)
        except Interrupted:
            continue
        in_one_place(place / "work")
    done = run(place / "work", want)
    assert done.total == (quota or 21)
    # What a full quota had no need of is still refused, and the ledger still says so.
    assert set(done.rejected) <= {"dead-link", "http-410"} | ({"unreachable"} if quota else set())
    reasons = Counter(line["reason"] for line in ledger(place / "work") if line["reason"])
    assert reasons == done.rejected


FORGET = Store.forget_rejects


def _killed(*_: object) -> None:
    raise Interrupted


def test_reasons_that_pass_are_told_from_those_that_last() -> None:
    assert availability.passes("http-599")
    assert not any(
        map(availability.passes, (None, "http-404", "http-410", "http-5000", "not-matched", "listed-twice", "http-50"))
    )


def test_where_everything_is_asked_for_what_a_rule_refuses_was_not_asked(place: Path) -> None:
    """Screened and listed twice: neither could have been taken."""
    want = Collect.model_validate(
        {"source": "listed", "category": "photos", "screen": {"min_side": 13}, "options": {"count": 6}}
    )
    (total,) = run(place / "work", want).availability
    assert (total.asked, total.had, total.refused, total.given_up) == (0, 0, 6, 0)
    wild = Collect.model_validate({"source": "wild", "category": "photos"})
    (total,) = run(place / "wild", wild).availability
    assert total.asked == total.had + total.failed
    assert (total.given_up, total.refused) == (total.failed, 3)


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_limit_gives_nothing_up_that_the_recipe_did_not_ask_for(place: Path) -> None:
    done = collect(Store(place / "all"), [entry(None, count=12, dead=(1, 2))], 3, ONE, trust=True, limit=500)
    (total,) = done.availability
    assert (total.asked, total.had, total.failed, total.given_up, total.later) == (12, 10, 2, 2, 0)
    assert all(line["outcome"] != "given-up" for line in ledger(place / "all"))
    done = collect(Store(place / "some"), [entry(10, count=12)], 3, ONE, trust=True, limit=4)
    (total,) = done.availability
    assert (total.asked, total.had, total.given_up, total.later) == (4, 4, 0, 6)
    assert "6 left for later by --limit" in summaries.collected_text(done.to_json())
    done = collect(Store(place / "few"), [entry(20, count=12)], 3, ONE, trust=True, limit=15)
    assert [(t.asked, t.had, t.given_up, t.later) for t in done.availability] == [(20, 12, 8, 0)]
    done = collect(Store(place / "even"), [entry(8, "even", count=12, strata=2)], 3, ONE, trust=True, limit=2)
    assert [(t.asked, t.had, t.given_up, t.later) for t in done.availability] == [(1, 1, 0, 3)] * 2


@pytest.mark.parametrize("strata", [None, "even"])
def test_the_ledger_is_the_same_whatever_the_limits_were(place: Path, strata: str | None) -> None:
    """An archive reads what the whole quota takes before its spares: a limit may not change which those are."""
    files = {f"{n % 3}/{n:03}.jpg": b"broken" if n % 7 == 2 else jpeg(n, 12, 12) for n in range(60)}
    tar(place / "set.tar", files)
    options = {"root": str(place / "set.tar"), "origin": "real"} | ({"stratum": "/"} if strata else {})
    want = Collect.model_validate(
        {"source": "archive", "category": "photos", "count": 40, "strata": strata, "options": options}
    )
    collect(Store(place / "calm"), [want], 3, ONE)
    for limit in (3, 17, 39, None):
        collect(Store(place / "limited"), [want], 3, ONE, limit=limit)
    assert timeless(ledger(place / "limited")) == timeless(ledger(place / "calm"))
    assert Store(place / "limited").facts().equals(Store(place / "calm").facts())
