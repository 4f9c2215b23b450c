"""Matching: of many candidates those stay that look like what the generators draw, and the report says by how much."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from inline import Inline, Interrupted
from listed import Captioned, cards
from pictures import jpeg, write

from imaginet_build import collect as module
from imaginet_build import engine
from imaginet_build.collect import Collected, collect
from imaginet_build.collecting import candidates, matching
from imaginet_build.collecting.candidates import Candidates
from imaginet_build.collecting.matching import Seen, choose, distances, rows_of, space_of
from imaginet_build.engine import Pool
from imaginet_build.errors import UsageError
from imaginet_build.recipe import Collect, Generate
from imaginet_build.records import Found, Refusal, Want, random_of
from imaginet_build.store import Store

ONE = Pool(workers=1)
ANIMALS = ["a cat asleep in the sun", "two cats on a wall", "a dog in the snow", "a horse and its foal in a meadow"]
TOWNS = [
    "a street of old houses at night",
    "a bridge over the river",
    "the market square in the rain",
    "a tram before the opera",
]


def mixture(count: int, sizes: list[tuple[int, int]], texts: list[str], seed: object) -> list[Seen]:
    random = random_of(str(seed), "mixture")
    picks = zip(random.integers(0, len(sizes), count), random.integers(0, len(texts), count), strict=True)
    return [Seen(*sizes[int(s)], texts[int(t)]) for s, t in picks]


WIDE, SQUARE, TALL = (640, 360), (512, 512), (300, 480)
REFERENCE = mixture(200, [SQUARE, SQUARE, WIDE], ANIMALS, "reference")
CANDIDATES = mixture(800, [WIDE, TALL, TALL, (1600, 1200), SQUARE], ANIMALS + TOWNS * 2, "candidates")


def test_every_distance_falls_on_a_planted_mixture() -> None:
    space = space_of(CANDIDATES, REFERENCE, "tfidf")
    chosen = choose(space, 100, "name")
    before, after = distances(space, rows_of(100)), distances(space, chosen)
    assert len(set(chosen.tolist())) == 100
    for name, value in before.items():
        assert after[name] is not None
        assert value is not None
        assert after[name] < value / 2, name
    shapes = [CANDIDATES[i].width / CANDIDATES[i].height for i in chosen]
    assert min(shapes) >= 1, "no tall picture is among the references"
    assert np.mean([CANDIDATES[i].text in ANIMALS for i in chosen]) > 2 * np.mean([seen.text in ANIMALS for seen in CANDIDATES])


def test_the_choice_is_the_nearest_subset_where_one_axis_alone_counts() -> None:
    """With one reference size the assignment must take exactly the candidates nearest to it."""
    random = random_of("sizes", "test")
    seen = [Seen(int(side), int(side)) for side in random.integers(64, 2048, 60)]
    chosen = choose(space_of(seen, [Seen(512, 512)] * 5, "off"), 10, "name")
    nearest = sorted(range(60), key=lambda i: abs(np.log2(seen[i].width / 512)))[:10]
    assert sorted(abs(np.log2(seen[i].width / 512)) for i in chosen) == pytest.approx(
        sorted(abs(np.log2(seen[i].width / 512)) for i in nearest)
    )


def test_the_same_name_gives_the_same_choice_and_blocks_keep_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "BLOCK", 16)
    space = space_of(CANDIDATES, REFERENCE, "tfidf")
    first, again = choose(space, 101, "one"), choose(space, 101, "one")
    assert first.tolist() == again.tolist()
    assert len(set(first.tolist())) == 101
    before, after = distances(space, rows_of(101)), distances(space, first)
    assert after["aspect_w1"] < before["aspect_w1"] / 2
    assert after["subject_mmd"] < 0.8 * before["subject_mmd"]


def test_too_few_candidates_are_all_taken() -> None:
    assert choose(space_of(CANDIDATES[:5], REFERENCE, "off"), 9, "name").tolist() == [0, 1, 2, 3, 4]


def test_a_side_without_texts_is_matched_by_shape_alone_and_says_so() -> None:
    silent = [Seen(s.width, s.height) for s in CANDIDATES]
    space = space_of(silent, REFERENCE, "tfidf")
    assert space.subject == "not compared: most candidates carry no text"
    after = distances(space, choose(space, 50, "name"))
    assert (after["subject_mmd"], after["subject_centroid"]) == (None, None)


def test_a_thousand_are_chosen_among_four_thousand_in_bounded_time() -> None:
    random = random_of("many", "test")
    seen = [Seen(int(w), int(h)) for w, h in random.integers(200, 2000, (4_000, 2))]
    space = space_of(seen, mixture(500, [SQUARE, WIDE], ANIMALS, 1), "off")
    start = time.process_time()
    assert len(choose(space, 1_000, "name")) == 1_000
    assert time.process_time() - start < 10


# --- as `collect` does it --------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cards(tmp_path)
    card = 'adapter = "painter:Painter"\nlicence = "CC0-1.0"\nrevision = "1"\nfamily = "other"\nwidth = 128\nheight = 64\n'
    write(tmp_path / "manifests" / "generators" / "painter.toml", card)
    write(tmp_path / "animals.txt", "\n".join(ANIMALS) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", Inline())
    return tmp_path


OPTIONS = {"sizes": [[128, 64], [64, 128], [90, 90], [100, 60]], "captions": ANIMALS + TOWNS, "count": 240}
ORDERS = [Generate(generator="painter", category="photos", count=4, prompts="animals.txt")]


def entry(wanted: int = 12, match: object = True, **options: object) -> Collect:
    return Collect.model_validate(
        {"source": "captioned", "category": "photos", "count": wanted, "match": match, "options": OPTIONS | options}
    )


def run(work: Path, *entries: Collect, generate: list[Generate] = ORDERS) -> Collected:
    return collect(Store(work), entries, 3, ONE, generate=generate, trust=True)


def test_reals_are_matched_to_what_is_ordered_before_anything_is_drawn(place: Path) -> None:
    done = run(place / "work", entry())
    (report,) = done.matching
    assert (done.total, report["chosen"], report["candidates"]) == (12, 12, 48)
    assert (report["reference"], report["generators"], report["subject"]) == ({"ordered": 4}, ["painter"], "tfidf")
    for name in ("size_w1", "aspect_ks", "aspect_w1", "subject_mmd", "subject_centroid"):
        assert report["after"][name] < report["before"][name], name
    rows = Store(place / "work").facts().to_pylist()
    assert sum(row["width"] > row["height"] for row in rows) >= 10
    assert sum(row["prompt"] in ANIMALS for row in rows) >= 8
    # Nothing is lost without a reason, and nothing stays behind.
    assert done.rejected["not-matched"] == 36
    assert done.failed == done.rejected["dead-link"]
    (total,) = done.availability
    assert (total.asked, total.had, total.passed_over, total.given_up) == (12, 12, 36, 0)
    assert total.replaced == total.failed > 0
    assert not any((place / "work" / "candidates").iterdir())
    assert json.loads((place / "work" / "matching.json").read_text()) == {next(iter(matching.read(place / "work"))): report}


def test_a_second_call_changes_nothing(place: Path) -> None:
    first = run(place / "work", entry())
    files = {path: path.stat().st_mtime_ns for path in (place / "work").rglob("*") if path.is_file()}
    again = run(place / "work", entry())
    assert (again.new, again.total, again.matching, again.rejected) == (0, 12, first.matching, first.rejected)
    assert {path: path.stat().st_mtime_ns for path in (place / "work").rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("segment", [3])
def test_killed_at_every_step_it_ends_with_the_same_choice(place: Path, monkeypatch: pytest.MonkeyPatch, segment: int) -> None:
    """While candidates come in, when the choice is written down, and between two parts of the chosen."""
    run(place / "calm", entry())
    calm, stormy = Store(place / "calm"), Store(place / "stormy")
    monkeypatch.setattr(module, "SEGMENT_IMAGES", segment)
    monkeypatch.setattr(candidates, "_AT_ONCE", 5)
    monkeypatch.setattr(matching, "write", _once_interrupted(matching.write))
    monkeypatch.setattr(Candidates, "_part", _once_interrupted(Candidates._part, after=1))
    killed = 0
    for attempt in range(40):
        monkeypatch.setattr(engine, "run", Inline(attempt, attempt % 4 if attempt < 10 else None))
        try:
            done = run(place / "stormy", entry())
            break
        except Interrupted:
            killed += 1
    assert killed >= 6
    assert done.total == 12
    assert stormy.facts().equals(calm.facts())
    assert stormy.rejects().equals(calm.rejects())
    assert matching.read(stormy.root) == matching.read(calm.root)


def _once_interrupted(function, after=0):
    calls = []

    def sometimes(*args):
        calls.append(args)
        if len(calls) == 1 + after:
            raise Interrupted
        return function(*args)

    return sometimes


def test_what_was_collected_as_synthetic_is_matched_too(place: Path) -> None:
    for number in range(6):
        write(place / "midjourney" / "mj" / f"{number}.jpg", jpeg(f"mj{number}", 64, 128))
    fakes = Collect(
        source="folder", category="photos", options={"root": "midjourney", "origin": "synthetic", "category": "photos"}
    )
    done = run(place / "work", entry(match="mj"), fakes, generate=[])
    (report,) = done.matching
    assert report["reference"] == {"collected": 6}
    assert report["subject"] == "not compared: most references carry no text"
    rows = Store(place / "work").facts().to_pylist()
    assert all((r["width"], r["height"]) == (64, 128) for r in rows if r["origin"] == "real")


def test_nothing_to_match_is_said_before_a_candidate_is_fetched(place: Path) -> None:
    with pytest.raises(UsageError, match="there is nothing of photos to match by nobody: the recipe has no"):
        run(place / "work", entry(match="nobody"))
    with pytest.raises(UsageError, match=r"to match by paintr; did you mean 'painter'\?"):
        run(place / "work", entry(match=["painter", "paintr"]))
    with pytest.raises(UsageError, match="there is nothing of photos to match: the recipe has no"):
        run(place / "work", entry(), generate=[])
    assert not (place / "work" / "candidates").exists()


def test_a_source_with_fewer_than_asked_gives_what_it_has(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = run(place / "work", entry(30, count=22))
    assert done.total == 20
    assert "asked for 30, the source has 20" in caplog.text
    (total,) = done.availability
    assert (total.asked, total.had, total.given_up) == (30, 20, 10)


def test_any_sequence_of_limits_ends_with_the_choice_of_the_whole_quota(place: Path) -> None:
    whole = run(place / "whole", entry())
    totals = []
    for limit in (1, 5, 5, 3, None, None):
        done = collect(Store(place / "work"), [entry()], 3, ONE, generate=ORDERS, trust=True, limit=limit)
        totals.append(done.total)
        assert done.matching == whole.matching
        assert done.availability[0].replaced == whole.availability[0].replaced
    assert totals == [1, 5, 5, 5, 12, 12]
    parts, calm = Store(place / "work"), Store(place / "whole")
    assert parts.facts().equals(calm.facts())
    assert parts.rejects().equals(calm.rejects())
    assert done.rejected == whole.rejected
    assert not any((place / "work" / "candidates").iterdir())


def test_candidates_of_a_server_that_was_down_are_asked_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = Captioned.find

    def down(collector: Captioned, want: Want) -> Iterator[Found | Refusal]:
        for answer in find(collector, want):
            yield Refusal("http-503", "it is down", answer.source_key)

    monkeypatch.setattr(Captioned, "find", down)
    done = run(place / "work", entry(5, count=10))
    assert (done.total, done.rejected, done.availability[0].may_come_back) == (0, {"http-503": 10}, 10)
    monkeypatch.setattr(Captioned, "find", find)
    assert run(place / "work", entry(5, count=10)).total == 0
    done = collect(Store(place / "work"), [entry(5, count=10)], 3, ONE, generate=ORDERS, trust=True, retry=True)
    assert (done.total, done.rejected) == (5, {"dead-link": 1, "not-matched": 4})
    assert done.matching[0]["candidates"] == 9


def test_under_a_limit_nothing_is_matched_to_a_part_of_what_is_collected(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(6):
        width, height = OPTIONS["sizes"][number % 2]
        write(place / "midjourney" / "mj" / f"{number}.jpg", jpeg(f"mj{number}", width, height))
    fakes = Collect(
        source="folder", category="photos", options={"root": "midjourney", "origin": "synthetic", "category": "photos"}
    )
    wants = [entry(match="mj"), fakes]
    whole = collect(Store(place / "whole"), wants, 3, ONE, trust=True)
    assert whole.total == 18
    totals = [collect(Store(place / "work"), wants, 3, ONE, trust=True, limit=limit).total for limit in (2, 4, 9, None)]
    assert totals == [2, 4, 15, 18]
    assert "captioned: it matches what folder gives, and is chosen once that is here without --limit" in caplog.text
    assert Store(place / "work").facts().equals(Store(place / "whole").facts())
