"""Expected failures: each has the exit code of the command, says what to do next, and survives the way between processes."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaginet_build.errors import BadImage, BuildError, GateRefused, MissingExtra, UsageError, suggest

ONE_OF_EACH = [
    BuildError("the disk is full"),
    UsageError("no generator 'x'"),
    MissingExtra("sdxl", "diffusers", "diffusion"),
    GateRefused("0.9"),
    BadImage("truncated", "the file ends early"),
    BadImage("empty"),
]


@pytest.mark.parametrize(
    ("kind", "code"), [(BuildError, 1), (UsageError, 2), (MissingExtra, 2), (GateRefused, 3), (BadImage, 1)]
)
def test_the_exit_codes_are_those_of_the_command(kind, code):
    assert kind.exit_code == code
    assert issubclass(kind, BuildError)


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_every_error_survives_the_way_between_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_missing_extra_says_what_to_install():
    assert (
        str(MissingExtra("sdxl", "diffusers", "diffusion")) == "sdxl needs diffusers: pip install 'imaginet-build[diffusion]'"
    )


def test_a_bad_image_has_a_word_for_counting_and_a_sentence_for_reading():
    error = BadImage("truncated", "the file ends early")
    assert (error.reason, error.detail, str(error)) == ("truncated", "the file ends early", "truncated: the file ends early")
    assert str(BadImage("empty")) == "empty"


def test_the_nearest_name_is_suggested_and_only_a_near_one():
    assert suggest("sdlx", ["sdxl", "flux1-dev", "sd15"]) == "; did you mean 'sdxl'?"
    assert suggest("zzzzzz", ["sdxl", "flux1-dev"]) == ""
    assert suggest("sdxl", []) == ""


@given(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=8))
def test_a_suggestion_is_always_a_known_name_and_does_not_depend_on_their_order(word, known):
    said = suggest(word, known)
    assert said == "" or any(said == f"; did you mean '{name}'?" for name in known)
    assert said == suggest(word, reversed(known))
