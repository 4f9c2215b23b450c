"""The frozen robustness set: the same bytes whoever makes it, every condition on both classes alike, whole or absent."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peakmemory
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tested

from imaginet_build import engine, images, perturb
from imaginet_build.auditing.facts import FACTS
from imaginet_build.auditing.gate import joint
from imaginet_build.auditing.probe_tables import View
from imaginet_build.auditing.probes import ALL
from imaginet_build.auditing.targets import read
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.publish import publish
from imaginet_build.records import ORIGINS
from imaginet_build.releases import carrying, living, release, reperturb, robustness
from imaginet_build.releases.rights import Clearance
from imaginet_build.releases.robustness import Wanted

EVERYTHING = Wanted("all")


def table(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "data" / "robustness").glob("*")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images under everything, in two shards."""
    folder = tested.equalized(tmp_path_factory.mktemp("made"), 4)
    robustness.write(folder, EVERYTHING, rows_per_file=2 * len(perturb.CONDITIONS))
    return folder


def test_a_row_is_its_parent_under_a_condition_with_facts_of_its_own_bytes(made: Path) -> None:
    parents = {row["id"]: row for row in pq.read_table(made / "data/equalized/test-00000-of-00001.parquet").to_pylist()}
    rows = table(made)
    assert Counter((row["parent_id"], list(perturb.CONDITIONS)[row["condition"]]) for row in rows) == Counter(
        (name, condition) for name in parents for condition in perturb.CONDITIONS
    )
    same = ("label", "content_type", "family", "generator", "pair_id", "group", "source", "source_key", "licence")
    for row in rows:
        condition = list(perturb.CONDITIONS)[row["condition"]]
        facts = images.measure(row["image"]["bytes"])
        assert (row["sha256"], row["width"], row["height"]) == (facts.sha256, facts.width, facts.height)
        assert row["phash"] == f"{facts.phash:016x}"
        assert row["id"] == robustness.row_id(row["parent_id"], condition)
        assert row["image"]["path"] == release.image_path(row["id"], facts.codec)
        parent = parents[row["parent_id"]]
        assert [row[c] for c in (*same, "prompt", "seed", "source_sha256")] == [
            parent[c] for c in (*same, "prompt", "seed", "source_sha256")
        ]
        if condition in ("centre", "jpeg-75", "resize-12-5", "blur-2"):
            image = perturb.perturb(images.decode(parent["image"]["bytes"]), condition, "anything")
            assert np.array_equal(np.asarray(images.decode(row["image"]["bytes"])), np.asarray(image))
    assert len({row["id"] for row in rows}) == len(rows)


def test_a_shard_goes_condition_by_condition_so_that_one_is_a_run_of_row_groups(made: Path) -> None:
    paths = sorted((made / "data" / "robustness").glob("*"))
    assert [p.name for p in paths] == ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"]
    for path in paths:
        conditions = pq.read_table(path, columns=["condition"])["condition"].to_pylist()
        assert conditions == sorted(conditions)
        with pq.ParquetFile(path) as file:
            assert all(file.metadata.row_group(i).num_rows <= 100 for i in range(file.num_row_groups))


def test_partners_are_treated_alike_so_no_row_gives_its_label_away(made: Path) -> None:
    """Both classes of a content type hold every condition with the very same codec, quality, tables and size."""
    told: dict[int, Counter[tuple[object, ...]]] = {0: Counter(), 1: Counter()}
    for row in table(made):
        f = images.measure(row["image"]["bytes"])
        how = (f.codec, f.quality, f.qtables, f.subsampling, f.progressive, f.metadata, f.mode, f.width, f.height)
        told[row["label"]][row["content_type"], row["condition"], *how] += 1
    assert told[0] == told[1]
    assert len({key[3] for key in told[0] if key[2] == "jpeg"}) >= 13


