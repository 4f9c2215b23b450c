"""The real corpus beside the repository, as dirty as the world: twins, splits, and what can be guessed of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from command import run
from PIL import Image, ImageOps
from scipy import stats

from imaginet_build import dedup, images

BORN = ["width", "height", "codec"]
"""What an image was as delivered; the plan has columns of the same name for what it becomes."""

SCREAM = {"real/paintings/nst_styles/45d763b132ba.jpg", "real/paintings/painterly_targets/0f303381d751.jpg"}
"""Two reproductions of one painting: full pHashes 8 bits apart, scaled ones 6, and 32 bits of 256 confirm it."""


@pytest.fixture(scope="module")
def corpus(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with the corpus collected and balanced."""
    work = tmp_path_factory.mktemp("corpus") / "work"
    where = ("--recipe", "folders", "--set", f"root={shared / 'data'}", "--work", work)
    run("collect", *where, cwd=work.parent)
    (work.parent / "balance.json").write_text(run("balance", *where, "--json", cwd=work.parent).stdout)
    return work


@pytest.fixture(scope="module")
def facts(corpus: Path) -> pd.DataFrame:
    parts = [
        pd.read_parquet(path, columns=["id", "source_key", "phash", *BORN]) for path in (corpus / "parts").rglob("*.parquet")
    ]
    born = pd.concat(parts).rename(columns={name: f"born_{name}" for name in BORN})
    return born.merge(pd.read_parquet(corpus / "plan.parquet"), on="id").sort_values("id", ignore_index=True)


@pytest.fixture(scope="module")
def alike(shared: Path, facts: pd.DataFrame) -> list[set[str]]:
    """The near-duplicate groups by another road: imagehash over full upright decodes, every pair compared."""
    hashes = []
    for key in facts["source_key"]:
        with Image.open(shared / "data" / key) as image:
            # Transparency goes on grey, as a viewer would put it on something: on nothing, white drawings are all blank.
            upright = ImageOps.exif_transpose(image)
            if "A" in upright.getbands() or "transparency" in upright.info:
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, (128, 128, 128, 255)), upright.convert("RGBA"))
            hashes.append(int(str(imagehash.phash(upright)), 16))
    values = np.array(hashes, dtype=np.uint64)
    pairs = [
        (i, int(j))
        for i in range(len(values))
        for j in np.flatnonzero(np.bitwise_count(values[i] ^ values[i + 1 :]) <= 6) + i + 1
    ]
    label = dedup.components(len(values), np.array(pairs))
    groups = [set(facts["source_key"][label == name]) for name in np.unique(label)]
    return [group for group in groups if len(group) > 1]


def test_every_image_is_here_with_its_bytes(corpus: Path, shared: Path, facts: pd.DataFrame) -> None:
    index = pd.read_csv(shared / "data" / "index.csv")
    assert set(facts["source_key"]) == set(index["path"])
    assert not list((corpus / "rejects").rglob("*.parquet"))


def test_the_known_twins_are_found(corpus: Path, facts: pd.DataFrame, alike: list[set[str]]) -> None:
    assert sorted(map(len, alike)) == [2] * 9 + [8]
    key = dict(zip(facts["id"], facts["source_key"], strict=True))
    found = [{key[name] for name in event["ids"]} for event in json.loads((corpus / "twins.json").read_text())]
    assert sorted(map(sorted, found)) == sorted(map(sorted, [*alike, SCREAM]))


def test_of_every_group_one_stays_and_none_straddles_a_split(facts: pd.DataFrame, alike: list[set[str]]) -> None:
    plan = facts.set_index("source_key")
    for group in alike:
        rows = plan.loc[sorted(group)]
        assert (rows["reason"] == "twin").sum() == len(group) - 1
        assert rows["split"].nunique() <= 1
        assert rows["group"].nunique() == 1


def test_cells_are_equal_and_sides_alike(facts: pd.DataFrame) -> None:
    kept = facts[facts["keep"]]
    assert len(kept) > 1300
    for _, rows in kept.groupby(["category", "split"]):
        real, synthetic = rows[rows["origin"] == "real"], rows[rows["origin"] == "synthetic"]
        outside = ["width", "height", "codec", "quality", "subsampling"]
        assert Counter(map(tuple, real[outside].to_numpy())) == Counter(map(tuple, synthetic[outside].to_numpy()))


def test_the_summary_counts_what_the_plan_holds(corpus: Path, facts: pd.DataFrame) -> None:
    said = json.loads((corpus.parent / "balance.json").read_text())
    assert said["duplicates"]["groups"] == 11
    assert said["duplicates"]["twins_removed"] == 17
    assert sum(cell["kept"] for cell in said["cells"]) == facts["keep"].sum()
    assert {split: sum(n.values()) for split, n in said["splits"].items()} == facts["split"].value_counts().to_dict()


