"""Which of many candidates look, from outside, most like what the generators draw: in size, in aspect and in subject.

The choice is a rectangular assignment: the `count` candidates whose total distance to as many draws of the reference is least,
which is the subset nearest to it in Wasserstein distance. Large choices are made in seeded blocks, so that time and memory
stay bounded. What it achieved is measured with distances it did not minimise (Kolmogorov-Smirnov, MMD) beside the one it did.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaginet_build import catalog, orders
from imaginet_build.collecting import subjects
from imaginet_build.errors import UsageError, suggest
from imaginet_build.recipe import Generate
from imaginet_build.records import random_of
from imaginet_build.rules import Match
from imaginet_build.store import Store, write_text

NAME = "matching.json"
BLOCK = 800
"""References that are assigned at once; with 4 candidates each, a matrix of 800 x 3200."""

_MOST_COMPARED = 1500
"""Texts of each side behind the MMD of a report."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One image, drawn, ordered or a candidate: its size in pixels, and what it shows in words ('' where nothing says)."""

    width: int
    height: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """What the generators draw. `kinds`: how many of it were drawn, are only ordered, or were collected."""

    seen: list[Seen]
    kinds: dict[str, int]
    generators: list[str]


def reference(store: Store, entries: Sequence[Generate], category: str, match: Match, seed: int, trust: bool) -> Reference:
    """Images of `category` by the generators that `match` names (by all of them where it names none).

    A generator whose order is filled counts as it was drawn, one that is not yet as it was ordered: sizes and prompts are known
    before a pixel is. Aligned generators, which draw over the real images themselves, are left out. Raises `UsageError` where
    nothing is left.
    """
    wanted = frozenset(match.generators)
    columns = ["origin", "category", "generator", "width", "height", "prompt"]
    here = [r for r in store.facts(columns).to_pylist() if r["origin"] == "synthetic" and r["category"] == category]
    here = [r for r in here if not wanted or r["generator"] in wanted]
    held = Counter(r["generator"] for r in here)
    lost = Counter(r["generator_or_source"] for r in store.rejects().to_pylist() if r["stage"] == "generate")
    asked = [e for e in entries if e.category == category and (not wanted or e.generator in wanted)]
    aligned = {e.generator for e in asked if orders.needed(catalog.card("generators", e.generator), trust) == "source"}
    asked = [e for e in asked if e.generator not in aligned]
    total = Counter[str]()
    for entry in asked:
        total[entry.generator] += entry.count
    pending = {name for name, count in total.items() if held[name] + lost[name] < count}
    seen: list[Seen] = []
    kinds = Counter[str]()
    for row in here:
        if row["generator"] not in pending and row["generator"] not in aligned:
            kinds["drawn" if row["generator"] in total else "collected"] += 1
            seen.append(Seen(row["width"], row["height"], row["prompt"] or ""))
    lock = store.root / "cards.lock"
    revisions = {name: catalog.locked(catalog.card("generators", name), lock) for name in pending}
    for batch in orders.manifest([e for e in asked if e.generator in pending], seed, store, revisions, trust):
        for order in batch.orders:
            kinds["ordered"] += 1
            seen.append(Seen(order.width, order.height, order.prompt.text if order.prompt else ""))
    makers = sorted((set(held) | set(total)) - aligned)
    if unmatched := [name for name in match.generators if name not in makers] or ([""] if not seen else []):
        named = f" by {', '.join(unmatched)}{suggest(unmatched[0], makers)}" if match.generators else ""
        raise UsageError(
            f"match: there is nothing of {category} to match{named}: the recipe has no [[generate]] entry for it that draws "
            "from prompts or from nothing, and no synthetic image of it was collected"
        )
    return Reference(seen, dict(sorted(kinds.items())), makers)


# --- choosing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Space:
    """Candidates and references in numbers: (n, 2) log2 of side and of aspect; texts as unit vectors, None if not compared."""

    candidates: NDArray[np.float64]
    references: NDArray[np.float64]
    texts: Any = None
    reference_texts: Any = None
    subject: str = ""


def space_of(candidates: Sequence[Seen], references: Sequence[Seen], how: str) -> Space:
    """Both sides in numbers. Subjects are compared where half of either side says what it shows; `subject` says why not."""
    shapes = [_shapes(side) for side in (candidates, references)]
    silent = [
        name
        for name, side in (("candidates", candidates), ("references", references))
        if 2 * sum(bool(s.text.strip()) for s in side) < len(side)
    ]
    if how == subjects.OFF or silent:
        why = "off" if how == subjects.OFF else f"not compared: most {' and '.join(silent)} carry no text"
        return Space(shapes[0], shapes[1], subject=why)
    vectors = subjects.embed([s.text for s in (*candidates, *references)], how)
    return Space(shapes[0], shapes[1], vectors[: len(candidates)], vectors[len(candidates) :], how)


def _shapes(seen: Sequence[Seen]) -> NDArray[np.float64]:
    sides = np.array([(s.width, s.height) for s in seen], dtype=np.float64).reshape(len(seen), 2)
    return np.stack([np.log2(sides[:, 0] * sides[:, 1]) / 2, np.log2(sides[:, 0] / sides[:, 1])], axis=1)


