"""No prompt twice in other words."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imaginet_build.prompt_rules import Twins, screen
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
@example([set(WORDS[:6]), set(WORDS[:7]), set(WORDS[:8]), set(WORDS[:9])], 0)
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
