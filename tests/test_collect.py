"""`collect`: whatever a folder holds ends up as an image with its bytes as delivered, or as a reject with a reason."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from deadly import AfterWriting, Deadly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inline import Inline, Interrupted
from pictures import animated, bomb, encoded, jpeg, picture, png, with_hole, write
from PIL import Image, ImageCms

from imaginet_build import collect as module
from imaginet_build import engine, images
from imaginet_build.collect import collect, folders
from imaginet_build.collectors.folder import Folder
from imaginet_build.engine import Pool
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.recipe import Collect
from imaginet_build.records import Want
from imaginet_build.store import Store, StoreError

ONE = Pool(workers=1)


def entry(root: Path, count: int | None = None, category: str | None = None, **options) -> Collect:
    return Collect(source="folder", count=count, category=category, options={"root": str(root), **options})


def held(store: Store) -> dict[str, tuple[str, bytes]]:
    """id -> source key and bytes."""
    keys = dict(zip(*(store.facts(["id", "source_key"])[c].to_pylist() for c in ("id", "source_key")), strict=True))
    return {name: (keys[name], data) for name, data in store.images(store.in_part_order(keys))}


def reasons(store: Store) -> dict[str, str]:
    return {r["source_key"]: r["reason"] for r in store.rejects().to_pylist()}


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Inline:
    """No processes: for what does not depend on them."""
    run = Inline()
    monkeypatch.setattr(engine, "run", run)
    return run


# --- everything a folder may hold, in one run -------------------------------------------------------------------------


def _wide_gamut() -> bytes:
    """Linear sRGB primaries swapped: an honest profile that is far from sRGB."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for number in range(struct.unpack(">I", profile[128:132])[0]):
        name, at, size = struct.unpack(">4sII", profile[132 + 12 * number : 144 + 12 * number])
        tags[name] = (132 + 12 * number, at, size)
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red[0] + 4 : red[0] + 12], profile[green[0] + 4 : green[0] + 12] = (
        profile[green[0] + 4 : green[0] + 12],
        profile[red[0] + 4 : red[0] + 12],
    )
    return bytes(profile)


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg("rotated", 120, 80, exif=exif)


def _palette() -> bytes:
    image = picture("palette").quantize(32)
    return encoded(image, "PNG", transparency=3)


HONEST: dict[str, bytes] = {
    "plain.jpg": jpeg("plain"),
    "plain.png": png("png"),
    "cmyk.jpg": encoded(picture("cmyk").convert("CMYK"), "JPEG", quality=90),
    "sixteen.png": encoded(Image.fromarray(np.asarray(picture("16").convert("L")).astype(np.uint16) * 257), "PNG"),
    "palette.png": _palette(),
    "rotated.jpg": _rotated(),
    "wide.jpg": jpeg("wide", icc_profile=_wide_gamut()),
    "grey.jpg": encoded(picture("grey").convert("L"), "JPEG"),
    "a name with #1 and spaces.jpg": jpeg("named"),
    "really a png.jpg": png("misnamed"),
    "still.gif": encoded(picture("gif"), "GIF"),
    "still.webp": encoded(picture("webp"), "WEBP", quality=90),
    "whole.tif": encoded(picture("tiff"), "TIFF"),
    "whole.bmp": encoded(picture("bmp"), "BMP"),
}
BROKEN: dict[str, tuple[bytes, str]] = {
    "truncated.jpg": (jpeg("truncated", 300, 200)[:-4000], "truncated"),
    "zero.jpg": (b"", "empty"),
    "text.jpg": (b"<html><body>404 Not Found</body></html>", "not-an-image"),
    "hole.jpg": (with_hole(jpeg("hole", 300, 200, quality=95)), "corrupt"),
    "hole.png": (with_hole(png("hole", 300, 200)), "corrupt"),
    "bomb.png": (bomb(30_000, 30_000), "too-large"),
    "moving.gif": (animated("GIF"), "animated"),
    "moving.webp": (animated("WEBP"), "animated"),
    "thirty-two.tif": (encoded(Image.fromarray(np.ones((32, 32), np.float32)), "TIFF"), "unsupported"),
    "zeros.png": (bytes(4096), "not-an-image"),
    "noise.jpg": (b"\xff\xd8\xff" + bytes(range(256)) * 8, "corrupt"),
}
INDEX = [
    *((key, "real", "photos") for key in [*HONEST, *BROKEN] if "#" not in key),
    ("a name with #1 and spaces.jpg", "real", "photos"),
    ("plain.jpg", "real", "photos"),
    ("nowhere.jpg", "real", "photos"),
    ("../secret.jpg", "real", "photos"),
    ("leak.jpg", "real", "photos"),
    ("liar.jpg", "real", "photos"),
    ("unlabelled.jpg", "maybe", "photos"),
    ("misfiled.jpg", "real", "sculpture"),
    ("fake.jpg", "synthetic", "faces"),
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory):
    """One real run, with two workers, over all of it; three tests' worth of answers."""
    place = tmp_path_factory.mktemp("zoo")
    root = place / "images"
    for key, data in HONEST.items() | {(key, data) for key, (data, _) in BROKEN.items()}:
        write(root / key, data)
    for key in ("liar.jpg", "unlabelled.jpg", "misfiled.jpg", "fake.jpg"):
        write(root / key, jpeg(key))
    write(place / "secret.jpg", jpeg("secret"))
    (root / "leak.jpg").symlink_to(place / "secret.jpg")
    lines = ["path,origin,content_type,sha256"]
    lines += [f"{key},{origin},{category},{'0' * 64 if key == 'liar.jpg' else ''}" for key, origin, category in INDEX]
    write(root / "index.csv", "\n".join(lines).encode() + b"\nbroken\xff.jpg,real,photos,\n")
    store = Store(place / "work")
    return store, collect(store, [entry(root)], 0, Pool(workers=2))