def test_partners_share_noise_crop_and_the_network_they_went_through(made: Path) -> None:
    parents, _, _ = robustness.read(release.shards(made, "equalized")["test"])
    draws = robustness.drawn(parents, EVERYTHING)
    by_key: dict[str, set[int]] = {}
    for row, own in draws.items():
        assert len({key for _, key, _ in own}) == 1
        by_key.setdefault(own[0][1], set()).add(row)
    for rows in by_key.values():
        assert sorted(parents.label[row] for row in rows) == [0, 1]
        assert len({parents.side[row] for row in rows}) == 1


def test_the_no_pixel_probes_of_the_audit_find_nothing(tmp_path: Path) -> None:
    folder = tested.equalized(tmp_path / "r", 60, side=256)
    robustness.write(folder, Wanted("all", sweep_images=2))
    (tmp_path / "alone" / "data").mkdir(parents=True)
    for path in (folder / "data" / "robustness").glob("*"):
        shutil.copy(path, tmp_path / "alone" / "data")
    target = read(tmp_path / "alone")
    assert len(target.table) == 60 + 2 * (len(perturb.CONDITIONS) - 1)
    view = View(None, target.table, 0, 0)
    value, _ = joint([p for p in view.probes if p.gate], view.cases("origin", ALL, [])[1], 0)
    assert value is not None
    assert value <= 0.55
    # The same probes see it where one class alone is treated otherwise: its JPEGs keep all colour.
    told = zip(target.table["subsampling"].to_pylist(), target.table["origin"].to_pylist(), strict=True)
    chroma = pa.array(["4:4:4" if had and origin == "synthetic" else had for had, origin in told], pa.string())
    place = target.table.schema.get_field_index("subsampling")
    leaky = View(None, target.table.set_column(place, FACTS.field("subsampling"), chroma), 0, 0)
    caught, _ = joint([p for p in leaky.probes if p.gate], leaky.cases("origin", ALL, [])[1], 0)
    assert caught is not None
    assert caught > 0.55


def test_an_audit_of_a_release_leaves_the_conditions_aside(made: Path) -> None:
    assert set(read(made).table["view"].to_pylist()) == {"equalized"}


def test_the_bytes_do_not_depend_on_workers_or_on_who_answers_first(tmp_path: Path) -> None:
    here, there = tested.equalized(tmp_path / "here", 8), tested.equalized(tmp_path / "there", 8)
    said = robustness.write(here, Wanted("social"), rows_per_file=5)
    ordered = partial(engine.ordered, pool=engine.Pool(workers=2))
    assert robustness.write(there, Wanted("social"), rows_per_file=5, map=ordered) == said
    assert tested.digests(there) == tested.digests(here)
    assert {Path(name).name: str(facts["sha256"]) for name, facts in said.items()} == tested.digests(here)


def test_a_row_does_not_depend_on_how_the_test_split_is_cut_or_on_what_else_is_in_the_set(made: Path, tmp_path: Path) -> None:
    whole = {row["id"]: row["sha256"] for row in table(made)}
    folder = tested.equalized(tmp_path, 4, files=3)
    robustness.write(folder, Wanted("social"))
    assert {row["id"]: row["sha256"] for row in table(folder)}.items() <= whole.items()


# Another machine as nearly as one can be had here: neither the JPEG library's vector instructions nor numpy's.
ELSEWHERE = {
    "LC_ALL": "tr_TR.UTF-8",
    "PYTHONHASHSEED": "77",
    "TZ": "Asia/Tokyo",
    "OMP_NUM_THREADS": "4",
    "PYTHONUTF8": "0",
    "JSIMD_FORCENONE": "1",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
}


def driver(folder: Path, conditions: str, rows: int, after: int = -1, **environment: str) -> int:
    """The exit code of a process of its own that makes the set, and dies after so many images."""
    command = [sys.executable, "-W", "ignore", tested.__file__, str(folder), conditions, str(rows), str(after)]
    place = str(Path(tested.__file__).parent)
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": place, **environment}, cwd=folder, check=False).returncode


