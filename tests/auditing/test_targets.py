"""Whatever a person points at becomes a table of facts, and what cannot be read is listed."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imaginet_build import images
from imaginet_build.auditing.facts import FACTS, Measured, Task, measure
from imaginet_build.auditing.probes import remedy
from imaginet_build.auditing.targets import read, read_pair
from imaginet_build.errors import BuildError, MissingExtra, UsageError
from imaginet_build.records import FACT_SCHEMA, Refusal
from imaginet_build.releases.release import Names, schema
from imaginet_build.store import Store


def picture(seed: int, codec: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, codec)
    return held.getvalue()


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pair(root: Path) -> tuple[Path, Path]:
    folder_of(root, {"r/1.jpg": picture(1), "r/deep/2.jpg": picture(2)})
    folder_of(root, {"f/sdxl/3.png": picture(3, "PNG"), "f/4.webp": picture(4, "WEBP"), "f/notes.txt": b"no image"})
    return root / "r", root / "f"


def release_of(root: Path, view: str, rows: list[tuple[int, bytes | None]]) -> Path:
    names = Names.of(["photos"], ["gan"], ["tiny"])
    shape = schema(names)
    table = []
    for i, (label, data) in enumerate(rows):
        row: dict[str, object] = dict.fromkeys(shape.names)
        row |= {"image": {"bytes": data, "path": f"{i:032x}.jpg"}, "label": label, "content_type": 0, "id": f"{i:032x}"}
        row |= {"family": label, "generator": label, "group": f"g{i // 2}"}
        table.append(row)
    path = root / "data" / view / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(table, schema=shape), path, row_group_size=3)
    return root


def test_two_plain_folders(tmp_path: Path) -> None:
    target = read_pair(*pair(tmp_path))
    assert target.kind == "pair"
    assert target.table.schema == FACTS
    assert target.table.select(["path", "origin", "generator", "codec", "extension"]).to_pylist() == [
        {"path": "r/1.jpg", "origin": "real", "generator": None, "codec": "jpeg", "extension": "jpg"},
        {"path": "r/deep/2.jpg", "origin": "real", "generator": None, "codec": "jpeg", "extension": "jpg"},
        {"path": "f/4.webp", "origin": "synthetic", "generator": "f", "codec": "webp", "extension": "webp"},
        {"path": "f/sdxl/3.png", "origin": "synthetic", "generator": "sdxl", "codec": "png", "extension": "png"},
    ]
    assert target.table["width"].to_pylist() == [64] * 4


def test_a_target_knows_the_command_that_makes_it_anew(tmp_path: Path) -> None:
    real, fake = pair(tmp_path / "my images")
    assert read_pair(real, fake).command == f"build-imaginet run --real '{real}' --fake '{fake}'"
    folder_of(tmp_path, {"index.csv": b"path,origin\nmy images/r/1.jpg,real\nmy images/f/4.webp,fake\n"})
    assert read(tmp_path).command == f"build-imaginet run pipelines/folders.toml --set root={tmp_path}"


def test_what_holds_no_images_as_they_came_says_what_to_give_and_ends_in_the_command(tmp_path: Path) -> None:
    """A placeholder, where there must be one, is the last word; everything else is typed as it stands."""
    made = "build-imaginet run pipelines/folders.toml --set root=FOLDER"
    (tmp_path / "one.csv").write_text("path,origin\na.jpg,real\nb.png,synthetic\n")
    rows: list[tuple[int, bytes | None]] = [(i % 2, picture(i)) for i in range(4)]
    release_of(tmp_path / "alone", "native", rows)
    for target in (read(tmp_path / "one.csv"), read(tmp_path / "alone")):
        prose, command = remedy("extension", target.views[0], target.command).rsplit(": ", 1)
        assert command == made
        assert prose.endswith("in the subfolders real and synthetic")
        assert "build-imaginet" not in prose
    work = work_of(tmp_path / "work", plan=True)
    release_of(work / "release", "native", rows)
    again = f"build-imaginet balance --work {work} && build-imaginet publish --work {work}"
    assert read(work).command == read(work / "release").command == again


def test_a_folder_with_real_and_fake_in_it_is_such_a_pair(tmp_path: Path) -> None:
    real, fake = pair(tmp_path)
    real.rename(tmp_path / "real")
    fake.rename(tmp_path / "Fake")
    assert len(read(tmp_path).table) == 4


def test_the_same_pixels_are_one_witness(tmp_path: Path) -> None:
    folder_of(tmp_path, {"r/1.jpg": picture(1), "r/copy.jpg": picture(1), "f/2.png": picture(2, "PNG")})
    groups = read_pair(tmp_path / "r", tmp_path / "f").table["group"].to_pylist()
    assert groups[0] == groups[1] != groups[2]


@pytest.mark.parametrize(("real", "fake"), [("r", "r"), ("r", "r/deep"), (".", "f")])
def test_overlapping_folders_are_refused(tmp_path: Path, real: str, fake: str) -> None:
    pair(tmp_path)
    with pytest.raises(UsageError, match="overlap"):
        read_pair(tmp_path / real, tmp_path / fake)


def test_an_index_may_name_anything_and_breaks_nothing(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path / "root",
        {
            "a.jpg": picture(1),
            "b.png": picture(2, "PNG"),
            "cut.jpg": picture(3)[:700],
            "empty.jpg": b"",
            "text.jpg": b"hello",
            "dir/x": b"",
        },
    )
    (tmp_path / "secret.jpg").write_bytes(picture(9))
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    lines = [
        "path,origin", "a.jpg,real", "b.png,synthetic", "cut.jpg,real", "empty.jpg,real", "text.jpg,real", "dir,real",
        "gone.jpg,real", "../secret.jpg,real", "link.jpg,real", "loop.jpg,real",
        f"{tmp_path}/secret.jpg,real", "a.jpg,real", "a.jpg,maybe",
    ]  # fmt: skip
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    target = read(root)
    assert target.table["path"].to_pylist() == ["a.jpg", "b.png"]
    reasons = {u.path: u.reason for u in target.unreadable if u.path != "a.jpg"}
    assert reasons["../secret.jpg"] == reasons["link.jpg"] == reasons[f"{tmp_path}/secret.jpg"] == "outside-root"
    assert reasons["gone.jpg"] == reasons["loop.jpg"] == "missing"
    assert reasons["dir"] == "not-a-file"
    assert {"cut.jpg", "empty.jpg", "text.jpg"} <= reasons.keys()
    assert sorted(u.reason for u in target.unreadable if u.path == "a.jpg") == ["listed-twice", "unknown-origin"]
    assert read(root / "index.csv").table.equals(target.table)


def test_a_release_has_views_and_names_for_its_labels(tmp_path: Path) -> None:
    rows = [(i % 2, picture(i)) for i in range(5)]
    release_of(tmp_path, "native", rows)
    release_of(tmp_path, "equalized", rows[:4])
    target = read(tmp_path)
    assert target.kind == "release"
    assert target.views == ["equalized", "native"]
    assert target.table["view"].to_pylist() == ["equalized"] * 4 + ["native"] * 5
    assert target.table["origin"].to_pylist()[:4] == ["real", "synthetic"] * 2
    assert target.table["generator"].to_pylist()[:4] == [None, "tiny"] * 2
    assert target.table["group"].to_pylist()[:4] == ["g0", "g0", "g1", "g1"]
    assert target.table["content_type"].to_pylist() == ["photos"] * 9


def test_a_release_inside_a_work_folder_is_found(tmp_path: Path) -> None:
    release_of(tmp_path / "release", "equalized", [(i % 2, picture(i)) for i in range(4)])
    assert read(tmp_path).kind == "release"


def test_images_without_pixels_or_broken_are_listed(tmp_path: Path) -> None:
    release_of(tmp_path, "native", [(0, picture(0)), (1, None), (0, b"broken"), (1, picture(1))])
    target = read(tmp_path)
    assert len(target.table) == 2
    assert sorted(u.path for u in target.unreadable) == [f"{1:032x}.jpg", f"{2:032x}.jpg"]
    assert "withheld" in {u.reason for u in target.unreadable}


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    shard = tmp_path / "data" / "native" / "train-00000-of-00001.parquet"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"PAR1 but not really")
    with pytest.raises(BuildError, match=shard.name):
        read(tmp_path)


def work_of(root: Path, plan: bool) -> Path:
    store = Store(root)
    rows, held = [], []
    for i in range(4):
        data = picture(i)
        facts = images.measure(data)
        row: dict[str, object] = dict.fromkeys(FACT_SCHEMA.names)
        row |= {n: getattr(facts, n) for n in facts.__slots__} | {"metadata": ",".join(facts.metadata)}
        row |= {
            "id": f"{i:032x}",
            "origin": ["real", "synthetic"][i % 2],
            "category": "faces",
            "licence": "CC0",
            "revision": "1",
        }
        row |= {"params": "{}", "group": f"g{i}", "extension": "jpg", "generator": ["", "tiny"][i % 2] or None}
        rows.append(row)
        held.append(data)
    store.write_part("collect", "0", rows, held)
    if plan:
        usual = {"category": "faces", "generator_or_source": "x", "split": "train"}
        store.write_plan(
            [
                usual
                | {"id": f"{i:032x}", "keep": i < 3, "reason": None if i < 3 else "twin", "origin": "real", "group": "one"}
                for i in range(4)
            ]
        )
    return root


@pytest.mark.parametrize("plan", [False, True])
def test_a_work_folder_is_its_parts_as_native(tmp_path: Path, plan: bool) -> None:
    target = read(work_of(tmp_path, plan))
    assert (target.kind, target.views) == ("work", ["native"])
    assert target.table["origin"].to_pylist() == ["real", "synthetic", "real", "synthetic"][: 3 if plan else 4]
    assert target.table["content_type"].to_pylist()[0] == "faces"
    assert set(target.table["group"].to_pylist()) == ({"one"} if plan else {"g0", "g1", "g2", "g3"})


def test_measuring_can_be_spread_by_the_caller(tmp_path: Path) -> None:
    seen: list[Task] = []

    def mapped(function: Callable[[Task], Measured], tasks: Iterable[Task]) -> Iterator[Measured]:
        held = list(tasks)
        seen.extend(held)
        yield from [function(t) for t in held]

    real, fake = pair(tmp_path)
    assert read_pair(real, fake, mapped).table.equals(read_pair(real, fake).table)
    release_of(tmp_path / "out", "native", [(i % 2, picture(i)) for i in range(4)])
    assert read(tmp_path / "out", mapped).table.equals(read(tmp_path / "out").table)
    assert len(seen) == 8


def test_measuring_never_raises_for_what_a_file_holds(tmp_path: Path) -> None:
    assert isinstance(measure(b""), Refusal)
    assert isinstance(measure(tmp_path / "gone"), Refusal)
    assert isinstance(measure(tmp_path), Refusal)


def test_a_wrong_path_names_the_nearest_one(tmp_path: Path) -> None:
    pair(tmp_path)
    (tmp_path / "release-2").mkdir()
    with pytest.raises(UsageError, match=r"; did you mean 'release-2'\? An audit takes .*audit --real"):
        read(tmp_path / "relaese-2" / "data")
    with pytest.raises(UsageError, match=r"--fake .*; did you mean 'release-2'\? Give the folder"):
        read_pair(tmp_path / "r", tmp_path / "release2")
    with pytest.raises(UsageError, match=r"no such file or folder: \S+zzzzzz\. An audit takes"):
        read(tmp_path / "zzzzzz")


@pytest.mark.parametrize("files", [{}, {"x.jpg": b""}, {"sub/x.jpg": b""}])
def test_a_folder_that_says_nothing_is_a_usage_error(tmp_path: Path, files: dict[str, bytes]) -> None:
    folder_of(tmp_path, files)
    with pytest.raises(UsageError, match="audit --real DIR --fake DIR"):
        read(tmp_path)


def test_one_class_alone_is_a_usage_error(tmp_path: Path) -> None:
    folder_of(tmp_path, {"r/1.jpg": picture(1), "f/readme.md": b""})
    with pytest.raises(UsageError, match="no synthetic ones"):
        read_pair(tmp_path / "r", tmp_path / "f")


def test_an_image_is_no_list(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.jpg": picture(1)})
    with pytest.raises(UsageError, match="build-imaginet detect"):
        read(tmp_path / "a.jpg")


def test_a_hub_id_needs_the_hub_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"imaginet-build\[hub\]"):
        read("somebody/some-images")


def test_a_hub_that_cannot_be_reached_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def offline(*_: object, **__: object) -> str:
        raise OSError("offline mode is enabled")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(UsageError, match=r"somebody/some-images.*offline"):
        read("somebody/some-images")
