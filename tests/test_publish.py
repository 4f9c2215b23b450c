"""A release is the plan made flesh: the same bytes however it was made, loadable as it is, and whole or absent."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imaginet_build import images
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.publish import Told, publish
from imaginet_build.records import Record, make_id, random_of
from imaginet_build.releases import datasetcard, release
from imaginet_build.releases.releasewriter import Rendered, Task
from imaginet_build.store import Store

TOLD = Told(datasetcard.About(title='A | test: "set"'), recipe_digest="r1")
HOSTILE = "a | <b>bold</b> `cat`\n---\nname: x"


def picture(name: str, codec: str) -> bytes:
    """A small image of smooth noise that belongs to its name."""
    coarse = random_of(name, "test").integers(0, 256, (6, 7, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((84, 72), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, codec, **({"quality": 90} if codec == "jpeg" else {}))
    return out.getvalue()


def work_folder(root: Path, rows: int = 24, parts: int = 2, backwards: bool = False) -> Store:
    """A work folder of `rows` images, half of them synthetic, cut into `parts` parts, with a plan that leaves one out."""
    store = Store(root)
    made = []
    for i in range(rows):
        real = i % 2 == 0
        codec = "jpeg" if real else "png"
        data = picture(f"image {i}", codec)
        record = Record(
            id=make_id("test", i),
            origin="real" if real else "synthetic",
            category=("photos", "paintings")[i // 2 % 2],
            family=None if real else "gan",
            generator=None if real else "tiny-gan",
            source="album" if real else None,
            source_key=f"album/{i}.jpg" if real else None,
            licence="CC0-1.0" if real else "MIT",
            revision="1",
            prompt=None if real else HOSTILE,
            negative=None,
            seed=None if real else i,
            params="{}",
            pair_id=None,
            group=f"g{i}",
            extension="jpg" if real else "png",
            facts=images.measure(data),
        )
        made.append((record.row(), data))
    plan = []
    for i, (row, _) in enumerate(made):
        keep = i != 5
        view = {"left": 8, "top": 4, "width": 64, "height": 64, "codec": "jpeg", "quality": 85, "subsampling": "4:2:0"}
        first = {"first_quality": 92, "first_subsampling": "4:2:0"} if row["codec"] == "png" else {}
        said = {"reason": None if keep else "twin", "detail": None if keep else "of another"}
        split = ("train", "train", "calibration", "test")[i // 2 % 4] if keep else None
        plan.append(
            {c: row[c] for c in ("id", "category", "origin", "group")}
            | {"keep": keep, "generator_or_source": row["generator"] or row["source"], "split": split}
            | said
            | (dict.fromkeys(("left", "top", "width", "height", "codec", "quality", "subsampling")) if not keep else view)
            | ({"first_quality": None, "first_subsampling": None} | (first if keep else {}))
        )
    if backwards:
        made.reverse()
    for k in range(parts):
        some = made[k::parts]
        store.write_part("collect", f"part-{k}", [r for r, _ in some], [d for _, d in some])
    refused = {"id": "ff", "stage": "collect", "origin": "real", "category": "photos", "generator_or_source": "album"}
    store.write_rejects("collect", "part-0", [refused | {"source_key": "album/x", "reason": "truncated", "detail": "no end"}])
    store.write_plan(plan)
    return store


def digests(folder: Path) -> dict[str, object]:
    return {path: facts["sha256"] for path, facts in release.inventory(folder).items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    root = tmp_path_factory.mktemp("work")
    store = work_folder(root)
    publish(store, root / "release", rows_per_file=5, told=TOLD)
    return store, root / "release"


def test_it_says_what_it_wrote_and_every_file_is_listed(made: tuple[Store, Path], tmp_path: Path) -> None:
    store, _ = made
    said = publish(store, tmp_path / "r", rows_per_file=5)
    assert (said.rows, said.rejected, said.unchanged) == (23, 2, False)
    assert said.views == {view: {"train": 12, "calibration": 5, "test": 6} for view in ("equalized", "native")}
    manifest = release.read_manifest(tmp_path / "r")
    assert manifest["digest"] == said.digest
    assert sorted(p for p in manifest["files"] if p.startswith("data/native/train")) == [
        f"data/native/train-{i:05d}-of-00003.parquet" for i in range(3)
    ]
    assert release.faults(tmp_path / "r") == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r"]


def test_native_keeps_every_byte_and_equalized_is_rendered_by_the_plan(made: tuple[Store, Path]) -> None:
    store, folder = made
    born = dict(store.images(store.ids("collect") - {"ff"}))
    facts = {row["id"]: row for row in store.facts().to_pylist()}
    for view in release.VIEWS:
        for paths in release.shards(folder, view).values():
            for row in (r for p in paths for r in pq.read_table(p).to_pylist()):
                data = row["image"]["bytes"]
                measured = images.measure(data)
                assert row["image"]["path"] == f"{row['id']}.{'jpg' if measured.codec == 'jpeg' else 'png'}"
                assert row["sha256"] == hashlib.sha256(data).hexdigest()
                assert row["source_sha256"] == facts[row["id"]]["sha256"]
                assert (row["width"], row["height"], int(row["phash"], 16)) == (measured.width, measured.height, measured.phash)
                if view == "native":
                    assert data == born[row["id"]]
                else:
                    assert (measured.codec, row["width"], row["height"]) == ("jpeg", 64, 64)


def test_shards_are_sorted_by_id_with_small_row_groups_a_page_index_and_plain_image_bytes(made: tuple[Store, Path]) -> None:
    _, folder = made
    for path in folder.glob("data/*/*.parquet"):
        with pq.ParquetFile(path) as file:
            ids = file.read(columns=["id"])["id"].to_pylist()
            group = file.metadata.row_group(0)
        columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        assert ids == sorted(ids)
        assert group.num_rows <= 100
        assert columns["image.bytes"].statistics is None
        assert not columns["image.bytes"].has_dictionary_page
        assert columns["image.bytes"].compression == "UNCOMPRESSED"
        assert columns["label"].has_offset_index
        assert columns["label"].has_column_index


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_gives_images_and_class_names(
    made: tuple[Store, Path], streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    _, folder = made
    default = datasets.load_dataset(str(folder), streaming=streaming, cache_dir=str(tmp_path))
    native = datasets.load_dataset(str(folder), "native", streaming=streaming, cache_dir=str(tmp_path))
    assert list(default) == ["train", "calibration", "test"]
    assert default["train"].features["label"].names == ["real", "synthetic"]
    assert default["train"].features["generator"].names == ["real", "tiny-gan"]
    assert default["train"].features["content_type"].names == ["paintings", "photos"]
    rows = {row["id"]: row for row in default["test"]}
    assert len(rows) == 6
    assert {row["image"].size for row in rows.values()} == {(64, 64)}
    assert {row["image"].size for row in native["test"]} == {(84, 72)}
    assert all((row["prompt"] == HOSTILE) == (row["label"] == 1) for row in rows.values())


def test_the_card_agrees_with_the_schema_and_survives_hostile_names(made: tuple[Store, Path]) -> None:
    datasets, yaml = pytest.importorskip("datasets"), pytest.importorskip("yaml")
    _, folder = made
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["pretty_name"] == 'A | test: "set"'
    assert (front["license"], front["size_categories"]) == ("other", ["n<1K"])
    named = [(c["config_name"], c.get("default", False)) for c in front["configs"]]
    assert named == [("equalized", True), ("native", False), ("full", False), ("metadata", False)]
    for entry in front["dataset_info"][:2]:
        paths = release.shards(folder, entry["config_name"])
        declared = datasets.Features._from_yaml_list(entry["features"])
        for path in (p for group in paths.values() for p in group):
            assert declared == datasets.Features.from_arrow_schema(pq.read_schema(path))
        counted = {split: sum(pq.read_metadata(p).num_rows for p in group) for split, group in paths.items()}
        assert {s["name"]: s["num_examples"] for s in entry["splits"]} == counted
        assert entry["download_size"] == sum(p.stat().st_size for group in paths.values() for p in group)
    assert release.read_manifest(folder)["digest"] in text
    assert "| twin | 1 |" in text
    assert "| CC0-1.0 | 12 | 0 |" in text


def test_the_composition_table_adds_up(made: tuple[Store, Path]) -> None:
    import pandas as pd

    _, folder = made
    table = pd.read_csv(folder / "composition.csv")
    assert int(table["rows"].sum()) == 23
    assert table.groupby("label")["rows"].sum().to_dict() == {"real": 12, "synthetic": 11}


def test_what_is_left_out_is_listed_with_its_reason(made: tuple[Store, Path]) -> None:
    _, folder = made
    rows = pq.read_table(folder / "rejects.parquet").to_pylist()
    assert [(r["stage"], r["reason"], r["source_key"]) for r in rows] == [
        ("balance", "twin", None),
        ("collect", "truncated", "album/x"),
    ]


@pytest.mark.parametrize(("parts", "backwards"), [(1, False), (7, True)])
def test_the_digest_does_not_depend_on_parts(made: tuple[Store, Path], tmp_path: Path, parts: int, backwards: bool) -> None:
    _, folder = made
    store = work_folder(tmp_path / "w", parts=parts, backwards=backwards)
    publish(
        store,
        tmp_path / "r",
        rows_per_file=5,
        told=TOLD,
    )
    assert digests(tmp_path / "r") == digests(folder)


def eager(function: Callable[[Task], Rendered], tasks: Iterable[Task], /) -> Iterator[Rendered]:
    """Rendering in two other processes."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield from pool.imap(function, tasks, chunksize=4)


