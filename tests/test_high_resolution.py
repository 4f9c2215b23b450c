"""High resolution stays: what `pipelines/imaginet.toml` makes of images as large as those of the paper's sources are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imaginet_build import catalog, recipe
from imaginet_build.balance import Balanced, balance
from imaginet_build.balancing.equalize import sides_of
from imaginet_build.recipe import Collect, Equalize, Generate
from imaginet_build.records import SCHEMA, random_of
from imaginet_build.store import Store

RECIPE = recipe.load(catalog.pipeline("imaginet.toml"))
LARGE = {"wikiart": 1400, "danbooru": 1200, "photozilla": 1000}
"""The middle of the shorter sides of what no standard limits, made up for these tests, as all sizes here are."""


def sizes(name: str, count: int) -> np.ndarray:
    """(count, 2) width and height as the source or generator gives them, before anything is passed over."""
    chance = random_of(name, "sizes")
    match name:
        case "coco":  # the longer side is 640
            long, short = np.full(count, 640), chance.integers(300, 500, count)
        case "imagenet":  # 500 x 375 for the most part, and some far smaller
            short = np.where(chance.random(count) < 0.1, chance.integers(90, 256, count), chance.normal(385, 60, count))
            long = short * 1.33
        case "lsun" | "progan":
            long = short = np.full(count, 256)
        case "wikiart" | "danbooru" | "photozilla":
            short = LARGE[name] * np.exp(chance.normal(0, 0.5, count))
            long = short * chance.uniform(1, 1.6, count)
        case "dalle3-images" | "dalle3-opendatasets":
            long, short = chance.choice([1024, 1792], count), np.full(count, 1024)
        case "animagine-xl-3.1":
            long, short = np.full(count, 1216), np.full(count, 832)
        case "sd21":
            long = short = np.full(count, 768)
        case "imagenet_stylegan":  # drawn at 256 here: the least that StyleGAN-XL's larger networks give
            long = short = np.full(count, 256)
        case _:
            long = short = np.full(count, 1024)
    both = np.stack([long, short], axis=1).astype(np.int64).clip(8)
    return np.where(chance.random(count)[:, None] < 0.5, both, both[:, ::-1])


def delivered(entry: Collect | Generate, count: int) -> tuple[str, np.ndarray]:
    """What an entry of the recipe leaves in the work folder: its name, and sizes of which none is below its `min_side`."""
    if isinstance(entry, Generate):
        return entry.generator, sizes(entry.generator, count)
    folder = str(entry.options.get("include", [""])[0]).strip("*/")
    found = sizes(folder if entry.source == "imaginet-gan" else entry.source, 6 * count)
    least = entry.screen.min_side if entry.screen and entry.screen.min_side else 0
    return entry.source, found[found.min(axis=1) >= least][:count]


def work_folder(root: Path, share: float, cap: int | None = None) -> Store:
    """A work folder of the recipe's entries with `share` of their images and no pixel. `cap`: no image has a larger side, but
    for what is below that anyway it may not be smaller than its `min_side`."""
    folder = root / "parts" / "collect"
    folder.mkdir(parents=True)
    number = 0
    for entry in [*RECIPE.collect, *RECIPE.generate]:
        quota = entry.count if isinstance(entry, Generate) else entry.quota
        assert quota is not None
        name, size = delivered(entry, round(quota * share))
        # What has more pixels than MAX_PIXELS is refused when it is collected: 9,000 x 9,000 has not.
        size = np.minimum(size, cap or 9_000)
        m = len(size)
        assert m == round(quota * share)
        card = catalog.card("sources" if isinstance(entry, Collect) else "generators", name)
        synthetic = isinstance(entry, Generate) or card.about.origin == "synthetic"
        maker = (entry.options.get("generator") or card.options.get("generator") or name) if synthetic else None
        i = np.arange(number, number + m)
        number += m
        digest = np.array([f"{k:064x}" for k in i])
        chance = random_of(f"{name} {number}", "facts")
        columns = {
            "id": [f"{k:032x}" for k in i], "group": digest, "sha256": digest, "pixel_hash": digest,
            "origin": ["synthetic" if synthetic else "real"] * m, "category": [entry.category] * m, "generator": [maker] * m,
            "source": [None if synthetic else name] * m, "source_key": digest, "codec": ["png" if synthetic else "jpeg"] * m,
            "family": ["sd" if synthetic else None] * m, "width": size[:, 0], "height": size[:, 1],
            "quality": pa.array(chance.integers(70, 97, m), mask=np.full(m, synthetic)),
            "subsampling": pa.array(["4:2:0"] * m, mask=np.full(m, synthetic)), "nbytes": np.full(m, 10**5),
            "phash": chance.integers(0, 2**64, m, dtype="u8"), "phash_mirror": chance.integers(0, 2**64, m, dtype="u8"),
            "dhash": np.zeros(m, np.uint64), "contrast": np.full(m, 40.0), "licence": ["CC0-1.0"] * m, "revision": ["1"] * m,
            "params": ["{}"] * m, "extension": ["png"] * m, "mode": ["RGB"] * m, "progressive": np.zeros(m, bool),
            "metadata": [""] * m, "image": [b""] * m,
        }  # fmt: skip
        arrays = [pa.nulls(m, f.type) if f.name not in columns else pa.array(columns[f.name]).cast(f.type) for f in SCHEMA]
        pq.write_table(pa.table(arrays, schema=SCHEMA), folder / f"{number:09}.parquet")
    return Store(root)


def balanced(root: Path, share: float, cap: int | None = None) -> tuple[Balanced, pd.DataFrame]:
    """What the recipe's own settings decide, and the kept rows of the plan beside the size of their image."""
    store = work_folder(root, share, cap)
    done = balance(store, RECIPE.balance.model_copy(update={"radius": 0}), RECIPE.equalize, RECIPE.seed)
    plan = store.plan().to_pandas()
    facts = store.facts(["width", "height"]).to_pandas().rename(columns={"width": "wide", "height": "high"})
    return done, plan[plan.keep].merge(facts, on="id")


