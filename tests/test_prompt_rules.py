"""No prompt twice in other words, and nobody's name."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build.prompt_rules import Twins, people_rule, screen
from imaginet_build.prompts import make

LONG = "a photo of a brown bear near a waterhole, clear sky, telephoto lens, visible grain"


@pytest.mark.parametrize(
    "other",
    [
        LONG.upper(),
        "near the waterhole: photos of brown bears! clear sky; telephoto lens - visible grain",
        LONG.replace("brown", "black"),
        LONG.replace("brown ", ""),
        LONG + ", sharp",
    ],
)
def test_the_same_words_or_all_but_one_are_near_identical(other: str) -> None:
    twins = Twins()
    assert twins.add(LONG)
    assert not twins.add(other)


def test_two_other_words_are_enough_to_differ() -> None:
    twins = Twins()
    assert twins.add(LONG)
    assert twins.add(LONG.replace("brown", "black").replace("bear", "cat"))


def test_short_prompts_differ_by_a_single_word() -> None:
    twins = Twins()
    assert twins.add("a red car")
    assert twins.add("a blue car")
    assert not twins.add("the cars, red")


WORDS = [f"w{letter}" for letter in "abcdefghijkl"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sets(st.sampled_from(WORDS), min_size=6, max_size=11), min_size=1, max_size=12), st.integers(0, 99))
def test_the_quick_rule_agrees_with_comparing_every_pair(texts: list[set[str]], seed: int) -> None:
    def near(a: set[str], b: set[str]) -> bool:
        alike = len(a - b) <= 1 and len(b - a) <= 1
        return a == b or (alike and len(a) >= 8 and len(b) >= 8)

    twins, kept = Twins(), []
    for words in texts:
        shuffled = random.Random(seed).sample(sorted(words), len(words))
        is_new = twins.add(" ".join(shuffled))
        assert is_new == (not any(near(words, other) for other in kept))
        if is_new:
            kept.append(words)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a portrait of Emma Nobody-Smith at a concert", "Emma Nobody"),
        ("Maria de la Nowhere eating spaghetti", "Maria de la Nowhere"),
        ("photo by Zyx Qwertz", "Zyx Qwertz"),
        ("in the style of Greg Somebody, detailed", "Greg Somebody"),
        ("President Somebody Else waving", "Somebody Else"),
    ],
)
def test_a_persons_name_is_found(text: str, name: str) -> None:
    assert people_rule()(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "in the style of Vincent van Gogh",
        "an engraving after Albrecht Dürer",
        "a photo of Victoria Station",
        "Charles Bridge in Prague at dawn",
        "a robin on a branch, May morning",
        "New York street, Golden Gate Bridge",
        "a king on a throne",
        "Hudson river school painting of a lake",
    ],
)
def test_places_birds_and_the_long_dead_may_be_named(text: str) -> None:
    assert people_rule()(text) is None


def test_a_house_may_add_its_own_names_in_any_case(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifests").mkdir()
    shipped = (root / "manifests" / "people.toml").read_text(encoding="utf-8")
    (tmp_path / "manifests" / "people.toml").write_text(shipped.replace("refused = []", 'refused = ["nemo"]'), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert people_rule()("captain NEMO at the wheel") == "NEMO"


def test_a_list_is_screened_with_a_reason_for_everything_left_out() -> None:
    texts = ["a red car", "the red cars", "", "Emma Nobody smiling", "a blue car"]
    screened = screen(make(text, "", "photos") for text in texts)
    assert [prompt.text for prompt in screened.kept] == ["a red car", "a blue car"]
    assert [(p.text, r.reason) for p, r in screened.refused] == [
        ("the red cars", "near-identical"),
        ("", "empty"),
        ("Emma Nobody smiling", "named-person"),
    ]
    assert all(refusal.detail for _, refusal in screened.refused)


def test_whatever_is_kept_is_kept_in_every_longer_list() -> None:
    prompts = [make(" ".join(words), "", "photos") for words in itertools.combinations("abcdefghij", 8)]
    short, whole = screen(prompts[:20]).kept, screen(prompts).kept
    assert whole[: len(short)] == short