def test_every_row_of_the_index_is_an_image_or_a_reject(zoo):
    store, done = zoo
    assert len(store.ids("collect")) == len(INDEX) + 1
    assert done.total == done.new == len(HONEST) + 1
    assert sum(done.rejected.values()) == store.rejects().num_rows == len(INDEX) + 1 - done.total


def test_bytes_are_kept_as_delivered(zoo):
    store, _ = zoo
    kept = dict(held(store).values())
    assert kept == HONEST | {"fake.jpg": jpeg("fake.jpg")}
    for row in store.facts(["source_key", "sha256", "nbytes"]).to_pylist():
        data = kept[row["source_key"]]
        assert (row["sha256"], row["nbytes"]) == (hashlib.sha256(data).hexdigest(), len(data))


def test_every_broken_input_is_a_reject_with_its_reason(zoo):
    store, _ = zoo
    line = 2 + INDEX.index(("plain.jpg", "real", "photos"), 5)
    assert reasons(store) == {key: reason for key, (_, reason) in BROKEN.items()} | {
        f"plain.jpg#{line}": "listed-twice",
        "nowhere.jpg": "missing",
        "../secret.jpg": "outside-root",
        "leak.jpg": "outside-root",
        "liar.jpg": "checksum",
        "unlabelled.jpg": "unknown-origin",
        "misfiled.jpg": "unknown-category",
        "broken\ufffd.jpg": "missing",
    }
    assert all(r["detail"] for r in store.rejects().to_pylist())
    assert len(BROKEN["bomb.png"][0]) < 250_000, "a bomb is a small file"


def test_a_rule_is_not_a_failure(zoo):
    """`failed` decides the exit code: what could not be read, not what a rule left out."""
    _, done = zoo
    by_rule = {"animated", "listed-twice", "unsupported"}
    assert done.failed == sum(count for reason, count in done.rejected.items() if reason not in by_rule)
    assert set(done.rejected) > by_rule


def test_facts_are_those_of_the_upright_image_and_the_delivered_file(zoo):
    store, _ = zoo
    rows = {r["source_key"]: r for r in store.facts().to_pylist()}
    assert (rows["rotated.jpg"]["width"], rows["rotated.jpg"]["height"]) == (80, 120)
    assert (rows["really a png.jpg"]["codec"], rows["really a png.jpg"]["extension"]) == ("png", "jpg")
    assert rows["a name with #1 and spaces.jpg"]["extension"] == "jpg"
    assert rows["cmyk.jpg"]["mode"] == "CMYK"
    assert rows["fake.jpg"]["family"] == "other"
    assert (rows["fake.jpg"]["generator"], rows["plain.jpg"]["generator"]) == ("unknown", None)
    assert rows["plain.jpg"]["pair_id"] == rows["plain.jpg"]["id"]
    assert "icc" in rows["wide.jpg"]["metadata"]


def test_what_is_kept_can_be_decoded_by_the_stated_rules(zoo):
    store, _ = zoo
    for key, data in held(store).values():
        image = images.decode(data)
        assert (image.mode, image.info) == ("RGB", {}), key


def test_a_second_call_finds_nothing_to_do(zoo, inline):
    store, done = zoo
    files = {path: path.stat().st_mtime_ns for path in store.root.rglob("*.parquet")}
    again = collect(store, [entry(store.root.parent / "images")], 0, ONE)
    assert (again.new, again.total, again.rejected, again.failed) == (0, done.total, done.rejected, done.failed)
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*.parquet")} == files


# --- names ------------------------------------------------------------------------------------------------------------


