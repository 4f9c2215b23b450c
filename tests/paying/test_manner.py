"""Money and speed may change between runs of one work folder; what is drawn may not."""

from __future__ import annotations

import pytest

from imaginet_build import catalog, recipe
from imaginet_build.paying import manner

WANTED = {
    "name": "paid",
    "generate": [
        {"generator": "gpt-image-2", "category": "photos", "count": 4, "options": {"quality": "low", "budget_usd": 1}}
    ],
}


def of(**options) -> recipe.Recipe:
    return recipe.parse({**WANTED, "generate": [{**WANTED["generate"][0], "options": {"quality": "low"} | options}]})


def test_a_budget_may_be_raised_and_a_price_corrected_on_the_way():
    old, new = of(budget_usd=1), of(budget_usd=9.5, ask_again=True, prices={"images": {"any": 0.02}}, per_minute=5)
    assert recipe.difference(old, new) == []
    assert recipe.digest(old) == recipe.digest(new) == recipe.digest(of())
    other = of(quality="high")
    assert recipe.difference(old, other) == ['generate.0.options.quality: "low" -> "high"']
    assert recipe.digest(old) != recipe.digest(other)


@pytest.mark.parametrize("name", ["gpt-image-2", "gemini-3-pro-image"])
def test_none_of_these_keys_is_part_of_an_images_name(name):
    assert set(manner.KEYS) <= catalog.adapter(catalog.card("generators", name)).not_in_id
