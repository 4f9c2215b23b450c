"""Whatever a source calls its licence becomes an SPDX expression, and what nobody knows allows nothing."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from license_expression import get_spdx_licensing

from imaginet_build.releases.licences import NOT_STATED, Rights, joined, names_in, page_of, rights_of, spdx, told


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("apache-2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("The MIT License", "MIT"),
        ("cc by 2.0", "CC-BY-2.0"),
        ("CC BY-SA 4.0 International", "CC-BY-SA-4.0"),
        ("CC0", "CC0-1.0"),
        ("https://creativecommons.org/licenses/by-nc-nd/2.0/", "CC-BY-NC-ND-2.0"),
        ("http://creativecommons.org/licenses/by/3.0/us/", "CC-BY-3.0-US"),
        ("https://creativecommons.org/publicdomain/zero/1.0/deed.en", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"),
        ("https://spdx.org/licenses/BSD-3-Clause.html", "BSD-3-Clause"),
        ("mit or (apache-2.0 and cc-by-4.0)", "MIT OR (Apache-2.0 AND CC-BY-4.0)"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("MIT AND LicenseRef-ours", "MIT AND LicenseRef-ours"),
        ("Public Domain", "LicenseRef-scancode-public-domain"),
        ("OpenAI terms of use", "LicenseRef-OpenAI-terms-of-use"),
        ("openrail++", "LicenseRef-openrail-plus-plus"),
        ("all rights reserved or ask", "LicenseRef-all-rights-reserved-or-ask"),
        ("unknown", NOT_STATED),
        ("  ", NOT_STATED),
        (None, NOT_STATED),
    ],
)
def test_what_a_source_says_is_written_as_spdx_writes_it(said: str | None, meant: str) -> None:
    assert spdx(said) == meant


def test_a_bare_word_is_not_taken_for_a_licence_that_has_it_as_a_nickname() -> None:
    """Flickr's `Attribution` is Creative Commons; SPDX's AAL, the Attribution Assurance License, is not meant."""
    assert spdx("Attribution") == "LicenseRef-Attribution"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
@example("LICENSEMD")
@example("LICENSE.MD")
@example("LicenseRef-LICENSE.md")
def test_any_text_at_all_becomes_one_valid_expression_that_stays_what_it_is(said: str) -> None:
    expression = spdx(said)
    assert spdx(expression) == expression
    assert get_spdx_licensing().parse(expression) is not None
    assert all(name.isascii() and " " not in name for name in names_in(expression))
    rights_of(expression)


@pytest.mark.parametrize(
    "said",
    [
        *("()", "( )", "()()", "(()", "MIT AND ()", "MIT (research use only", "MIT)", "(MIT", "MIT ("),
        *("(" * 5000 + "MIT" + ")" * 5000, "(" * 5000 + "MIT", "MIT " + "AND MIT " * 3000, "cc0 or " * 70 + "cc0"),
        "https://creativecommons.org/licenses/by/4.0 but no commercial use",
        "https://creativecommons.org/licenses/by/4.0/ NonCommercial",
        "https://creativecommons.org/licenses/by/2.0/../by-nc/",
    ],
)
def test_what_is_no_expression_or_says_more_than_an_address_is_its_own_licence_and_allows_nothing(said: str) -> None:
    began = time.process_time()
    expression = spdx(said)
    assert expression.startswith("LicenseRef-")
    assert rights_of(expression) == Rights()
    assert spdx(expression) == expression
    assert time.process_time() - began < 1


@pytest.mark.parametrize("end", ["", "/", "/deed.de", "/legalcode.en", "/?ref=chooser-v1", "/deed.zh-hans#1"])
def test_the_ends_that_addresses_of_creative_commons_have(end: str) -> None:
    assert spdx(f"https://creativecommons.org/licenses/by/4.0{end}") == "CC-BY-4.0"


def test_texts_that_letters_alone_cannot_tell_apart_keep_different_names() -> None:
    long = "terms " * 60
    assert len({spdx(long + "a"), spdx(long + "b"), spdx("лицензия"), spdx("своя"), spdx("openrail"), spdx("openrail++")}) == 6


@pytest.mark.parametrize(
    ("expression", "redistribute", "commercial"),
    [
        ("CC0-1.0", True, True),
        ("CC-BY-4.0", True, True),
        ("CC-BY-NC-SA-4.0", True, False),
        ("CC-BY-ND-2.0", False, True),
        ("Apache-2.0", True, True),
        ("GPL-3.0-only", True, True),
        ("LicenseRef-scancode-public-domain", True, True),
        ("LicenseRef-scancode-unsplash", None, None),
        ("LicenseRef-not-stated", None, None),
        ("MIT OR LicenseRef-x", True, True),
        ("MIT AND LicenseRef-x", None, None),
        ("CC-BY-NC-4.0 AND LicenseRef-x", None, False),
        ("CC-BY-ND-4.0 AND MIT", False, True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True, True),
        ("MIT WITH LicenseRef-scancode-commons-clause", None, None),
        ("Apache-2.0 WITH LicenseRef-commons-clause", None, None),
        ("MIT WITH CC-BY-NC-4.0", None, None),
        ("CC-BY-NC-4.0 WITH Classpath-exception-2.0", True, False),
        ("CC-BY-NC-4.0 WITH LicenseRef-x", None, False),
    ],
)
def test_what_a_licence_allows(expression: str, redistribute: bool | None, commercial: bool | None) -> None:
    assert rights_of(expression) == Rights(redistribute, commercial)


def test_what_is_not_known_counts_as_no_and_commercial_asks_for_both() -> None:
    assert Rights(True, True).permits("redistributable")
    assert Rights(True, True).permits("commercial")
    assert Rights(True, None).permits("redistributable")
    assert not Rights(True, None).permits("commercial")
    assert not Rights(None, True).permits("redistributable")
    assert not Rights(False, True).permits("commercial")


def test_a_work_made_of_two_is_bound_by_both_licences() -> None:
    assert joined("Apache-2.0", "CC-BY-2.0") == "Apache-2.0 AND CC-BY-2.0"
    assert joined("MIT", "MIT") == "MIT"
    assert joined("LicenseRef-a", "LicenseRef-b AND LicenseRef-a") == "LicenseRef-a AND LicenseRef-b"


def test_a_licence_names_the_page_where_its_text_is_and_one_of_our_own_names_none() -> None:
    assert page_of("CC-BY-2.0") == "https://spdx.org/licenses/CC-BY-2.0.html"
    assert page_of("LicenseRef-scancode-unsplash") == "https://scancode-licensedb.aboutcode.org/unsplash.html"
    assert page_of("LicenseRef-ours") == ""


def test_a_reader_is_told_where_the_text_is_and_what_it_allows_and_a_cards_no_holds() -> None:
    cards = [
        {"licence": "LicenseRef-agreement", "licence_url": "https://a.org", "redistribute": False, "commercial": None},
        {"licence": "cc by 4.0", "licence_url": "https://b.org", "redistribute": True, "commercial": None},
    ]
    assert told("LicenseRef-agreement", cards) == {
        "pages": [("LicenseRef-agreement", "https://a.org")], "redistribute": "no", "commercial": "not known",
    }  # fmt: skip
    assert told("CC-BY-4.0", cards)["pages"] == [("CC-BY-4.0", "https://spdx.org/licenses/CC-BY-4.0.html")]
    assert told("CC-BY-4.0", cards)["commercial"] == "yes"
    assert told("MIT AND LicenseRef-x")["pages"][1] == ("LicenseRef-x", "")