def gallery(root: Path, count: int = 10, bad: tuple[int, ...] = (), seed: object = "") -> Path:
    """A folder of small pictures, some of them cut short."""
    for number in range(count):
        data = png(f"{seed}{number}", 16, 16)
        kind = "faces" if number % 3 == 0 else "photos"
        write(root / kind / f"{number:03}.png", data[:-20] if number in bad else data)
    return root


def test_ids_do_not_depend_on_where_the_folder_lies_or_on_the_seed(tmp_path, inline):
    found = []
    for number, seed in enumerate((0, 0, 7)):
        store = Store(tmp_path / f"work{number}")
        collect(store, [entry(gallery(tmp_path / f"place{number}" / "images"), origin="real")], seed, ONE)
        found.append(held(store))
    assert found[0] == found[1] == found[2]


def test_different_seeds_take_different_images_for_a_quota(tmp_path, inline):
    root = gallery(tmp_path / "images", 20)
    taken = []
    for seed in (0, 1):
        store = Store(tmp_path / f"work{seed}")
        collect(store, [entry(root, count=6, origin="real")], seed, ONE)
        taken.append(store.ids())
    assert len(taken[0]) == len(taken[1]) == 6
    assert taken[0] != taken[1]


def test_two_folders_with_equal_names_in_them_do_not_collide(tmp_path, inline):
    """Also where the entries differ in nothing but the place."""
    roots = [gallery(tmp_path / name, 4, seed=name) for name in ("a", "b")]
    store = Store(tmp_path / "work")
    done = collect(store, [entry(root, origin="real") for root in roots], 0, ONE)
    assert done.total == 8
    assert len({data for _, data in held(store).values()}) == 8
    assert collect(store, [entry(root, origin="real") for root in roots], 0, ONE).new == 0


def test_real_and_fake_folders_are_two_entries_whose_images_do_not_collide(tmp_path, inline):
    real, fake = gallery(tmp_path / "r", 4, seed="r"), gallery(tmp_path / "f", 4, seed="f")
    store = Store(tmp_path / "work")
    collect(store, folders(real, fake), 0, ONE)
    origins = store.facts(["origin", "source_key"]).to_pylist()
    assert sorted((r["origin"], r["source_key"]) for r in origins) == sorted(
        (origin, f"{'faces' if n % 3 == 0 else 'photos'}/{n:03}.png") for origin in ("real", "synthetic") for n in range(4)
    )


def test_folders_are_checked_before_anything_starts(tmp_path):
    here = gallery(tmp_path / "a", 1)
    with pytest.raises(UsageError, match="--real and --fake each name a folder"):
        folders(here, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="are the same folder"):
        folders(here, tmp_path / "a" / ".." / "a")


def test_a_folder_that_is_not_there_stops_everything_before_it_starts(tmp_path):
    store = Store(tmp_path / "work")
    with pytest.raises(UsageError, match="no folder"):
        collect(store, [entry(gallery(tmp_path / "images")), entry(tmp_path / "imagse")], 0, ONE)
    assert not store.root.exists()


# --- quotas -----------------------------------------------------------------------------------------------------------


def test_a_quota_is_filled_past_any_run_of_unreadable_images(tmp_path, inline):
    """The first that can be read, in the seeded order, however many cannot in between."""
    root = gallery(tmp_path / "images", 30)
    keys = [found.source_key for found in Folder(str(root), origin="real").find(Want("folder", None, 0))]
    good = [keys[0], keys[1], keys[-2], keys[-1]]
    for key in keys[2:-2]:
        write(root / key, b"")
    store = Store(tmp_path / "work")
    done = collect(store, [entry(root, count=3, origin="real")], 0, ONE)
    assert sorted(key for key, _ in held(store).values()) == sorted(good[:3])
    assert done.rejected == {"empty": 26}


def test_a_quota_that_the_source_cannot_fill_is_said(tmp_path, inline, caplog):
    store = Store(tmp_path / "work")
    assert collect(store, [entry(gallery(tmp_path / "images", 3, bad=(1,)), count=9, origin="real")], 0, ONE).total == 2
    assert "folder: asked for 9, the source has 2 that can be used" in caplog.text


