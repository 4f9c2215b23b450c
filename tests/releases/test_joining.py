"""Plan and parts are joined as if all of it lay in memory, and what does not go together is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import peakmemory
import pyarrow as pa
import pytest

from imaginet_build.errors import BuildError
from imaginet_build.records import FACT_SCHEMA, PLAN_SCHEMA
from imaginet_build.releases import carrying, joining, rejections, releaserows, rights
from imaginet_build.releases.joining import Joined
from imaginet_build.releases.releaserows import ReleaseRows
from imaginet_build.releases.rowfile import RowFile
from imaginet_build.store import Store, StoreError

VIEW = {"left": 1, "top": 2, "width": 30, "height": 40, "codec": "jpeg", "quality": 90, "subsampling": "4:2:0"}


def row(number: int, **other: Any) -> dict[str, object]:
    real = number % 2 == 0
    empty: dict[object, object] = {pa.string(): "", pa.bool_(): False, pa.float32(): 0.0}
    return {field.name: empty.get(field.type, 0) for field in FACT_SCHEMA} | {
        "id": f"{number * 7919 % 1000:04d}", "origin": "real" if real else "synthetic", "category": "photos",
        "group": f"g{number}", "source": "album" if real else None, "source_key": f"a/{number}" if real else None,
        "generator": None if real else "gan-a", "family": None if real else "gan", "pair_id": None, "licence": "CC0-1.0",
        "nbytes": 10 + number, "sha256": f"{number:064x}",
    } | other  # fmt: skip


def decided(row: dict[str, Any], **other: Any) -> dict[str, object]:
    blank: dict[str, object] = dict.fromkeys(PLAN_SCHEMA.names)
    known = {name: row[name] for name in ("id", "origin", "category", "group")}
    return blank | VIEW | known | {"keep": True, "split": "train", "generator_or_source": "x"} | other


def work(root: Path, rows: list[dict[str, Any]], plan: list[dict[str, Any]], parts: int = 3) -> Store:
    store = Store(root)
    for k in range(parts):
        some = rows[k::parts]
        store.write_part("collect", f"part-{k}", some, [b"x" * int(str(r["nbytes"])) for r in some])
    store.write_plan(plan)
    return store


def ordered(store: Store, root: Path) -> ReleaseRows:
    older = carrying.Older(PLAN_SCHEMA.empty_table(), None, ())
    return releaserows.arranged(Joined(store, RowFile(root)), RowFile(root), rights.Clearance(), older)


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and scratch batches of a few rows, so that a few hundred rows are many of them."""
    monkeypatch.setattr("imaginet_build.store._PLAN_ROWS", 13)
    monkeypatch.setattr(joining, "_ROWS", 17)
    monkeypatch.setattr("imaginet_build.releases.rowfile._AT_ONCE", 5)


@pytest.mark.parametrize("parts", [1, 4])
def test_rows_come_split_by_split_tier_by_tier_and_by_id_whatever_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    rows = [row(i) for i in range(300)]
    plan = [decided(r, split=("train", "test", "calibration")[i % 7 % 3], keep=i % 10 != 3) for i, r in enumerate(rows)]
    store = work(tmp_path / "w", rows, plan, parts)
    whole = ordered(store, tmp_path)
    small(monkeypatch)
    found = ordered(store, tmp_path)
    kept = [r for r in plan if r["keep"]]
    assert [(run.split, run.tier, run.rows, run.nbytes) for run in found.runs] == [
        (run.split, run.tier, run.rows, run.nbytes) for run in whole.runs
    ]
    assert found.num_rows == len(kept)
    assert found.digest("s") == whole.digest("s") != whole.digest("t")
    every = list(found.rows(range(found.num_rows)))
    order = [(run.split, run.tier) for run in found.runs for _ in range(run.rows)]
    keys = [(*place, str(r["id"])) for place, r in zip(order, every, strict=True)]
    assert keys == sorted(keys)
    assert {tier for _, tier, _ in keys} == {0, 1}
    by_id = {str(r["id"]): r for r in rows}
    for joined in every:
        known, planned = by_id[joined["id"]], next(r for r in plan if r["id"] == joined["id"])
        assert all(joined[name] == known[name] for name in joining.FACTS)
        assert all(joined[f"view_{name}"] == planned[name] for name in joining.VIEW)
        assert store.names(found.parts[joined["part"]])[joined["row"]] == joined["id"]
    for start, stop in ((0, 1), (17, 18), (40, 199), (found.num_rows - 1, found.num_rows)):
        assert list(found.rows(range(start, stop))) == every[start:stop]
    ids = store.plan()["id"].to_pylist()
    assert {name for name, here in zip(ids, found.published.tolist(), strict=True) if here} == {r["id"] for r in kept}