def has_the_law_of_the_paper(done: Balanced, plan: pd.DataFrame) -> None:
    side = plan["width"]
    assert (plan["width"] == plan["height"]).all()
    assert (side.min(), side.max()) == (256, 960)  # a multiple of 64 that leaves room for the grid in an image of 1024
    assert side.median() >= 512
    # Nothing is upscaled or padded: every crop lies inside its image.
    assert (plan[["left", "top"]] >= 0).all(axis=None)
    assert ((plan["left"] + side <= plan["wide"]) & (plan["top"] + side <= plan["high"])).all()
    # And no size tells the label.
    for _, rows in plan.groupby(["category", "split"]):
        assert Counter(rows.width[rows.origin == "real"]) == Counter(rows.width[rows.origin == "synthetic"])


def test_native_is_released_at_full_size_beside_the_crops() -> None:
    assert RECIPE.publish.views == ["equalized", "native"]
    assert (RECIPE.equalize.side, RECIPE.equalize.side_median) == ((256, 1024), 512)


def test_crops_have_256_to_1024_pixels_half_of_them_512_or_more_and_none_is_upscaled(tmp_path: Path) -> None:
    done, plan = balanced(tmp_path, 1 / 25)
    has_the_law_of_the_paper(done, plan)
    assert done.kept == len(plan) == 8000
    assert done.rejected.get("too-small", 0) == 0  # it was passed over on arrival: `screen.min_side`
    medians = plan.groupby("category")["width"].median()
    assert medians["photos"] < 512 <= medians.drop("photos").min()
    assert len(set(plan["width"])) == 12


def test_even_images_as_small_as_their_screen_allows_keep_the_median(tmp_path: Path) -> None:
    """Wherever the recipe asks for 656 pixels, no image has more: the worst that can be collected."""
    done, plan = balanced(tmp_path, 1 / 25, cap=656)
    assert plan["width"].median() >= 512
    assert (plan["width"].min(), plan["width"].max()) == (256, 640)
    assert done.kept == 8000


def test_a_median_that_images_are_too_small_for_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    balanced(tmp_path, 1 / 100, cap=500)
    assert "equalize.side_median asks for 512: the images of" in caplog.text


def test_what_the_automatic_law_would_take_at_less_than_256_is_too_small_here(tmp_path: Path) -> None:
    """`auto` would fit the smallest crop to what ImageNet holds; the recipe says 256, and rejects what cannot give it."""
    store = work_folder(tmp_path, 1 / 100)
    path = next(p for p in store.parts() if "imagenet" in set(pq.read_table(p)["source"].to_pylist()))
    table = pq.read_table(path)
    raw = sizes("imagenet", len(table))  # as if nothing had been passed over
    for k, name in enumerate(("width", "height")):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(raw[:, k], pa.int32()))
    pq.write_table(table, path)
    auto = sides_of(Equalize(step=64), {"real": raw.min(axis=1), "synthetic": np.full(9, 256)})
    assert auto[0] < 256
    done = balance(store, RECIPE.balance.model_copy(update={"radius": 0}), RECIPE.equalize, RECIPE.seed)
    small = int((raw.min(axis=1) < 256).sum())
    assert small > 3
    assert done.rejected["too-small"] == small
    plan = store.plan().to_pandas()
    rejected = plan[plan.reason == "too-small"]
    assert set(rejected["generator_or_source"]) == {"imagenet"}
    assert rejected["detail"].str.fullmatch(r"its short side is \d+ pixels, the smallest crop 256").all()


@pytest.mark.prove
def test_the_same_at_the_size_of_the_paper(tmp_path: Path) -> None:
    done, plan = balanced(tmp_path, 1)
    has_the_law_of_the_paper(done, plan)
    assert done.kept == 200_000
    assert plan["split"].value_counts().to_dict() == {"train": 159_920, "calibration": 80, "test": 40_000}
