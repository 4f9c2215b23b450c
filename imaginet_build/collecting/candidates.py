"""Images that wait to be chosen: a work folder within the work folder, `candidates/<stream>/`, that is emptied once they are.

Everything in it is resumable as any work folder is. The choice is written down before the first image moves, so that a run that
is killed in between goes on with the same choice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from imaginet_build.collecting import availability, matching
from imaginet_build.collecting.matching import Reference, Seen
from imaginet_build.records import FACT_SCHEMA, make_id
from imaginet_build.rules import Match
from imaginet_build.store import Store, write_text

STAGE = "collect"
FOLDER = "candidates"
NOT_MATCHED = "not-matched"
_AT_ONCE = 64


class Candidates:
    """The candidates of one stream."""

    def __init__(self, store: Store, stream: str) -> None:
        self.main, self.stream = store, stream
        self.store = Store(store.root / FOLDER / stream)
        self.choice_path = self.store.root / "choice.json"

    def is_chosen(self) -> bool:
        """Whether the choice is made, and perhaps not yet carried out."""
        return self.choice_path.is_file()

    def choose(self, reference: Reference, count: int, match: Match, about: Mapping[str, Any]) -> None:
        """Decide which `count` candidates stay, and write down the choice and its report."""
        rows = self.store.facts(["id", "width", "height", "prompt", "params"]).to_pylist()
        ordered = _in_stream_order(rows, self.store)
        seen = [Seen(row["width"], row["height"], row["prompt"] or _stratum(row)) for row in ordered]
        report: dict[str, Any] = dict(about) | {
            "generators": reference.generators,
            "reference": reference.kinds,
            "asked": count,
            "candidates": len(ordered),
            "refused": self.store.rejects().num_rows,
        }
        if not ordered:
            chosen: list[str] = []
            report |= {"chosen": 0, "subject": "", "before": None, "after": None}
        else:
            space = matching.space_of(seen, reference.seen, match.text)
            picked = matching.choose(space, count, self.stream, match.subject)
            # What would have been taken without matching: the first in the source's seeded order.
            first = matching.rows_of(min(count, len(ordered)))
            chosen = [ordered[int(i)]["id"] for i in picked]
            report |= {"chosen": len(chosen), "subject": space.subject}
            report |= {"before": matching.distances(space, first), "after": matching.distances(space, picked)}
        write_text(self.choice_path, json.dumps({"chosen": sorted(chosen), "report": report}, indent=1, ensure_ascii=False))

    def move(self, source: str, most: int) -> int:
        """Carry the choice out: the chosen become rows of the work folder, at most `most` of them now, the others rejects.

        What is chosen and not yet moved waits for the next call. How many rows are new.
        """
        if not self.is_chosen():
            return 0
        choice = json.loads(self.choice_path.read_text(encoding="utf-8"))
        chosen = choice["chosen"]
        facts = {row["id"]: row for row in self.store.facts().to_pylist()}
        here = set(self.main.facts(["id"])["id"].to_pylist())
        left = [name for name in chosen if name not in here]
        if len(left) == len(chosen):
            self._tell(chosen, choice["report"], facts, source)
        now = set(left[: max(0, most)])
        for start in range(0, len(chosen), _AT_ONCE):
            # The same parts for whoever moves the same images.
            if ids := [name for name in chosen[start : start + _AT_ONCE] if name in now]:
                self._part(ids, facts)
        if len(now) == len(left):
            with suppress(FileNotFoundError):  # another process over the same work folder was quicker
                shutil.rmtree(self.store.root)
        return len(now)

    def _tell(self, chosen: Sequence[str], report: Mapping[str, Any], facts: Mapping[str, Any], source: str) -> None:
        """Before the first of the chosen moves: the report, the ledger's lines, and why the others do not come."""
        if report["candidates"] or self.stream not in matching.read(self.main.root):
            matching.write(self.main.root, self.stream, report)
        rejects = self.store.rejects().to_pylist()
        rejects += [_passed_over(facts[i], source) for i in sorted(facts.keys() - set(chosen))]
        name = make_id("candidates", self.stream, chosen, [row["id"] for row in rejects])
        if lines := availability.lines(self.store):
            availability.write_lines(self.main, name, lines)
        if rejects:
            self.main.write_rejects(STAGE, name, rejects)

    def _part(self, ids: Sequence[str], facts: Mapping[str, Mapping[str, object]]) -> None:
        rows = [{field: facts[name][field] for field in FACT_SCHEMA.names} for name in ids]
        images = dict(self.store.images(self.store.in_part_order(ids)))
        self.main.write_part(STAGE, make_id("chosen", list(ids)), rows, [images[name] for name in ids])


def _in_stream_order(rows: Sequence[dict[str, Any]], store: Store) -> list[dict[str, Any]]:
    """The candidates as the source gave them; `place` is the same whatever was interrupted."""
    places = {line["id"]: line["place"] for line in availability.lines(store)}
    return sorted(rows, key=lambda row: (places.get(row["id"], len(places)), row["id"]))


def _stratum(row: Mapping[str, Any]) -> str:
    """A label stands for a caption where there is none."""
    return str(json.loads(row["params"]).get("stratum", ""))


def _passed_over(row: Mapping[str, Any], source: str) -> dict[str, object]:
    return {
        "id": row["id"],
        "stage": STAGE,
        "origin": row["origin"],
        "category": row["category"],
        "generator_or_source": row["generator"] or row["source"] or source,
        "source_key": row["source_key"],
        "reason": NOT_MATCHED,
        "detail": f"{row['width']} x {row['height']}: other candidates are nearer to what the generators draw",
    }