def choose(space: Space, count: int, name: str, subject: float = 1.0) -> NDArray[np.int64]:
    """Rows of the `count` candidates nearest to the reference, ascending; all of them where there are no more.

    `name` seeds which references are drawn and which candidates compete in a block; nothing else is left to chance.
    """
    total = len(space.candidates)
    if total <= count:
        return np.arange(total, dtype=np.int64)
    random = random_of(name, "match")
    drawn = _repeated(len(space.references), count, random)
    shuffled = random.permutation(total)
    blocks = -(-count // BLOCK)
    chosen: list[NDArray[np.int64]] = []
    for number in range(blocks):
        chosen.append(_assign(space, shuffled[number::blocks], drawn[number::blocks], subject))
    return np.sort(np.concatenate(chosen))


def _repeated(have: int, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """`count` of `have` rows in random order, each as often as any other, give or take one."""
    rounds = [random.permutation(have) for _ in range(-(-count // have))]
    taken: NDArray[np.int64] = np.concatenate(rounds)[:count]
    return taken


def _assign(space: Space, candidates: NDArray[np.int64], references: NDArray[np.int64], subject: float) -> NDArray[np.int64]:
    from scipy.optimize import linear_sum_assignment

    cost = np.zeros((len(references), len(candidates)))
    for axis in range(2):
        cost += _even(np.abs(space.references[references, axis][:, None] - space.candidates[candidates, axis][None]))
    if space.texts is not None and subject:
        cost += subject * _even(1.0 - _cosines(space.reference_texts[references], space.texts[candidates]))
    _, columns = linear_sum_assignment(cost)
    found: NDArray[np.int64] = candidates[columns]
    return found


def _even(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances in units of their mean, so that size, aspect and subject weigh alike."""
    mean = float(distances.mean())
    return distances / mean if mean > 1e-9 else np.zeros_like(distances)


def _cosines(left: Any, right: Any) -> NDArray[np.float64]:
    product = left @ right.T
    dense: NDArray[np.float64] = np.asarray(product.toarray() if hasattr(product, "toarray") else product, dtype=np.float64)
    return dense


# --- the report ------------------------------------------------------------------------------------------------------


def distances(space: Space, rows: NDArray[np.int64]) -> dict[str, float | None]:
    """How far some candidates are from the reference.

    `size_*`: of log2 of the square root of the pixels (1 is a factor of two); `aspect_*`: of log2 of width over height; `_ks`
    is the Kolmogorov-Smirnov statistic (0-1), `_w1` the Wasserstein distance. `subject_mmd`: maximum mean discrepancy of the
    texts (a Gaussian kernel on unit vectors; 0 is equal); `subject_centroid`: 1 - cosine of their means; None without texts.
    """
    from scipy.stats import ks_2samp, wasserstein_distance

    found: dict[str, float | None] = {}
    for axis, name in enumerate(("size", "aspect")):
        ours, theirs = space.candidates[rows, axis], space.references[:, axis]
        found[f"{name}_ks"] = round(float(ks_2samp(ours, theirs, method="asymp").statistic), 4)
        found[f"{name}_w1"] = round(float(wasserstein_distance(ours, theirs)), 4)
    if space.texts is None:
        return found | {"subject_mmd": None, "subject_centroid": None}
    ours, theirs = _some(space.texts, rows), _some(space.reference_texts, np.arange(len(space.references)))
    inner = [float(_kernel(a, b).mean()) for a, b in ((ours, ours), (theirs, theirs), (ours, theirs))]
    found["subject_mmd"] = round(max(0.0, inner[0] + inner[1] - 2 * inner[2]) ** 0.5, 4)
    means = [np.asarray(side.mean(axis=0)).ravel() for side in (ours, theirs)]
    norm = float(np.linalg.norm(means[0]) * np.linalg.norm(means[1]))
    found["subject_centroid"] = round(1.0 - float(means[0] @ means[1]) / norm, 4) if norm else None
    return found


def _some(vectors: Any, rows: NDArray[np.int64]) -> Any:
    """At most `_MOST_COMPARED` of the rows, evenly spaced."""
    step = max(1, -(-len(rows) // _MOST_COMPARED))
    return vectors[rows[::step]]


def _kernel(left: Any, right: Any) -> NDArray[np.float64]:
    squared: NDArray[np.float64] = 2.0 - 2.0 * _cosines(left, right)
    return np.exp(-squared)


def read(root: Path) -> dict[str, Any]:
    """Stream -> what was chosen for it, as `matching.json` in the work folder holds it."""
    path = root / NAME
    if not path.is_file():
        return {}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def write(root: Path, stream: str, report: Mapping[str, Any]) -> None:
    """Add one stream's report to `matching.json`."""
    text = json.dumps(dict(sorted((read(root) | {stream: dict(report)}).items())), indent=1, ensure_ascii=False) + "\n"
    path = root / NAME
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def rows_of(count: int) -> NDArray[np.int64]:
    """The first `count` rows."""
    return np.arange(count, dtype=np.int64)
