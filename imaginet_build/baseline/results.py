"""What an evaluation leaves on disk: the document, one line a figure, one line a score."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imaginet_build.baseline.data import Rows
from imaginet_build.baseline.metrics import Figures, Floats
from imaginet_build.records import ORIGINS
from imaginet_build.store import write_text

RESULTS, TABLE, SCORES = "results.json", "results.csv", "scores.csv"
_PARTS = ("by_generator", "by_family", "by_content_type", "by_source", "by_size", "controls")
_BESIDE = ("reasons", "reason", "what", "words", "intervals")


def write(
    out: Path, document: Mapping[str, Any], rows: Rows, seeds: Mapping[str, Sequence[int | None]], scores: Mapping[str, Floats]
) -> tuple[Path, ...]:
    """results.json, results.csv (one line a figure) and scores.csv (one a test image, detector and seed) in the folder `out`.
    `seeds`, `scores`: by detector, whose name is left out where it is empty."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / RESULTS, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    write_text(out / TABLE, table(document))
    return (out / RESULTS, out / TABLE, scores_file(out, rows, seeds, scores))


def scores_file(out: Path, rows: Rows, seeds: Mapping[str, Sequence[int | None]], scores: Mapping[str, Floats]) -> Path:
    """scores.csv alone."""
    import pandas as pd

    known = {
        "id": rows.ids,
        "label": [ORIGINS[y] for y in rows.label],
        "content_type": rows.content_type,
        "generator": rows.generator,
    }
    series = [
        pd.DataFrame(
            known | ({"detector": name} if name else {}) | {"seed": "" if seed is None else seed, "p_synthetic": row.round(6)}
        )
        for name, some in scores.items()
        for seed, row in zip(seeds[name], some, strict=True)
    ]
    write_text(out / SCORES, pd.concat(series).to_csv(index=False, lineterminator="\n"))
    return out / SCORES


def table(document: Mapping[str, Any]) -> str:
    """results.csv: `lines` under a heading."""
    import pandas as pd

    return str(pd.DataFrame(list(lines(document))).to_csv(index=False, lineterminator="\n"))


def lines(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A document as one line a figure: part, of what, figure, value, the interval's ends, and why it is missing."""
    tracks = document["tracks"]
    parts = [("origin", "all", tracks["origin"])]
    parts += [("generator", name, tracks["generator"][name]) for name in ("by_generator", "by_family")]
    parts += [(key, name, figures) for key in _PARTS for name, figures in document.get(key, {}).items()]
    release = document.get("by_release", {})
    parts += [("by_release", name, figures) for name, figures in release.get("windows", {}).items()]
    if later := release.get("later_than_training"):
        parts.append(("by_release", "later than training", later))
    parts += [("robustness", name, figures) for name, figures in document.get("robustness", {}).get("conditions", {}).items()]
    parts += [
        ("leave_one_out", name, figures) for name, figures in document.get("leave_one_out", {}).get("generators", {}).items()
    ]
    for name in ("worst", "mean"):
        for figure, said in (document.get("headline", {}).get(name) or {}).items():
            yield _line("headline", name, figure, said["value"], said["ci95"], said.get("generator"))
    for row in document.get("published", {}).get("rows", ()):
        for figure, value in row["ours"].items():
            yield _line("published", row["test"], figure, value, row["ci95"][figure], f"published {row['published'][figure]}")
    for part, name, figures in parts:
        for figure, value in figures.items():
            if figure in _BESIDE:
                continue
            reason = figures.get("reasons", {}).get(figure) or (figures.get("reason") if value is None else None)
            yield _line(part, name, figure, value, figures.get("intervals", {}).get(figure), reason)


def _line(part: str, of: str, figure: str, value: Any, between: Sequence[float] | None, reason: str | None) -> Figures:
    low, high = between or (None, None)
    shown = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
    return {"part": part, "of": of, "figure": figure, "value": shown, "low": low, "high": high, "reason": reason}
