"""The tables `guard`, `screen` and `match` of cards and recipes."""

from __future__ import annotations

import tomllib

import pytest

from imaginet_build import recipe
from imaginet_build.errors import UsageError
from imaginet_build.rules import GUARD, SCREENING, Guard, Match, Screening, merged


def entry(text: str) -> recipe.Collect:
    return recipe.parse(tomllib.loads(f'name = "x"\n[[collect]]\nsource = "folder"\n{text}')).collect[0]


def test_what_the_entry_states_takes_the_place_of_what_the_card_states() -> None:
    card = Guard.model_validate({"taken_before": "2022-07-01", "faces": "try"})
    found = merged(GUARD, card, Guard(faces="must"))
    assert (str(found.taken_before), found.faces, found.undated, found.ai_metadata) == ("2022-07-01", "must", "keep", True)
    assert merged(GUARD, None, None) == GUARD
    assert merged(SCREENING, Screening(min_side=9)).min_side == 9


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("match = true", Match()),
        ('match = "sdxl"', Match(generators=["sdxl"])),
        ('match = ["sdxl", "sd21"]', Match(generators=["sdxl", "sd21"])),
        ("match = { candidates = 8, text = 'off' }", Match(candidates=8, text="off")),
        ("match = false", None),
    ],
)
def test_match_can_be_said_in_short(text: str, match: Match | None) -> None:
    assert entry(f'category = "photos"\ncount = 5\n{text}').match == match


def test_a_recipe_with_tables_written_out_reads_the_same() -> None:
    text = 'name = "x"\n[[collect]]\nsource = "folder"\ncategory = "photos"\ncount = 5\nmatch = "sdxl"\n'
    text += 'guard = { taken_before = 2022-07-01, faces = "try" }\nscreen = { nsfw = "record" }\n'
    text += '[[collect]]\nsource = "folder"\nstrata = { "class one" = 3, b = 2 }\n'
    made = recipe.parse(tomllib.loads(text))
    again = recipe.parse(tomllib.loads(recipe.to_toml(made)))
    assert again == made
    assert recipe.digest(again) == recipe.digest(made)
    # What is not stated is not written, so that a card may state it.
    assert again.collect[0].guard is not None
    assert again.collect[0].guard.undated is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("match = true", "match needs `category` and `count`"),
        ('category = "photos"\ncount = 3\nmatch = true\nstrata = "even"', "match and strata exclude each other"),
        ('strata = "even"', 'strata = "even" needs `count`'),
        ("count = 4\nstrata = { a = 3, b = 2 }", "count = 4, but the strata sum to 5"),
        ('guard = { facs = "try" }', "collect.0.guard.facs: no such key; did you mean 'faces'?"),
        ('guard = { faces = "perhaps" }', "should be 'off', 'try' or 'must'"),
        ('guard = { taken_before = "soon" }', "collect.0.guard.taken_before"),
        ("screen = { nsfw_limit = 2 }", "collect.0.screen.nsfw_limit"),
    ],
)
def test_faults_are_named(text: str, fault: str) -> None:
    with pytest.raises(UsageError) as error:
        entry(text)
    assert fault in str(error.value)
