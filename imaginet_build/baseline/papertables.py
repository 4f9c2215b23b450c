"""The tables of the ImagiNet paper (arXiv 2407.20020), our figure beside each published one, so that whoever has the weights
and the data can tick every number.

The paper states no tolerance. A figure is ticked `equal` where it is the published one to its four digits, `within` where the
published one lies inside our 95 % interval over groups, that is, where another draw of test images explains the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from imaginet_build.baseline.metrics import Figures, rounded

SOURCE = "arXiv 2407.20020"
CONDITION = "social"
"""The paper's test images went through the social-network chain; a release has them in its config robustness."""
LISTS = "ImagiNet list"
"""What `benchsets` calls the paper's own lists; those of one family alone have the very real images of its line."""
DIGITS = 0.00005
BOTH = ("balanced_accuracy", "auc")

Pair = tuple[float, float]
FAMILIES: Mapping[str, tuple[str, Pair]] = {
    "gan": ("GAN", (0.9372, 0.9886)),
    "sd": ("SD", (0.9608, 0.9922)),
    "midjourney": ("Midjourney", (0.9652, 0.9949)),
    "dalle3": ("DALL·E 3", (0.9724, 0.9963)),
}
MEAN: Pair = (0.9589, 0.9930)
CONTENT: Mapping[str, Pair] = {
    "photos": (0.9643, 0.9933),
    "paintings": (0.9077, 0.9745),
    "faces": (0.9551, 0.9923),
    "uncategorized": (0.9821, 0.9988),
}
SETS: Mapping[str, tuple[str, int, Pair]] = {
    "Corvi": ("Corvi test set, mean of 12 generators", 12, (0.8686, 0.9585)),
    "Practical": ("Practical test set, mean of 6 generators", 6, (0.9428, 0.9870)),
}
OTHERS: Mapping[str, Pair] = {
    "Corvi2022 retrained on ImagiNet": (0.8753, 0.9604),
    "Corvi2022": (0.5985, 0.6562),
    "Wu2023": (0.5892, 0.6115),
    "Grag2021": (0.5279, 0.5637),
}
"""What the paper reports of others, mean over its four test lists."""

WHAT = (
    f"{SOURCE}: balanced accuracy at the frozen threshold and AUC, each half real; equal: to the four digits published; "
    "within: the published figure lies in our 95 % interval over groups; outside: it does not. The paper states no tolerance"
)


def of_release(by_family: Mapping[str, Figures], by_content_type: Mapping[str, Figures], condition: str | None) -> Figures:
    """The paper's two tables for a release that has its families and content types. `condition`: under which the figures were
    taken, None for the test split as it is."""
    rows = [_line(title, pair, by_family[name]) for name, (title, pair) in FAMILIES.items() if name in by_family]
    rows += _mean("mean", MEAN, [by_family[name] for name in FAMILIES if name in by_family], len(FAMILIES))
    rows += [_line(name, pair, by_content_type[name], "content") for name, pair in CONTENT.items() if name in by_content_type]
    return _table(rows, condition)


def of_set(layout: str, by_generator: Mapping[str, Figures]) -> Figures:
    """The mean over generators of one of the other test sets of the paper; no rows for a set it does not report."""
    if layout not in SETS:
        return _table([], None)
    title, count, pair = SETS[layout]
    return _table(_mean(title, pair, list(by_generator.values()), count), None)


def _table(rows: list[Figures], condition: str | None) -> Figures:
    found: Figures = {"source": SOURCE, "condition": condition, "rows": rows, "what": WHAT}
    if not rows:
        return found | {"reason": "the test has none of the parts that the paper reports"}
    found["others"] = {name: dict(zip(BOTH, pair, strict=True)) for name, pair in OTHERS.items()}
    if condition != CONDITION and any(row["table"] != "set" for row in rows):
        found["reason"] = (
            "the paper's test images went through the social-network chain, these did not: publish the release with "
            "publish.robustness, or add --condition social, to compare like with like"
        )
    return found


def _line(title: str, pair: Pair, figures: Figures, table: str = "test") -> Figures:
    published = dict(zip(BOTH, pair, strict=True))
    ours = {name: figures[name] for name in BOTH}
    between = {name: figures.get("intervals", {}).get(name) for name in BOTH}
    return {
        "table": table,
        "test": title,
        "published": published,
        "ours": ours,
        "ci95": between,
        "difference": {name: None if ours[name] is None else rounded(ours[name] - published[name]) for name in BOTH},
        "tick": {name: tick(ours[name], published[name], between[name]) for name in BOTH},
    }


def tick(ours: float | None, published: float, between: Sequence[float] | None) -> str | None:
    """equal, within or outside; None where there is nothing to compare."""
    if ours is None:
        return None
    if abs(ours - published) <= DIGITS * (1 + 1e-9):
        return "equal"
    return None if between is None else "within" if between[0] <= published <= between[1] else "outside"


def _mean(title: str, pair: Pair, parts: Sequence[Figures], needed: int) -> list[Figures]:
    """The line of a mean, once every part of it is there. Its interval takes the parts as independent samples."""
    known = [part for part in parts if part["auc"] is not None]
    if len(known) < needed or len(parts) != needed:
        return []
    middle: Figures = {name: rounded(float(np.mean([part[name] for part in known]))) for name in BOTH}
    spread = {}
    for name in BOTH:
        ends = [part.get("intervals", {}).get(name) for part in known]
        if all(ends):
            half = float(np.sqrt(sum(((high - low) / 2) ** 2 for low, high in ends))) / needed
            spread[name] = [rounded(middle[name] - half), rounded(min(1.0, middle[name] + half))]
    return [_line(title, pair, middle | {"intervals": spread}, "test" if needed == len(FAMILIES) else "set")]
