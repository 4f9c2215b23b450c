"""Prices: by image where a page says so, by token once the tokens are known, a range where the service chooses."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from imaginet_build import catalog
from imaginet_build.paying.prices import Prices

TABLE = Prices(
    images={"low 1024x1024": 0.01, "high 1024x1024": 0.13, "high": 0.2, "any": 0.5}, input=5, output=30, text=10, batch=0.5
)


@pytest.mark.parametrize(
    ("quality", "size", "expected"),
    [
        ("low", "1024x1024", (0.01, 0.01)),
        ("high", "512x512", (0.2, 0.2)),
        ("low", "512x512", (0.5, 0.5)),
        (None, "1024x1024", (0.01, 0.13)),
        ("auto", "1024x1024", (0.01, 0.13)),
        (None, "512x512", (0.5, 0.5)),
    ],
)
def test_the_nearest_price_counts_and_without_a_quality_all_of_them(quality, size, expected):
    assert TABLE.expected(quality, size) == expected
    assert TABLE.expected(quality, size, batch=True) == (expected[0] / 2, expected[1] / 2)
    assert Prices().expected(quality, size) is None


def test_tokens_are_worth_what_the_table_says():
    usage = {"input_tokens": 100, "output_tokens": 1000, "text_tokens": 10}
    assert TABLE.cost(usage) == pytest.approx((500 + 30_000 + 100) / 1e6)
    assert TABLE.cost(usage, batch=True) == pytest.approx((500 + 30_000 + 100) / 2e6)
    assert TABLE.cost({}) is None
    assert Prices(images={"any": 1}).cost(usage) is None


def test_a_table_says_where_it_comes_from_and_refuses_what_it_does_not_know():
    assert "no page named" in TABLE.said()
    assert Prices(url="https://x.test", read="2026-11-22").said() == "read on 2026-11-22 at https://x.test"
    for wrong in ({"imput": 1}, {"input": -1}, {"images": {"any": float("nan")}}, {"batch": 0}):
        with pytest.raises(ValidationError):
            Prices(**wrong)


def test_every_price_in_a_card_names_its_page_and_day():
    priced = {name: card.options["prices"] for name, card in catalog.cards("generators").items() if "prices" in card.options}
    assert len(priced) >= 5
    for prices in priced.values():
        table = Prices.model_validate(prices)
        assert table.url.startswith("https://")
        assert table.read is not None
        assert table.output or table.images