def test_the_digest_does_not_depend_on_where_images_are_rendered(made: tuple[Store, Path], tmp_path: Path) -> None:
    store, folder = made
    said = publish(store, tmp_path / "r", rows_per_file=5, map=eager)
    assert said.digest == release.read_manifest(folder)["digest"]


def test_publishing_again_changes_nothing_and_a_new_audit_changes_only_the_card(tmp_path: Path) -> None:
    store = work_folder(tmp_path / "w")
    out = tmp_path / "r"
    first = publish(store, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert publish(store, out).unchanged
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before
    gate = {"verdict": "passed", "value": 0.512, "limit": 0.55, "permutation95": 0.61, "groups": 24}
    probe = {"track": "origin", "view": "native", "probe": "extension", "scope": "all"}
    probes = [probe | {"balanced_accuracy": 1.0, "auc": 1.0, "ci95": [0.9, 1.0]}]
    again = publish(store, out, told=Told(audit={"gate": gate, "probes": probes}))
    assert not again.unchanged
    assert again.digest == first.digest
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet") if "data" in p.parts} == {
        p: t for p, t in before.items() if "data" in p.parts
    }
    assert "| native | extension | 1.000 | 1.000 | 0.900 to 1.000 |" in (out / "README.md").read_text()
    assert release.faults(out) == []