def test_the_digest_knows_every_value_and_where_one_word_ends(tmp_path: Path) -> None:
    def digest(name: str, **other: Any) -> str:
        rows = [row(0, **other), row(1), row(2)]
        return ordered(work(tmp_path / name, rows, [decided(r) for r in rows]), tmp_path).digest([])

    plain = digest("plain")
    changes: list[dict[str, Any]] = [
        {"prompt": None}, {"prompt": "a"}, {"source": "alb", "source_key": "uma/0"}, {"seed": None}, {"width": 3},
        {"phash": 2**64 - 1},
    ]  # fmt: skip
    found = [digest(str(i), **change) for i, change in enumerate(changes)]
    assert len({plain, *found}) == 1 + len(found)


def test_a_pair_is_one_only_where_both_are_published(tmp_path: Path) -> None:
    rows = [row(0, pair_id="p"), row(1, pair_id="p"), row(2, pair_id="q"), row(3, pair_id="q")]
    store = work(tmp_path / "w", rows, [decided(r, keep=i < 3, group="one") for i, r in enumerate(rows)])
    found = ordered(store, tmp_path)
    assert {r["source_key"]: r["pair_id"] for r in found.rows(range(3)) if r["source_key"]} == {"a/0": "p", "a/2": None}


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    rows = [row(i) for i in range(4)]
    plan = [decided(r) for r in rows]

    def refused(match: str, rows: list[dict[str, Any]], plan: list[dict[str, Any]], kind: type[Exception] = BuildError) -> None:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(kind, match=match):
            Joined(work(root, rows, plan), RowFile(tmp_path))

    refused("keeps no image", rows, [r | {"keep": False} for r in plan])
    refused("keeps no image", rows, [])
    refused(r"keeps 1 images without a split, such as 0000", rows, [plan[0] | {"split": None}, *plan[1:]])
    refused(
        "1 groups stand in more than one split, such as both",
        rows, [plan[0] | {"group": "both"}, plan[1] | {"group": "both", "split": "test"}, *plan[2:]],
    )  # fmt: skip
    refused(r"keeps 2 images that no part holds, such as 0000", rows[2:], plan)
    refused("id 0000 stands in two parts", [*rows, rows[0]], plan, StoreError)
    refused("id 0000 stands in two parts", [rows[0], *rows[1:3], rows[0]], [plan[0] | {"keep": False}, *plan[1:3]], StoreError)
    refused("is not sorted by id, or has one twice", rows, [*plan, plan[0]])


def test_what_the_plan_leaves_out_keeps_its_source_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    rows = [row(i) for i in range(60)]
    plan = [
        decided(r, keep=i % 3 > 0, reason=("", None, "twin")[i % 9 // 3] if i % 3 == 0 else None) for i, r in enumerate(rows)
    ]
    lone = decided(row(999), keep=False, reason="gone")
    store = work(tmp_path / "w", rows, [*plan, lone])
    found = rejections.rejected(store, Joined(store, RowFile(tmp_path))).to_pylist()
    assert [(r["stage"], r["id"]) for r in found] == sorted((r["stage"], r["id"]) for r in found)
    keys = {r["id"]: r["source_key"] for r in rows}
    assert {r["id"]: r["source_key"] for r in found} == {r["id"]: keys.get(r["id"]) for r in [*plan, lone] if not r["keep"]}
    assert {r["reason"] for r in found} == {"not-kept", "twin", "gone"}
    assert {r["detail"] for r in found} == {""}


def test_scratch_has_no_name_and_is_gone_with_its_owner(tmp_path: Path) -> None:
    rows = [row(i) for i in range(4)]
    found = ordered(work(tmp_path / "w", rows, [decided(r) for r in rows]), tmp_path)
    assert len(list(found.rows(range(4)))) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


PEAK = (
    peakmemory.CODE
    + """
import sys
from pathlib import Path
from imaginet_build.publish import publish
from imaginet_build.store import Store
publish(Store(Path(sys.argv[1])), Path(sys.argv[2]), views=["native"])
print(peak())
"""
)


@pytest.mark.prove
def test_memory_hardly_grows_with_the_number_of_images(tmp_path: Path) -> None:
    """20,000 and 80,000 images of hardly a pixel: what 60,000 more take, and by that a million."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
    import bench_publish

    peaks = []
    for count in (20_000, 80_000):
        bench_publish.work_folder(tmp_path / str(count), count, 32, 24, 16)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, tmp_path / str(count), tmp_path / "out"], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) / 1e6)
        shutil.rmtree(tmp_path / "out")
    assert peaks[0] < 220
    assert peaks[1] < peaks[0] + 20
