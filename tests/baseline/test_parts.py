"""The parts of a test: each against the other class of its content types, the worst beside the mean, windows of time."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from imaginet_build.baseline import parts
from imaginet_build.baseline.data import Rows
from imaginet_build.baseline.parts import Parts


def rows(made: list[tuple[str, str, str]], sides: list[int] | None = None) -> Rows:
    """Rows of (generator or real, content type, source); a generator's family is its first letter."""
    n = len(made)
    return Rows(
        title="t",
        ids=tuple(f"{i:04d}" for i in range(n)),
        label=np.array([int(g != "real") for g, _, _ in made], np.int64),
        content_type=tuple(c for _, c, _ in made),
        family=tuple("real" if g == "real" else g[0] for g, _, _ in made),
        generator=tuple(g for g, _, _ in made),
        group=tuple(f"{i:04d}" for i in range(n)),
        size=np.array([[s, s + 9] for s in sides or [300] * n], np.int64),
        read=lambda row: b"",
        source=tuple(s for _, _, s in made),
    )


MADE = [
    *[("real", "faces", "ffhq")] * 20, *[("real", "photos", "coco")] * 20,
    *[("a1", "faces", "ours")] * 10, *[("a2", "photos", "ours")] * 10, *[("b1", "photos", "ours")] * 10,
]  # fmt: skip


def judged(bootstrap: int = 40) -> Parts:
    """a1 is found, a2 is missed, b1 is a coin toss; the reals of photos are suspected more than those of faces."""
    at = {"real/faces": 0.1, "real/photos": 0.3, "a1/faces": 0.9, "a2/photos": 0.05, "b1/photos": 0.35}
    p = np.array([at[f"{g}/{c}"] for g, c, _ in MADE]) + np.random.default_rng(3).uniform(-0.09, 0.09, len(MADE))
    return Parts(rows(MADE), np.clip(p, 0, 1)[None], bootstrap)


def test_a_generator_is_held_against_the_reals_of_its_content_types() -> None:
    found = judged().by_generator()
    assert {name: (f["n_real"], f["n_synthetic"]) for name, f in found.items()} == {
        "a1": (20, 10),
        "a2": (20, 10),
        "b1": (20, 10),
    }
    assert (found["a1"]["auc"], found["a1"]["found"], found["a1"]["false_alarms"]) == (1, 1, 0)
    assert found["a2"]["auc"] < 0.05
    assert set(judged().by_family()) == {"a", "b"}
    assert judged().by_family()["a"]["n_real"] == 40


def test_the_worst_generator_stands_beside_the_mean() -> None:
    one = judged()
    by_generator = one.by_generator()
    head = one.headline(by_generator)
    assert head["worst"]["auc"]["generator"] == "a2"
    assert head["worst"]["auc"]["value"] == by_generator["a2"]["auc"]
    assert head["worst"]["auc"]["ci95"] == by_generator["a2"]["ci95"]
    assert head["mean"]["auc"]["value"] == pytest.approx(np.mean([f["auc"] for f in by_generator.values()]), abs=1e-6)
    low, high = head["mean"]["auc"]["ci95"]
    assert low <= head["mean"]["auc"]["value"] <= high
    assert head["generators"] == 3
    few = Parts(rows(MADE[:22] + MADE[40:42]), np.full((1, 24), 0.5), 10)
    nothing = few.headline(few.by_generator())
    assert (nothing["worst"], nothing["mean"]) == (None, None)
    assert "no generator" in nothing["reason"]


def test_sources_content_types_and_sizes() -> None:
    one = judged(0)
    assert {name: (f["n_real"], f["n_synthetic"]) for name, f in one.by_source().items()} == {
        "coco": (20, 20),
        "ffhq": (20, 10),
    }
    assert {name: f["n_real"] for name, f in one.by_content_type().items()} == {"faces": 20, "photos": 20}
    sides = [100] * 25 + [256] * 25 + [4000] * 20
    sized = Parts(rows(MADE, sides), one.scores, 0).by_size()
    assert {name: f["n_real"] + f["n_synthetic"] for name, f in sized.items()} == {
        "below 256": 25,
        "256-511": 25,
        "from 2048": 20,
    }


def test_generators_stand_in_the_year_their_card_was_released(monkeypatch: pytest.MonkeyPatch) -> None:
    days = {"a1": datetime.date(2021, 5, 1), "a2": datetime.date(2023, 2, 1)}
    monkeypatch.setattr(parts, "released", lambda names: {n: days[n] for n in names if n in days})
    found = judged().by_release(["a1"])
    assert list(found["windows"]) == ["2021", "2023"]
    assert found["windows"]["2021"]["auc"] == 1
    assert found["undated"] == ["b1"]
    assert found["newest_trained"] == "2021-05-01"
    assert found["later_than_training"]["generators"] == ["a2"]
    assert found["later_than_training"]["auc"] < 0.05
    assert judged().by_release(["b1"])["later_than_training"] is None
    monkeypatch.setattr(parts, "released", lambda names: {})
    assert "no card says" in judged().by_release(["a1"])["reason"]


def test_dates_come_from_the_cards() -> None:
    found = parts.released(["no such generator", "sdxl", "real"])
    assert all(isinstance(day, datetime.date) for day in found.values())
    assert "no such generator" not in found