def test_a_damaged_release_is_written_again(tmp_path: Path) -> None:
    store = work_folder(tmp_path / "w")
    out = tmp_path / "r"
    publish(store, out)
    good = digests(out)
    victim = next(out.glob("data/native/*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-1])
    assert release.faults(out) == [f"{victim.relative_to(out).as_posix()}: its bytes are not those published"]
    assert not publish(store, out).unchanged
    assert digests(out) == good


def publish_in_process(root: Path) -> None:
    publish(Store(root / "w"), root / "r", rows_per_file=2)


def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    store = work_folder(tmp_path / "w")
    publish(store, tmp_path / "whole", rows_per_file=2)
    context = multiprocessing.get_context("fork" if os.environ.get("FORK") else "spawn")
    for wait in (0.0, 0.03, 0.1):
        process = context.Process(target=publish_in_process, args=(tmp_path,))
        process.start()
        end = time.monotonic() + 30
        while not list(tmp_path.glob("r.partial/data/**/*.parquet")) and process.is_alive() and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(wait)
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    publish(store, tmp_path / "r", rows_per_file=2)
    assert digests(tmp_path / "r") == digests(tmp_path / "whole")
    assert json.loads((tmp_path / "r" / "release.json").read_text()) == json.loads(
        (tmp_path / "whole" / "release.json").read_text()
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r", "w", "whole"]


def test_an_image_that_cannot_be_rendered_stops_the_release_and_is_named_unless_it_is_a_reject(tmp_path: Path) -> None:
    store = work_folder(tmp_path / "w")
    plan = store.plan().to_pylist()
    bad = next(r for r in plan if r["keep"] and r["origin"] == "real")
    bad["left"] = 500
    store.write_plan(plan)
    with pytest.raises(BuildError, match=rf"1 images .*{bad['id']} \(album/\d+\.jpg\)") as caught:
        publish(store, tmp_path / "r")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "r").exists()
    row = {"id": bad["id"], "stage": "publish", "origin": "real", "category": bad["category"], "generator_or_source": "album"}
    store.write_rejects("publish", "x", [row | {"source_key": None, "reason": "outside", "detail": "the crop lies outside"}])
    said = publish(store, tmp_path / "r")
    assert said.rows == 22
    assert ("publish", "outside") in {
        (r["stage"], r["reason"]) for r in pq.read_table(tmp_path / "r" / "rejects.parquet").to_pylist()
    }


def test_a_group_in_two_splits_is_refused(tmp_path: Path) -> None:
    store = work_folder(tmp_path / "w")
    store.write_plan([row | {"group": "one photograph"} for row in store.plan().to_pylist()])
    with pytest.raises(BuildError, match="1 groups stand in more than one split, such as one photograph"):
        publish(store, tmp_path / "r")


def test_bytes_that_changed_since_they_were_collected_are_refused(tmp_path: Path) -> None:
    store = work_folder(tmp_path / "w", parts=1)
    path = next((tmp_path / "w" / "parts").rglob("*.parquet"))
    table = pq.read_table(path)
    data = table["image"].to_pylist()
    data[0] = picture("another", "jpeg")
    pq.write_table(table.set_column(table.schema.get_field_index("image"), "image", [data]), path)
    with pytest.raises(BuildError, match="no longer those that were collected"):
        publish(store, tmp_path / "r", views=["native"])


def test_facts_of_a_rendered_image_are_its_own_whatever_was_said_of_the_bytes_it_was_made_from(tmp_path: Path) -> None:
    """Bytes are measured once, when they arrive; from then on their SHA-256 proves that they are the bytes those facts are of.

    A fact that somebody changed in a part afterwards is found by `balance --verify`, which measures every image again, and
    never becomes a fact of the `equalized` view: of what is made there, the facts are measured from what was made.
    """
    honest = publish(work_folder(tmp_path / "honest", parts=1), tmp_path / "r", views=["equalized"])
    store = work_folder(tmp_path / "w", parts=1)
    path = next((tmp_path / "w" / "parts").rglob("*.parquet"))
    table = pq.read_table(path)
    lies = [7, *table["phash"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.schema.get_field_index("phash"), "phash", pa.array(lies, pa.uint64())), path)
    assert publish(store, tmp_path / "lied", views=["equalized"]).digest == honest.digest


def test_one_view_alone_is_a_release(tmp_path: Path) -> None:
    store = work_folder(tmp_path / "w")
    said = publish(store, tmp_path / "r", views=["native"])
    assert list(said.views) == ["native"]
    assert not (tmp_path / "r" / "data" / "equalized").exists()


def test_a_folder_that_is_not_a_release_is_left_alone(tmp_path: Path) -> None:
    store = work_folder(tmp_path / "w")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="nothing was touched"):
        publish(store, tmp_path / "r")
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["thesis.tex"]


def test_a_file_laid_into_a_release_is_not_lost(tmp_path: Path) -> None:
    store = work_folder(tmp_path / "w")
    publish(store, tmp_path / "r")
    (tmp_path / "r" / "notes.txt").write_text("mine")
    assert release.faults(tmp_path / "r") == ["notes.txt: not in release.json"]
    with pytest.raises(UsageError, match=r"notes\.txt; move them away"):
        publish(store, tmp_path / "r")


def test_a_wrong_view_is_a_usage_error(made: tuple[Store, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose from equalized, native"):
        publish(made[0], tmp_path / "r", views=["equalised"])
