"""The whole pipeline as typed: what a work folder and a release hold after `run quickstart`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from command import QUICKSTART, run

from imaginet_build import dedup


def table(folder: Path, view: str) -> pd.DataFrame:
    return pd.concat(
        pd.read_parquet(path) for path in sorted((folder / "work/quickstart/release/data" / view).glob("*.parquet"))
    )


def test_it_ends_with_five_figures_and_two_places(quickstart: Path) -> None:
    summary = json.loads((quickstart / "summary.json").read_text())
    assert summary["images"] >= 120
    assert summary["twins_removed"] == 0, "crops of one photograph are no twins of each other"
    cells = json.loads((quickstart / "work/quickstart/balance.json").read_text())["cells"]
    assert summary["cells_filled"] == f"{sum(c['kept'] >= c['asked'] for c in cells)} of {len(cells)}"
    assert all(c["kept"] == c["asked"] for c in cells), "the recipe asks for as many images of each class as there are"
    assert summary["audit_value"] == 0.5, "both classes look alike from outside to the last row"
    assert summary["baseline_auc"] > 0.6
    assert (quickstart / summary["report"]).is_file()
    assert (quickstart / summary["release"] / "release.json").is_file()


def test_a_second_run_does_nothing_anew(quickstart: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (quickstart / "work/quickstart/parts").rglob("*.parquet")}
    done = run("run", "quickstart", "--json", *QUICKSTART, cwd=quickstart)
    assert "0 new images" in done.stderr
    assert json.loads(done.stdout)["baseline_auc"] == json.loads((quickstart / "summary.json").read_text())["baseline_auc"]
    assert before == {path: path.stat().st_mtime_ns for path in (quickstart / "work/quickstart/parts").rglob("*.parquet")}


def test_every_row_is_what_it_says(quickstart: Path) -> None:
    for view in ("equalized", "native"):
        rows = table(quickstart, view)
        assert all(
            hashlib.sha256(image["bytes"]).hexdigest() == sha for image, sha in zip(rows["image"], rows["sha256"], strict=True)
        )
        assert set(rows["label"]) == {0, 1}
    native = table(quickstart, "native").set_index("id")
    assert (native["sha256"] == native["source_sha256"]).all()
    born = {}
    for part in (quickstart / "work/quickstart/parts").rglob("*.parquet"):
        found = pq.read_table(part, columns=["id", "sha256"]).to_pydict()
        born |= dict(zip(found["id"], found["sha256"], strict=True))
    assert all(born[name] == sha for name, sha in native["sha256"].items())


def test_both_classes_are_equally_many_and_alike_in_every_split(quickstart: Path) -> None:
    release = quickstart / "work/quickstart/release/data/equalized"
    for split in ("train", "calibration", "test"):
        rows = pd.concat(pd.read_parquet(path) for path in release.glob(f"{split}-*.parquet"))
        real, synthetic = rows[rows["label"] == 0], rows[rows["label"] == 1]
        assert sorted(real["width"]) == sorted(synthetic["width"])
        assert (rows["width"] == rows["height"]).all()
        assert rows["width"].between(96, 128).all()


def test_no_group_and_no_pair_straddles_a_split(quickstart: Path) -> None:
    plan = pd.read_parquet(quickstart / "work/quickstart/plan.parquet").query("keep")
    assert (plan.groupby("group")["split"].nunique() == 1).all()
    rows = table(quickstart, "native").merge(plan[["id", "split"]], on="id")
    paired = rows[rows["pair_id"].notna()]
    assert len(paired) > 10
    assert (paired.groupby("pair_id")["split"].nunique() == 1).all()
    assert (paired.groupby("pair_id")["label"].nunique() == 2).all(), "a pair is a real image and its reconstruction"


def test_near_duplicates_lie_in_one_split(quickstart: Path) -> None:
    rows = table(quickstart, "native")
    plan = pd.read_parquet(quickstart / "work/quickstart/plan.parquet").set_index("id")
    hashes = np.array([int(text, 16) for text in rows["phash"]], dtype=np.uint64)
    for _, names in rows.groupby(dedup.groups(hashes, 6))["id"]:
        assert plan.loc[names, "split"].nunique() == 1


def test_datasets_loads_it(quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    release = str(quickstart / "work/quickstart/release")
    loaded = datasets.load_dataset(release, cache_dir=str(tmp_path))
    assert set(loaded) == {"train", "calibration", "test"}
    row = loaded["test"][0]
    assert row["image"].size == (row["width"], row["height"])
    assert loaded["test"].features["label"].names == ["real", "synthetic"]
    streamed = next(iter(datasets.load_dataset(release, "native", split="test", streaming=True)))
    assert streamed["sha256"] == streamed["source_sha256"]


def test_the_report_says_what_the_figure_is_worth(quickstart: Path) -> None:
    page = (quickstart / "work/quickstart/report.html").read_text(encoding="utf-8")
    assert "not that it detects" in page
    assert "permuted" in page
    assert "blur" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
