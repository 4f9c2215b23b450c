"""`doctor --generator NAME`: the suite that every generator must pass, on yours, and what a killed process leaves of its work.

`generators.conformance` tries the adapter alone; here `generate` draws with it in a work folder of its own, is killed with
SIGKILL once the first images lie there, and is started again: the same ids as an undisturbed run, none twice, none lost, and on
a processor the same bytes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imaginet_build import catalog, images, orders, toml
from imaginet_build.doctor import Check
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.generators import conformance
from imaginet_build.records import Order, Record, make_id
from imaginet_build.store import Store

_HERE = frozenset({"localhost", "127.0.0.1", "::1"})
_COUNT, _BATCH, _SIDE = 8, 2, 256
_SUITE = (
    "one answer per order and in order, sizes, refusals, nothing blank, the same bytes again and from a second instance, no "
    "watermark, no memory, no numbers"
)


def prove(name: str, trust: bool = False) -> list[Check]:
    """Every case for the generator card `name`. Draws about 80 images in all. Raises `UsageError` where there is no such card.

    A card whose images cost money is not drawn with, unless its `base_url` is on this machine.
    """
    card = catalog.card("generators", name)
    make = catalog.adapter(card, trust=trust)
    found = [_check(f"{name}: import", conformance.check_import(card.adapter.partition(":")[0]), "no network, nothing heavy")]
    if missing := catalog.missing(card):
        return [*found, Check(f"{name}: ready", False, missing[0], "; ".join(missing))]
    if getattr(make, "paid", False) and urlsplit(str(card.options.get("base_url", ""))).hostname not in _HERE:
        told = "not tried: its images cost money; try it on a card whose base_url is on this machine"
        return [*found, Check(f"{name}: drawing", True, told)]
    said = logging.getLogger("imaginet_build.generators")
    level = said.level
    said.setLevel(logging.ERROR)  # what it says of the faults that are put into it is no news
    try:
        faults = conformance.check(lambda: catalog.build(card, trust=trust), _orders(card, trust))
    except UsageError as error:
        return [*found, Check(f"{name}: ready", False, str(error), "mend what is named")]
    finally:
        said.setLevel(level)
    return [*found, _check(f"{name}: conformance", faults, _SUITE), _killed(card, trust)]


def _check(name: str, faults: Sequence[str], good: str) -> Check:
    return Check(name, not faults, "; ".join(faults) or good, "mend the adapter; the cases are those of generators.conformance")


def _orders(card: catalog.Card, trust: bool) -> list[Order]:
    """Three good orders such as the card's own."""
    needs = orders.needed(card, trust)
    width, height = (int(card.options.get(side) or _SIDE) for side in ("width", "height"))
    size_of = getattr(catalog.adapter(card, trust=trust), "size_of", None)
    if size_of is not None:
        width, height = size_of(card.options, width, height)
    return conformance.orders(3, width, height, needs)  # type: ignore[arg-type]


def _killed(card: catalog.Card, trust: bool) -> Check:
    name = f"{card.name}: killed and resumed"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "recipe.toml").write_text(toml.write(_recipe(card)), encoding="utf-8")
        try:
            undisturbed, before = _run(root, "whole", trust, card), _run(root, "killed", trust, card, kill=True)
            resumed = _run(root, "killed", trust, card)
        except BuildError as error:
            return Check(name, False, str(error), f"build-imaginet generate --generator {card.name} --limit 4 shows it too")
    faults = []
    if lost := undisturbed.keys() - resumed.keys():
        faults.append(f"{len(lost)} of {len(undisturbed)} orders were lost, such as {min(lost)}")
    if strange := resumed.keys() - undisturbed.keys():
        faults.append(f"{len(strange)} orders have other ids, such as {min(strange)}: its options change from run to run")
    other = sorted(key for key in undisturbed.keys() & resumed.keys() if undisturbed[key] != resumed[key])
    if other and not getattr(catalog.adapter(card, trust=trust), "paid", False) and _on_processor():
        faults.append(f"{len(other)} of {len(undisturbed)} images have other bytes, such as {other[0]}")
    return _check(name, faults, f"after {len(before)} of {len(undisturbed)} orders; none lost, none twice")


def _on_processor() -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is None or not (torch.cuda.is_available() or torch.backends.mps.is_available())


def _recipe(card: catalog.Card) -> dict[str, Any]:
    entry = {"generator": card.name, "category": "photos", "count": _COUNT, "batch": _BATCH}
    sizes = {side: _SIDE for side in ("width", "height") if not (card.options.get(side) or card.options.get("sizes"))}
    return {"name": "proof", "seed": 1, "engine": {"workers": 1}, "generate": [entry | sizes]}


def _run(root: Path, work: str, trust: bool, card: catalog.Card, kill: bool = False) -> dict[str, str]:
    """`generate` in a process of its own, killed once its first part is there or not at all: id -> sha256, or the reject."""
    store = Store(root / work)
    if orders.needed(card, trust) == "source" and not store.parts("collect"):
        _photographs(store)
    command = [
        sys.executable,
        "-m",
        "imaginet_build",
        "generate",
        "--recipe",
        str(root / "recipe.toml"),
        "--work",
        str(store.root),
    ]
    said = root / f"{work}.err"
    with said.open("w", encoding="utf-8") as errors:
        started = subprocess.Popen(  # noqa: S603  our own interpreter and our own text
            command + ["--trust-adapters"] * trust, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        while kill and started.poll() is None and not store.parts("generate"):
            time.sleep(0.002)
        if kill:
            _end(started.pid)
        code = started.wait()
    if not kill and code not in (0, 1):
        lines = said.read_text(encoding="utf-8").strip().splitlines()
        raise BuildError(f"generate ended with exit code {code}: {lines[-1] if lines else 'it said nothing'}")
    found = {
        row["id"]: row["sha256"] for row in store.facts(["id", "sha256", "origin"]).to_pylist() if row["origin"] == "synthetic"
    }
    return found | {row["id"]: row["reason"] for row in store.rejects().to_pylist()}


def _end(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # it was done before


def _photographs(store: Store) -> None:
    """Real images to start from: smooth coloured noise will do."""
    rows, data = [], []
    for order in conformance.orders(_COUNT, _SIDE, _SIDE, "source", purpose="proof"):
        assert order.source is not None
        facts = images.measure(order.source.data)
        name = make_id("proof", order.id)
        rows.append(
            Record(
                id=name, origin="real", category="photos", family=None, generator=None, source="proof", source_key=name,
                licence="CC0-1.0", revision="1", prompt=None, negative=None, seed=None, params=json.dumps({}), pair_id=name,
                group=name, extension="png", facts=facts,
            ).row()
        )  # fmt: skip
        data.append(order.source.data)
    store.write_part("collect", "proof", rows, data)
