"""The README shows a card and a class; both are what they are said to be."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

from pictures import write

from imaginet_build import catalog
from imaginet_build.generators import conformance, stack

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Adding something")[2]


def test_its_class_is_a_whole_family_and_passes_the_suite(tiny_sd):
    lab = ModuleType("my_lab")
    exec(re.search(r"```python\n(.*?)```", SECTION, re.S)[1], vars(lab))
    with stack.quiet():
        faults = conformance.check(lambda: lab.Lab(str(tiny_sd), steps=2), conformance.orders(3, 64, 48, needs="prompt"))
    assert faults == []


def test_its_card_is_a_variant_that_binds(tmp_path):
    card = catalog.read(write(tmp_path / "my-sdxl.toml", re.search(r"```toml\n(.*?)```", SECTION, re.S)[1]), "generators")
    assert catalog.faults_of(card) == []
    assert (card.model, card.revision) == ("me/my-sdxl", "unresolved")
    for more in ({"lora": "FILE"}, {"sizes": [[1024, 1024], [1216, 832]]}, {"pipeline": "StableDiffusionXLPipeline"}):
        assert catalog.faults_of(card, **more) == []