def test_quotas_of_several_categories_of_one_source_are_counted_apart(tmp_path, inline):
    root = gallery(tmp_path / "images", 30)
    wants = [entry(root, 6, "photos", origin="real"), entry(root, 4, "faces", origin="real")]
    store = Store(tmp_path / "work")
    assert collect(store, wants, 0, ONE).total == 10
    assert sorted(store.facts(["category"])["category"].to_pylist()) == ["faces"] * 4 + ["photos"] * 6
    assert collect(store, wants, 0, ONE).new == 0


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_quota_takes_the_same_images_whatever_was_interrupted(tmp_path_factory, monkeypatch, data):
    bad = tuple(data.draw(st.sets(st.integers(0, 19), max_size=14)))
    count = data.draw(st.integers(1, 22))
    segment = data.draw(st.integers(1, 5))
    place = tmp_path_factory.mktemp("quota")
    root = gallery(place / "images", 20, bad)
    monkeypatch.setattr(module, "SEGMENT_IMAGES", segment)
    wants = [entry(root, count, "photos", origin="real"), entry(root, count, origin="real")]
    monkeypatch.setattr(engine, "run", Inline())
    calm = Store(place / "calm")
    collect(calm, wants, 3, ONE)
    stormy = Store(place / "stormy")
    for attempt in range(40):
        monkeypatch.setattr(engine, "run", Inline(attempt, data.draw(st.integers(0, 3)) if attempt < 6 else None))
        try:
            collect(stormy, wants, 3, ONE)
            break
        except Interrupted:
            continue
    assert held(stormy) == held(calm)
    assert stormy.rejects().equals(calm.rejects())
    assert stormy.facts().equals(calm.facts())


# --- workers that die, disks that are full ----------------------------------------------------------------------------


def test_a_file_that_kills_its_worker_is_a_reject_and_its_neighbours_are_kept(tmp_path, monkeypatch):
    """As a bug in a decoder would; every process that touches it dies."""
    monkeypatch.setenv("KILLER_SHA256", hashlib.sha256(png("killer", 16, 16)).hexdigest())
    root = gallery(tmp_path / "images", 3)
    write(root / "photos" / "killer.png", png("killer", 16, 16))
    store = Store(tmp_path / "work")
    monkeypatch.setattr(module._Arrive, "worker", property(Deadly))
    done = collect(store, [entry(root, origin="real")], 0, ONE)
    assert (done.new, done.rejected, done.failed) == (3, {"killed-the-worker": 1}, 1)
    assert reasons(store) == {"photos/killer.png": "killed-the-worker"}
    (row,) = store.rejects().to_pylist()
    assert "SIGKILL" in row["detail"]


def test_a_full_disk_ends_the_run_in_words_and_refuses_no_image(tmp_path, inline, monkeypatch):
    store = Store(tmp_path / "work")
    root = gallery(tmp_path / "images", 5)

    def full(*_, **__):
        raise StoreError("cannot write parts/x.parquet: No space left on device. What was finished is kept; run again to go on")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write_part", full)
        with pytest.raises(BuildError, match="No space left on device"):
            collect(store, [entry(root, origin="real")], 0, ONE)
    assert store.rejects().num_rows == 0
    assert collect(store, [entry(root, origin="real")], 0, ONE).total == 5


def test_a_worker_that_dies_when_its_part_is_in_place_leaves_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(module._Arrive, "worker", property(AfterWriting))
    store = Store(tmp_path / "work")
    done = collect(store, [entry(gallery(tmp_path / "images", 4), origin="real")], 0, ONE)
    assert (done.new, done.rejected) == (4, {})
    assert store.facts().num_rows == 4


def test_the_same_bytes_for_any_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SEGMENT_IMAGES", 3)
    root = gallery(tmp_path / "images", 12, bad=(3, 4))
    answers = []
    for workers in (1, 3):
        store = Store(tmp_path / f"work{workers}")
        collect(store, [entry(root, origin="real")], 0, Pool(workers=workers))
        answers.append((held(store), store.facts().to_pylist(), store.rejects().to_pylist()))
    assert answers[0] == answers[1]


def test_progress_counts_to_the_quota(tmp_path, inline):
    said = []
    collect(
        Store(tmp_path / "work"), [entry(gallery(tmp_path / "images", 9, bad=(0,)), count=5, origin="real")], 0, ONE,
        progress=lambda done, failed, total: said.append((done, failed, total)),
    )  # fmt: skip
    assert said[-1][0] == said[-1][2] == 5


def test_the_photographs_of_the_packages_are_collected_by_their_card(tmp_path, inline):
    store = Store(tmp_path / "work")
    done = collect(store, [Collect(source="packages", count=20)], 0, ONE)
    assert (done.total, done.failed) == (20, 0)
    rows = store.facts().to_pylist()
    assert {(r["origin"], r["category"], r["width"], r["height"], r["codec"]) for r in rows} == {
        ("real", "photos", 256, 256, "png")
    }
    assert len({r["group"] for r in rows}) >= 16


def test_the_corpus_beside_the_repository_has_its_damage_named(shared, tmp_path):
    """A slice of it: quotas, so that the test is short; the whole of it is `make prove`'s."""
    store = Store(tmp_path / "work")
    done = collect(store, [entry(shared / "data", count=40)], 0, Pool(workers=2))
    assert done.total == 40
    listed = (shared / "data" / "index.csv").read_text(encoding="utf-8", errors="replace")
    assert all(r["source_key"].partition("#")[0] in listed for r in store.facts(["source_key"]).to_pylist())
