"""Nobody alive is named in a prompt, however the name is written; places, birds and the long dead may be."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from imaginet_build.people import people_rule
from imaginet_build.prompts import expand, load


@pytest.mark.parametrize(
    "text",
    [
        "a photo of elon musk", "ELON MUSK on mars", "Elon\u00a0Musk at a desk", "Elon-Musk", "elon_musk", "@elonmusk",
        "Elon Musk's house", "E. Musk", "e. musk waving", "e l o n m u s k", "E.l.o.n M.u.s.k",
        "\u0415lon Musk", "Elon \u039cusk", "el\u043en m\u03c5sk", "Elon\u200b Mu\u00adsk",
        "\uff25\uff4c\uff4f\uff4e Musk", "\u00c9lon M\u00fcsk",
    ],
)  # fmt: skip
def test_a_listed_name_is_found_however_it_is_written(text: str) -> None:
    """Case, accents, look-alike letters of Greek and Cyrillic, invisible and wide ones, joints, initials, possessives."""
    assert people_rule()(text)


@pytest.mark.parametrize(
    "text",
    [
        "in the style of greg rutkowski", "by greg rutkowski, artgerm", "trending art by wlop", "style of Hayao Miyazaki",
        "in the style of Banksy", "mural, banksy", "style of yoji shinkawa and makoto shinkai", "Rutkowski's dragon",
    ],
)  # fmt: skip
def test_living_artists_are_found_in_lower_case_too(text: str) -> None:
    assert people_rule()(text)


@pytest.mark.parametrize(
    "text",
    [
        "EMMA NOBODY", "Emma J. Nobody", "Emma_Nobody", "Emma  NOBODY at home", "J. K. Nobody", "Zo\u00eb Nobody",
        "in the style of Xyzzy", "photo by Qwertz", "Prime Minister Nobody", "Mr. Nobody", "Emma van der Nobody",
    ],
)  # fmt: skip
def test_a_name_that_nobody_listed_is_found_by_its_form(text: str) -> None:
    assert people_rule()(text)


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
        "a tom cat and a swift bird beside a tailor",
        "mark a page, will a smith do it",
        "in the style of Impressionism",
        "in the style of Art Deco, in Rembrandt lighting",
        "a Jack Russell terrier under a King Charles spaniel",
        "a house by Lake Como",
        "U.S. Army truck, D.C. Monument",
        "J. S. Bach at the organ beside President Lincoln",
        "a drawing in the style of William Morris",
    ],
)
def test_places_birds_and_the_long_dead_may_be_named(text: str) -> None:
    assert people_rule()(text) is None


def test_a_house_may_add_its_own_names_in_any_case(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifests").mkdir()
    shipped = (root / "manifests" / "people.toml").read_text(encoding="utf-8")
    (tmp_path / "manifests" / "people.toml").write_text(shipped.replace("refused = [", 'refused = ["nemo",'), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert people_rule()("captain NEMO at the wheel") == "NEMO"


def test_no_word_list_that_ships_can_make_up_a_listed_name() -> None:
    """So that expansion need not look for names in every text; a list that could is looked through text by text."""
    rule = people_rule()
    for name in ("photos", "paintings", "anime", "faces", "uncategorized"):
        found = load(name)
        assert rule.clears([word for words in found.words.values() for word in words])
    assert not rule.clears(["tom", "hanks", "a portrait of"])
    assert not rule.clears(["tomhanks"])
    assert not rule.clears(["t. ", "hanks"])
    assert not rule.clears(list("tomhanks"))


def test_a_set_whose_words_make_up_a_name_never_yields_it(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'category = "photos"\n[[template]]\ntext = "{first} {last} near a {thing}"\n[words]\nfirst = ["tom", "old"]\n'
        'last = ["hanks", "sheep"]\nthing = ["barn", "river", "house"]\n'
    )
    texts = {prompt.text for prompt in expand(tmp_path / "s.toml", 8, 0)}
    assert not any("tom hanks" in text for text in texts)


def test_a_text_is_judged_in_microseconds() -> None:
    rule, text = people_rule(), "A photo of a stone bridge near the Woods, where the swift king cooks, f/8, " * 40
    start = time.process_time()
    for _ in range(50):
        rule(text)
    assert time.process_time() - start < 1.0
