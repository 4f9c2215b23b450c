"""A work folder whose images come under several licences, and how its releases are read."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pictures import jpeg

from imaginet_build import recipe
from imaginet_build.releases import release
from imaginet_build.running import stages
from imaginet_build.running.workspace import Session, session_of

LICENCES = {"real": ["CC BY 2.0", "https://creativecommons.org/licenses/by-nc/2.0/", "all rights reserved", ""],
            "synthetic": ["mit", "cc0", "", ""]}  # fmt: skip


def pictures(root: Path, count: int = 48, start: int = 0) -> Path:
    """A folder with an index: half real, and of each class a quarter under each of four licences."""
    rows = [["path", "origin", "content_type", "source", "generator", "licence"]]
    for number in range(start, start + count):
        origin = ("real", "synthetic")[number % 2]
        name = f"{origin}/{number}.jpg"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(f"rights {number}", 96, 96))
        rows.append([name, origin, "photos", "album" if number % 2 == 0 else "", "gan-a", LICENCES[origin][number // 2 % 4]])
    with (root / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def session(root: Path, *sources: dict[str, Any], **more: Any) -> Session:
    document = {
        "name": "rights", "collect": list(sources), "audit": {"permutations": 0, "pixels": False},
        "publish": {"robustness": "none"} | more.pop("publish", {}), "equalize": {"side": [64, 64]},
    }  # fmt: skip
    return session_of(recipe.parse(document | more), root)


@dataclass(frozen=True)
class Built:
    """A work folder that was balanced once."""

    session: Session
    pictures: Path


def work(root: Path) -> Built:
    """Forty-eight pictures collected and balanced."""
    folder = pictures(root / "pictures")
    made = session(root / "work", {"source": "folder", "options": {"root": str(folder)}})
    stages.collect(made)
    stages.balance(made)
    return Built(made, folder)


def rows(folder: Path, view: str = "equalized") -> list[dict[str, Any]]:
    return release.rows(folder, view).to_pylist()


def images_of(folder: Path, view: str) -> dict[str, Any]:
    paths = (folder / "data" / view).glob("*.parquet")
    return {row["id"]: row["image"] for path in paths for row in pq.read_table(path, columns=["id", "image"]).to_pylist()}


def equal(folder: Path) -> None:
    counts = Counter((row["split"], row["label"]) for row in rows(folder))
    assert all(counts[split, "real"] == counts[split, "synthetic"] for split, _ in counts)