def test_the_bytes_do_not_depend_on_locale_hash_seed_time_zone_or_vector_instructions(tmp_path: Path) -> None:
    here, there = tested.equalized(tmp_path / "here", 2), tested.equalized(tmp_path / "there", 2)
    robustness.write(here, EVERYTHING)
    assert driver(there, "all", robustness.ROWS, **ELSEWHERE) == 0
    assert ast.literal_eval((there / "digests.txt").read_text()) == tested.digests(here)
    assert list(tested.digests(here)) == ["test-00000-of-00001.parquet"]


def test_killed_and_run_again_it_keeps_what_was_finished_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, folder = tested.equalized(tmp_path / "whole", 8), tested.equalized(tmp_path / "killed", 8)
    robustness.write(whole, Wanted("social"), rows_per_file=2)
    assert len(tested.digests(whole)) == 4
    assert driver(folder, "social", 2, after=5) == -9
    kept = {p: p.stat().st_mtime_ns for p in (folder / "data" / "robustness").glob("*")}
    assert [p.name for p in sorted(kept)] == [f"test-{i:05d}-of-00004.parquet" for i in range(2)]
    robustness.write(folder, Wanted("social"), rows_per_file=2)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert tested.digests(folder) == tested.digests(whole)
    assert not list((folder / ".spill").iterdir())


def test_social_conditions_alone_and_a_limit_on_each(tmp_path: Path) -> None:
    folder = tested.equalized(tmp_path, 12, side=256)
    robustness.write(folder, Wanted("all", social_images=8, sweep_images=2))
    found = Counter(list(perturb.CONDITIONS)[row["condition"]] for row in table(folder))
    assert found == {c: 8 if c == "social" else 2 for c in perturb.CONDITIONS}
    swept = {row["parent_id"] for row in table(folder) if row["condition"] == 0}
    assert swept < {row["parent_id"] for row in table(folder) if list(perturb.CONDITIONS)[row["condition"]] == "social"}


def test_what_may_not_travel_has_rows_without_pixels_that_restoring_them_fills_with_the_same_bytes(tmp_path: Path) -> None:
    whole = tested.equalized(tmp_path / "whole", 6)
    robustness.write(whole, Wanted("social"), rows_per_file=3)
    travels = tested.equalized(tmp_path / "travels", 6, withheld=[0, 3])
    with pytest.raises(BuildError, match=r"2 test images of .* carry no pixels, such as"):
        robustness.write(travels, Wanted("social"), rows_per_file=3)
    robustness.write(travels, Wanted("social"), rows_per_file=3, whole=whole)
    assert list(tested.digests(travels)) == list(tested.digests(whole))
    before, after = ({row["id"]: row for row in table(folder)} for folder in (whole, travels))
    for name, row in after.items():
        if row["source_key"] in ("0.jpg", "3.jpg"):
            assert row["image"] is None
            assert row["fetch"] == f"hint {row['source_key']}"
            row |= {"image": before[name]["image"], "fetch": None}
        assert row == before[name]
    restored = tested.equalized(tmp_path / "restored", 6)
    reperturb.restore(travels, restored)
    assert tested.digests(restored) == tested.digests(whole)
    assert not reperturb.restore(travels, restored)  # what is there is kept


def test_a_row_that_does_not_come_out_as_published_is_named(tmp_path: Path) -> None:
    whole = tested.equalized(tmp_path / "whole", 4)
    robustness.write(whole, Wanted("social"))
    travels = tested.equalized(tmp_path / "travels", 4, withheld=[2])
    robustness.write(travels, Wanted("social"), whole=whole)
    other = tested.equalized(tmp_path / "other", 4, side=288)  # the same ids, and other pixels
    with pytest.raises(BuildError, match="does not come out with its SHA-256"):
        reperturb.restore(travels, other)
    assert not list((other / "data").glob("robustness/*"))


