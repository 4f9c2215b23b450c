"""A release published from a small work folder whose every name and text tries to break the card it stands in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pictures import jpeg, png

from imaginet_build import images
from imaginet_build.publish import Published, Told, publish
from imaginet_build.records import Record, make_id
from imaginet_build.releases.datasetcard import About
from imaginet_build.store import Store

EVIL = "a | <b>bold</b> `cat` $x$ [l](javascript:1) \u202e\x07\n---\n# head: x"
GENERATORS = ("tiny-gan", "1. gen | <i>`8`</i>")
GATE = {
    "verdict": "undecided", "value": 0.512, "limit": 0.55, "permutation95": 0.613, "groups": 21, "reason": f"few {EVIL}",
    "self_test": {"groups": [4, 3], "caught": True, "few": ""},
}  # fmt: skip
PROBES = [
    {"track": "origin", "view": view, "probe": probe, "scope": "all", "balanced_accuracy": value, "auc": value}
    | {"ci95": [0.41, 0.67], "gate": gate, "p": None}
    for view, probe, value, gate in (
        ("equalized", "codec", 0.5, True),
        ("native", "codec", 0.987, True),
        ("equalized", "spectrum", 0.731, False),
    )
]
ABOUT = About(
    title=f"A set {EVIL}",
    description=f"Two paragraphs.\n\n{EVIL}",
    repo="me/set",
    contact="rights@example.org",
    citation="@misc{x,\n  title = {```\n# {X}},\n}",
    sources=(
        {"name": "album", "title": f"Album {EVIL}", "url": "https://example.org/a", "licence": "CC0-1.0", "revision": "7"},
        {"name": "never-used", "title": "Never", "url": "", "licence": "MIT", "revision": "1"},
    ),
    statements={"purpose": f"- {EVIL}", "creators": "A lab", "published": "2026-02-03"},
)


def work_folder(root: Path, rows: int = 24) -> Store:
    """A work folder of `rows` images, real and synthetic in turn, with a plan that leaves one out."""
    store = Store(root)
    records: list[dict[str, Any]] = []
    data = []
    for i in range(rows):
        real = i % 2 == 0
        size = (72 + 2 * (i % 5), 64)
        data.append(jpeg(f"picture {i}", *size, quality=80 + i % 7) if i % 3 else png(f"picture {i}", *size))
        record = Record(
            id=make_id("published", i),
            origin="real" if real else "synthetic",
            category=("photos", "paintings")[i // 2 % 2],
            family=None if real else "gan",
            generator=None if real else GENERATORS[i // 4 % 2],
            source="album" if real else None,
            source_key=f"album/{i} {EVIL}" if real else None,
            licence="CC0-1.0" if real else "MIT",
            revision="1",
            prompt=None if real else EVIL,
            negative=None,
            seed=None if real else i,
            params="{}",
            pair_id=f"pair {i // 8}" if i % 8 in (1, 2) else None,
            group=f"g{i // 8}" if i % 8 in (1, 2) else f"own {i}",
            extension="jpg" if i % 3 else "png",
            facts=images.measure(data[-1]),
        )
        records.append(record.row())
    view = {"left": 0, "top": 0, "width": 56, "height": 48, "codec": "jpeg", "quality": 85, "subsampling": "4:2:0"}
    passes = {"first_quality": None, "first_subsampling": None}
    plan = [
        {c: row[c] for c in ("id", "category", "origin", "group")}
        | {"generator_or_source": row["generator"] or row["source"], "keep": i != 5}
        | {"reason": None if i != 5 else "twin", "detail": None if i != 5 else EVIL}
        | {"split": ("train", "train", "calibration", "test")[i // 8 % 4 if i % 8 in (1, 2) else i // 2 % 4]}
        | view
        | passes
        for i, row in enumerate(records)
    ]
    store.write_part("collect", "part", records, data)
    store.write_plan(plan)
    return store


def release(root: Path, **settings: Any) -> Published:
    """`root`/release, from `root`/work."""
    told = {"about": ABOUT, "gate": GATE, "probes": PROBES, "audited": None} | settings
    about, *audit = (told.pop(name) for name in ("about", "gate", "probes", "audited"))
    said = dict(zip(("gate", "probes", "settings"), audit, strict=True))
    return publish(work_folder(root / "work"), root / "release", told=Told(about, said), **{"rows_per_file": 5} | told)
