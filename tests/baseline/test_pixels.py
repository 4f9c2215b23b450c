"""Every form in which a training crop is reached gives the pixels of a full decode."""

from __future__ import annotations

import io
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from metadata import exif, segment, with_segments
from pictures import jpeg, picture, png

from imaginet_build import images
from imaginet_build.baseline import pixels
from imaginet_build.baseline.data import Crops, places_of, splits
from imaginet_build.errors import BadImage
from imaginet_build.imagefiles import crops, tiles

FILES: dict[str, bytes] = {
    "marked": images.encode(picture("marked", 200, 160), "jpeg", 90),
    "plain": jpeg("plain", 200, 160),
    "turned": with_segments(jpeg("turned", 160, 200), segment(0xE1, exif(t0112=6).tobytes())),
    "png": png("png", 201, 161),
}


def webp() -> bytes:
    out = io.BytesIO()
    picture("webp", 200, 160).save(out, "WEBP", quality=80)
    return out.getvalue()


FILES["webp"] = webp()


def shard(path: Path, files: list[bytes | None]) -> Path:
    """As `publish` writes them: whole images, uncompressed, without dictionary, in small row groups."""
    cells = [None if data is None else {"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(files)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": pa.array(cells, kind)})
    pq.write_table(table, path, row_group_size=3, compression="none", use_dictionary=False)
    return path


def whole(data: bytes) -> np.ndarray:
    return np.asarray(images.decode(data))


@pytest.mark.parametrize("name", FILES)
def test_a_prepared_file_is_quick_and_has_every_pixel(name: str) -> None:
    ready = pixels.prepare(FILES[name])
    assert crops.quick(ready)
    assert (ready is FILES[name]) == (name == "marked")
    assert np.array_equal(crops.crop(ready, 7, 11, 96, 96), whole(FILES[name])[11:107, 7:103])


def test_without_jpegtran_or_with_a_broken_one_tiles_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pixels.prepare(FILES["plain"])[:8] == tiles.MAGIC
    program = tmp_path / "jpegtran"
    for does in ("exit 3", "printf nonsense", f"printf '{FILES['marked'][:2].hex()}'"):
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        assert pixels.prepare(FILES["plain"])[:8] == tiles.MAGIC


def test_a_jpegtran_that_changes_pixels_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.jpg").write_bytes(images.encode(picture("other", 200, 160), "jpeg", 90))
    (tmp_path / "jpegtran").write_text(f"#!/bin/sh\nexec /bin/cat '{tmp_path}/other.jpg'\n")
    (tmp_path / "jpegtran").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    ready = pixels.prepare(FILES["plain"])
    assert np.array_equal(crops.crop(ready, 0, 0, 200, 160), whole(FILES["plain"]))


def test_rows_of_several_shards_are_found_and_marked_files_are_not_copied(tmp_path: Path) -> None:
    first = shard(tmp_path / "data/train-00000.parquet", [FILES["marked"], FILES["plain"], FILES["marked"], FILES["png"]])
    second = shard(tmp_path / "data/train-00001.parquet", [FILES["webp"], *[FILES["marked"]] * 4])
    places = places_of([first, second])
    order = [places[i] for i in (8, 1, 3, 4, 0, 2, 6)]
    data = [FILES[n] for n in ("marked", "plain", "png", "webp", "marked", "marked", "marked")]
    made = pixels.index(order, tmp_path / "pixels")
    for row, file in enumerate(data):
        assert np.array_equal(made.crop(row, 30, 20, 96), whole(file)[20:116, 30:126])
    copied = {path.name.split(".")[0]: path.stat().st_size for path in (tmp_path / "pixels").glob("*.pixels")}
    assert copied == {
        "train-00000": sum(len(pixels.prepare(FILES[n])) for n in ("plain", "png")),
        "train-00001": len(pixels.prepare(FILES["webp"])),
    }


def test_an_index_is_made_once_and_anew_for_another_shard(tmp_path: Path) -> None:
    path = shard(tmp_path / "train.parquet", [FILES["png"]])
    kept = tmp_path / "pixels"
    pixels.index(places_of([path]), kept)
    before = {p.name: p.stat().st_mtime_ns for p in kept.iterdir()}
    pixels.index(places_of([path]), kept)
    assert {p.name: p.stat().st_mtime_ns for p in kept.iterdir()} == before
    shard(path, [FILES["webp"], FILES["marked"]])
    made = pixels.index(places_of([path]), kept)
    assert np.array_equal(made.crop(0, 0, 0, 50), whole(FILES["webp"])[:50, :50])
    assert len(list(kept.iterdir())) == 2
    assert not before.keys() & {p.name for p in kept.iterdir()}


def test_a_killed_index_is_made_again(tmp_path: Path) -> None:
    path = shard(tmp_path / "train.parquet", [FILES["png"]])
    made = pixels.index(places_of([path]), tmp_path / "pixels")
    table = next((tmp_path / "pixels").glob("*.npy"))
    table.unlink()
    (tmp_path / "pixels" / f".{made.files[1].name}.{os.getpid() + 1}").write_bytes(b"half")
    again = pixels.index(places_of([path]), tmp_path / "pixels")
    assert np.array_equal(again.crop(0, 1, 2, 64), made.crop(0, 1, 2, 64))


def test_a_broken_image_is_named_when_it_is_cut_and_not_before(tmp_path: Path) -> None:
    path = shard(tmp_path / "train.parquet", [FILES["png"][:-40], FILES["marked"]])
    made = pixels.index(places_of([path]), tmp_path / "pixels")
    with pytest.raises(BadImage):
        made.crop(0, 0, 0, 64)
    assert made.crop(1, 0, 0, 64).shape == (64, 64, 3)


def test_training_sees_the_same_crops_from_files_as_from_memory(tiny: Path, tmp_path: Path) -> None:
    rows = splits(tiny)["train"]
    options: dict[str, Any] = {"crop": 32, "seed": 0, "augmentation": "paper"}
    memory = Crops(rows, **options)
    cut = Crops(rows, **options, index=tmp_path / "pixels", budget=0)
    decoded = Crops(rows, **options, budget=0)
    drawn = [(row, turn) for row in range(len(rows)) for turn in (0, 1)]
    assert np.array_equal(cut.batch(drawn), memory.batch(drawn))
    assert np.array_equal(decoded.batch(drawn), memory.batch(drawn))
    assert list((tmp_path / "pixels").glob("*.npy"))


def test_one_row_group_is_not_read_for_another(
    write_release: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the index there, no crop opens a Parquet file."""
    rows = splits(write_release(tmp_path / "release", {"train": 20}))["train"]
    cut = Crops(rows, 32, 0, "none", tmp_path / "pixels", budget=0)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a Parquet file was opened")

    monkeypatch.setattr(pq, "ParquetFile", refuse)
    assert cut.batch([(row, 0) for row in range(20)]).shape == (20, 3, 32, 32)


@pytest.mark.skipif(shutil.which("jpegtran") is None, reason="no jpegtran here")
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 35}])
def test_jpegtran_marks_a_jpeg_for_less_room_than_tiles(options: dict[str, Any]) -> None:
    file = jpeg("real", 203, 165, **options)
    ready = pixels.prepare(file)
    assert ready[:2] == b"\xff\xd8"
    assert len(ready) < 1.1 * len(file)
    assert np.array_equal(whole(ready), whole(file))
