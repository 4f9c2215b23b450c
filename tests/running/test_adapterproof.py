"""`doctor --generator`: somebody else's adapter is drawn with, killed and resumed; one that breaks a rule is told which."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command import run
from pictures import write

from imaginet_build.errors import UsageError
from imaginet_build.running import adapterproof

ADAPTER = '''
import time
import numpy as np
from PIL import Image
from imaginet_build.records import Refusal, random_of

class Honest:
    needs = "none"

    def __init__(self, width: int = 32, height: int = 32):
        pass

    def draw(self, orders):
        for order in orders:
            time.sleep(0.02)
            yield self.one(order) if order.width > 8 else Refusal("bad-size", "too small")

    def one(self, order, name=""):
        coarse = random_of(order.id + name, "draw").integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((order.width, order.height))

class Wanders(Honest):
    """By the clock, as one whose random state is shared."""

    def one(self, order):
        return super().one(order, str(time.time_ns()))

class Paid(Honest):
    paid = True
'''
CARD = 'adapter = "my_lab_dots:{kind}"\nlicence = "CC0-1.0"\nrevision = "1"\nfamily = "other"\nwidth = 32\nheight = 32\n'


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an adapter of its own, and cards for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_lab_dots", raising=False)
    write(tmp_path / "my_lab_dots.py", ADAPTER)
    for kind in ("Honest", "Wanders", "Paid"):
        write(tmp_path / "manifests" / "generators" / f"{kind.lower()}.toml", CARD.format(kind=kind))
    return tmp_path


@pytest.mark.prove
def test_a_third_partys_adapter_passes_by_the_command(lab: Path) -> None:
    refused = run("doctor", "--generator", "honest", cwd=lab, code=2)
    assert "To allow that: --trust-adapters" in refused.stderr
    said = json.loads(run("doctor", "--generator", "honest", "--trust-adapters", "--json", cwd=lab).stdout)
    assert [(check["name"], check["ok"]) for check in said] == [
        ("honest: import", True),
        ("honest: conformance", True),
        ("honest: killed and resumed", True),
    ]
    assert "none lost, none twice" in said[-1]["detail"]


@pytest.mark.prove
def test_one_that_breaks_a_rule_is_told_which(lab: Path) -> None:
    checks = {check.name: check for check in adapterproof.prove("wanders", trust=True)}
    assert "gave other bytes" in checks["wanders: conformance"].detail
    assert "images have other bytes" in checks["wanders: killed and resumed"].detail


def test_what_costs_money_is_not_drawn_with_unasked(lab: Path) -> None:
    elsewhere = CARD.format(kind="Paid") + 'base_url = "https://images.example/v1"\n'
    write(lab / "manifests" / "generators" / "elsewhere.toml", elsewhere)
    assert "cost money" in adapterproof.prove("elsewhere", trust=True)[-1].detail
    *_, last = adapterproof.prove("paid", trust=True)
    assert last.ok
    assert "not tried: its images cost money" in last.detail


def test_what_is_missing_is_said_first(lab: Path) -> None:
    card = CARD.format(kind="Honest") + 'model = "./nowhere"\n'
    write(lab / "manifests" / "generators" / "poor.toml", card)
    *_, last = adapterproof.prove("poor", trust=True)
    assert not last.ok
    assert "there is nothing at ./nowhere" in last.detail
    with pytest.raises(UsageError, match="no generator 'hones' in manifests/generators; did you mean 'honest'"):
        adapterproof.prove("hones", trust=True)


@pytest.mark.parametrize("card", ["gpt-image-2", "gemini-3-pro-image"])
def test_the_cards_of_paid_services_are_never_drawn_with(card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(key, "not-a-key")
    monkeypatch.setattr("imaginet_build.catalog.missing", lambda card: [])
    monkeypatch.setattr("imaginet_build.generators.conformance.check", lambda *_: pytest.fail("it would have cost money"))
    *_, last = adapterproof.prove(card)
    assert "cost money" in last.detail
