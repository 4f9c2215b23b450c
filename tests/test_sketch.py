"""The verb `sketch`: any target, labelled or not; what cannot be read is counted; nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import run
from pictures import encoded, picture

from imaginet_build import sketch
from imaginet_build.duplicates import contamination
from imaginet_build.errors import UsageError

HELD = {f"{i}.png": encoded(picture(i)) for i in range(4)}


def folder(place: Path) -> Path:
    place.mkdir(parents=True)
    for name, data in HELD.items():
        (place / name).write_bytes(data)
    return place


def index(place: Path) -> Path:
    lines = ["path,origin,category,generator", *(f"{name},real,photos," for name in HELD)]
    (folder(place) / "index.csv").write_text("\n".join(lines) + "\n")
    return place


def index_file(place: Path) -> Path:
    return index(place) / "index.csv"


def annotations(place: Path) -> Path:
    lines = [f"{name},{i % 2}" for i, name in enumerate(HELD)]
    (folder(place) / "list.txt").write_text("\n".join(lines) + "\n")
    return place / "list.txt"


def release(place: Path) -> Path:
    (place / "data" / "native").mkdir(parents=True)
    images = [{"bytes": data, "path": name} for name, data in HELD.items()]
    pq.write_table(pa.table({"image": images}), place / "data" / "native" / "train-00000-of-00001.parquet")
    return place


def shard(place: Path) -> Path:
    return release(place) / "data" / "native" / "train-00000-of-00001.parquet"


@pytest.mark.parametrize("kind", [folder, index, index_file, annotations, release, shard])
def test_any_target_gives_the_same_hashes(kind: object, tmp_path: Path) -> None:
    target = kind(tmp_path / "target")  # type: ignore[operator]
    done = sketch.sketch(target, tmp_path / "out.parquet")
    assert (done.count, done.unreadable) == (4, {})
    found = contamination.read(tmp_path / "out.parquet")
    assert [path.rpartition("/")[2] for path in found.table["path"].to_pylist()] == sorted(HELD)
    assert found.name
    (said,) = sketch.contaminated([folder(tmp_path / "again")], [tmp_path / "out.parquet"])
    assert (said.equal, said.near) == (4, 0)


def test_what_cannot_be_read_is_counted_and_the_exit_code_says_so(tmp_path: Path) -> None:
    target = folder(tmp_path / "target")
    (target / "text.jpg").write_text("no image")
    (target / "empty.png").write_bytes(b"")
    (target / "out.png").symlink_to("/etc/hostname")
    done = run("sketch", target, "--out", "x.parquet", "--name", "toy", "--edition", "v1", "--json", cwd=tmp_path, code=1)
    said = json.loads(done.stdout)
    assert (said["name"], said["version"], said["count"]) == ("toy", "v1", 4)
    assert said["unreadable"] == {"empty": 1, "not-an-image": 1, "outside-root": 1}
    assert "4 images of toy v1" in run("sketch", target, "--out", "x.parquet", "--name", "toy", "--edition", "v1",
                                       cwd=tmp_path, code=1).stdout  # fmt: skip


def test_what_is_no_target_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "list.txt").write_text("a.png,0\nb.png,1\n")
    (tmp_path / "image.png").write_bytes(HELD["0.png"])
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "words.parquet")
    for target, message in (
        (tmp_path / "nowhere", "no such file or folder"),
        (empty, "holds no image to sketch"),
        (tmp_path / "list.txt", r"of 2 none could be read \(missing\)"),
        (tmp_path / "image.png", "holds no data set"),
        (tmp_path / "words.parquet", "has no column image"),
    ):
        with pytest.raises(UsageError, match=message):
            sketch.sketch(target, tmp_path / "out.parquet")
    with pytest.raises(UsageError, match="is a folder"):
        sketch.sketch(folder(tmp_path / "target"), empty)
    assert not (tmp_path / "out.parquet").exists()