def test_crops_lie_inside_their_image_and_what_was_never_jpeg_has_its_pass(facts: pd.DataFrame) -> None:
    kept = facts[facts["keep"]]
    assert ((kept["left"] >= 0) & (kept["left"] + kept["width"] <= kept["born_width"])).all()
    assert ((kept["top"] >= 0) & (kept["top"] + kept["height"] <= kept["born_height"])).all()
    assert (kept["first_quality"].isna() == (kept["born_codec"] == "jpeg")).all()


def test_what_a_first_pass_and_a_crop_are_like_does_not_tell_the_class(facts: pd.DataFrame) -> None:
    kept = facts[facts["keep"]].assign(column=lambda rows: rows["left"] % 16, row=lambda rows: rows["top"] % 16)
    for _, rows in kept.groupby("category"):
        for name in ("first_quality", "column", "row"):
            real, synthetic = (rows.loc[rows["origin"] == origin, name].dropna() for origin in ("real", "synthetic"))
            if min(len(real), len(synthetic)) >= 20:
                assert stats.ks_2samp(real, synthetic).pvalue > 0.002


def test_no_group_straddles_a_split(facts: pd.DataFrame) -> None:
    assert facts[facts["keep"]].groupby("group")["split"].nunique().max() == 1


def test_splits_have_their_shares_in_every_cell(facts: pd.DataFrame) -> None:
    for _, rows in facts[facts["keep"]].groupby(["category", "origin"]):
        for split, share in (("train", 0.7), ("calibration", 0.1), ("test", 0.2)):
            assert abs((rows["split"] == split).sum() - share * len(rows)) <= 2


def test_cells_say_what_was_asked_and_what_would_fill_them(corpus: Path) -> None:
    cells = json.loads((corpus.parent / "balance.json").read_text())["cells"]
    wallpapers = [cell for cell in cells if cell["category"] == "uncategorized"]
    assert {cell["reason"] for cell in wallpapers} == {
        "11 real images of uncategorized limit it: 44 more of at least 256 px would fill it"
    }
    for origin in ("real", "synthetic"):
        assert sum(cell["asked"] for cell in wallpapers if cell["origin"] == origin) == 55
        assert sum(cell["kept"] for cell in wallpapers if cell["origin"] == origin) == 11
    assert all(cell["reason"] == "" for cell in cells if cell["kept"] >= cell["asked"])


@pytest.mark.slow
def test_without_a_pixel_native_can_be_guessed_and_equalized_cannot(corpus: Path) -> None:
    run("publish", "--work", corpus, cwd=corpus.parent)
    said = json.loads((corpus / "audit.json").read_text())
    value = {
        (p["view"], p["scope"]): p["balanced_accuracy"] for p in said["probes"] if (p["track"], p["probe"]) == ("origin", "all")
    }
    assert said["gate"]["verdict"] == "passed"
    assert value["equalized", "all"] <= 0.55
    assert value["native", "photos"] > 0.95
    assert value["native", "all"] > 0.8


@pytest.mark.slow
def test_the_classes_of_the_equalized_view_differ_by_chance_alone(corpus: Path) -> None:
    """Size, aspect and quality as measured in the published bytes, and what the release itself says of its bytes per pixel."""
    said = json.loads(run("publish", "--work", corpus, "--json", cwd=corpus.parent).stdout)["likeness"]
    shown = [
        (row["label"] == 1, images.measure(row["image"]["bytes"]))
        for path in sorted((corpus / "release" / "data" / "equalized").glob("*.parquet"))
        for row in pq.read_table(path, columns=["image", "label"]).to_pylist()
    ]
    for value in (lambda f: min(f.width, f.height), lambda f: f.width / f.height, lambda f: f.quality):
        values = {label: [value(f) for mine, f in shown if mine == label] for label in (True, False)}
        apart = stats.ks_2samp(values[True], values[False], method="asymp")
        assert apart.statistic < 0.02
    for label, name in ((False, "real"), (True, "synthetic")):
        mine = [f for own, f in shown if own == label]
        spent = sum(f.nbytes for f in mine) / sum(f.width * f.height for f in mine)
        assert said["equalized"]["bytes_per_pixel"][name] == pytest.approx(spent, abs=1e-4)
    assert said["equalized"]["ks"]["size"] < said["equalized"]["sampling_error"] < said["native"]["ks"]["size"]


@pytest.mark.slow
def test_the_small_baseline_tells_them_apart(corpus: Path) -> None:
    """Three seeds, each some minutes of training on two cores: the median AUC over the equalized test split."""
    run("publish", "--work", corpus, cwd=corpus.parent)
    said = json.loads(run("baseline", "--work", corpus, "--json", cwd=corpus.parent).stdout)
    assert len(said["seeds"]) == 3
    origin = said["tracks"]["origin"]
    assert origin["auc"] >= 0.90
    assert origin["ci95"][0] < origin["auc"] < origin["ci95"][1]
    assert abs(said["controls"]["permuted_labels"]["mean"] - 0.5) < 0.05