def test_what_cannot_be_decoded_is_named_and_leaves_no_shard(tmp_path: Path) -> None:
    folder = tested.equalized(tmp_path, 4)
    path = folder / "data/equalized/test-00000-of-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[1]["image"]["bytes"] = b"no image"
    schema = pq.read_schema(path)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    with pytest.raises(BuildError, match=f"1 images .*{rows[1]['id']}"):
        robustness.write(folder, Wanted("social"))
    assert not (folder / "data" / "robustness").exists()


def test_nothing_is_made_where_nothing_is_wanted_or_there_is_no_test_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert robustness.write(tmp_path, Wanted()) == {}
    assert robustness.write(tmp_path, EVERYTHING) == {}
    assert "no test split" in caplog.text
    assert Wanted().settings() == {}
    with pytest.raises(UsageError, match=r"publish\.robustness = 'all' is made from the view equalized"):
        robustness.check(EVERYTHING, ["native"])


def test_progress_counts_every_image_once(tmp_path: Path) -> None:
    folder = tested.equalized(tmp_path, 6)
    seen: list[tuple[int, int]] = []
    robustness.write(folder, Wanted("social"), rows_per_file=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 6) for i in range(6)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_release_carries_it_as_a_config_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    store = tested.work_folder(tmp_path / "work", 12)
    said = publish(store, tmp_path / "r", perturbed=Wanted("all", sweep_images=2))
    assert release.faults(tmp_path / "r") == []
    loaded = datasets.load_dataset(str(tmp_path / "r"), "robustness", cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["test"]
    assert loaded["test"].features["condition"].names == list(perturb.CONDITIONS)
    assert loaded["test"].features["label"].names == list(ORIGINS)
    assert len(loaded["test"]) == said.views["equalized"]["test"] + 2 * (len(perturb.CONDITIONS) - 1)
    assert loaded["test"][0]["image"].size == (256, 256)
    card = (tmp_path / "r" / "README.md").read_text()
    assert f"`condition`, one of {', '.join(perturb.CONDITIONS)};" in card
    assert release.read_manifest(tmp_path / "r")["robustness"]["sweep_images"] == 2
    assert {"pillow", "libjpeg_turbo", "webp"} <= release.read_manifest(tmp_path / "r")["versions"].keys()
    assert publish(store, tmp_path / "r", perturbed=Wanted("all", sweep_images=2)).unchanged
    plain = publish(store, tmp_path / "plain")
    assert not (tmp_path / "plain" / "data" / "robustness").exists()
    assert plain.digest != said.digest


def test_a_later_version_takes_it_over_without_what_was_made_from_withdrawn_images(tmp_path: Path) -> None:
    store = tested.work_folder(tmp_path / "work", 12)
    publish(store, tmp_path / "r", perturbed=Wanted("social"))
    before = {row["id"]: row for row in table(tmp_path / "r")}
    gone = min(row["parent_id"] for row in before.values())
    previous = living.read(tmp_path / "r", withdrawn=[gone])
    carrying.Older(store.plan(), previous, Clearance().notices.errata).carry(tmp_path / "next")
    after = {row["id"]: row for row in table(tmp_path / "next")}
    assert after == {name: row for name, row in before.items() if row["parent_id"] != gone}
    assert len(after) == len(before) - 1


@pytest.mark.prove
def test_memory_holds_no_shard(tmp_path: Path) -> None:
    """A set of sixty images, more than 120 MB in one shard, takes little more memory than one of two images."""
    code = peakmemory.CODE + (
        "import sys\nfrom pathlib import Path\nfrom imaginet_build.releases import robustness\n"
        "for place in sys.argv[1:]:\n"
        "    robustness.write(Path(place), robustness.Wanted('all', sweep_images=None))\n"
        "    print(peak())\n"
    )
    few, many = tested.equalized(tmp_path / "few", 2), tested.equalized(tmp_path / "many", 60, side=256)
    done = subprocess.run([sys.executable, "-c", code, str(few), str(many)], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    (shard,) = (many / "data" / "robustness").glob("*")
    assert shard.stat().st_size > 120e6
    assert after - before < 60e6
