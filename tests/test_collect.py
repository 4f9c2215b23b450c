"""`collect`: whatever a folder holds ends up as an image with its bytes as delivered, or as a reject with a reason."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from command import run
from deadly import AfterWriting, Deadly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inline import Inline, Interrupted
from listed import REASONS, Listed, cards
from metadata import exif
from pictures import animated, bomb, encoded, jpeg, picture, png, with_hole, write
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from imaginet_build import collect as module
from imaginet_build import engine, images
from imaginet_build.collect import Collected, collect, folders
from imaginet_build.collecting import intake, regions, watermark
from imaginet_build.collectors.folder import Folder
from imaginet_build.engine import Pool
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.imagefiles import jpegfile
from imaginet_build.recipe import Collect
from imaginet_build.records import Want
from imaginet_build.running import summaries
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


# --- collectors that break their word ---------------------------------------------------------------------------------


@pytest.fixture
def wild(tmp_path, monkeypatch, inline) -> Path:
    """A place with cards for the collectors of `listed`."""
    cards(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "work"


def answers(work: Path, *wants: Collect) -> Collected:
    return collect(Store(work), wants, 0, ONE, trust=True)


def test_every_answer_that_breaks_the_protocol_is_a_reject_and_the_rest_goes_on(wild):
    done = answers(wild, Collect(source="wild", category="photos"))
    kept = held(Store(wild))
    assert sorted(key for key, _ in kept.values()) == [
        "bro\\udcffken.png", *(f"good/{n}.png" for n in range(5)), "true.png"
    ]  # fmt: skip
    said = reasons(Store(wild))
    assert REASONS.items() <= said.items()
    assert said.keys() - REASONS.keys() == {f"(unnamed {n})" for n in range(4)}
    assert all(r["detail"] for r in Store(wild).rejects().to_pylist())
    assert done.failed == sum(reason not in module.BY_RULE for reason in said.values())
    again = answers(wild, Collect(source="wild", category="photos"))
    assert (again.new, again.rejected) == (0, done.rejected)


def test_a_collector_that_raises_half_way_ends_alone(wild, caplog):
    broken = Collect(source="wild", category="photos", options={"raises": 3})
    done = answers(wild, broken, Collect(source="listed", category="photos", count=4, options={"count": 9}))
    assert (done.total, done.broken, done.failed) == (7, {"wild": CUT}, 1)
    assert f"wild: {CUT}" in caplog.text


CUT = "the wire was cut. What was finished is kept; the same command goes on from there"


def test_a_fault_that_will_come_again_is_not_said_to_go_on(wild, monkeypatch):
    def failing(self, wanted):
        yield from itertools.islice(find(self, wanted), 2)
        raise KeyError("url")

    find = Listed.find
    monkeypatch.setattr(Listed, "find", failing)
    done = answers(wild, Collect(source="listed", category="photos", options={"count": 9}))
    (why,) = done.broken.values()
    assert (done.total, why.partition(". ")[0]) == (2, "its collector failed with KeyError: 'url'")
    assert "will probably fail there again" in why
    assert "goes on from there" not in why + summaries.collected_text(done.to_json())


def test_a_collector_that_raises_at_once_loses_only_its_own(wild):
    done = answers(
        wild,
        Collect(source="wild", category="photos", count=3, options={"raises": 0}),
        Collect(source="listed", category="photos", count=4, options={"count": 9}),
    )
    assert (done.total, done.broken) == (4, {"wild": CUT})
    assert [(a.source, a.asked, a.had, a.given_up) for a in done.availability] == [("wild", 3, 0, 3), ("listed", 4, 4, 0)]


def test_a_stream_that_breaks_goes_on_where_it_was(wild, monkeypatch):
    """As a connection does that comes back: the same options, the same names."""
    want = Collect(source="listed", category="photos", count=12, options={"count": 20, "dead": [1, 2, 3]})
    whole = answers(wild.with_name("whole"), want)
    find = Listed.find

    def breaking(self, wanted):
        for number, answer in enumerate(find(self, wanted)):
            if number == 4:
                raise ConnectionResetError("peer reset")
            yield answer

    with monkeypatch.context() as patched:
        patched.setattr(Listed, "find", breaking)
        for _ in range(2):
            assert answers(wild, want).broken["listed"].startswith("peer reset. What was finished")
    mended = answers(wild, want)
    assert (mended.total, mended.broken, mended.rejected) == (12, {}, whole.rejected)
    assert Store(wild).facts().equals(Store(wild.with_name("whole")).facts())


# --- guards and screens -----------------------------------------------------------------------------------------------


def guarded(root: Path, **tables: object) -> Collect:
    return Collect.model_validate({"source": "folder", "options": {"root": str(root)}} | tables)


def test_reals_are_guarded_and_synthetic_ones_are_not(tmp_path, inline):
    info = PngInfo()
    info.add_text("parameters", "a barn\nSteps: 20, Sampler: Euler, Seed: 1")
    data = encoded(picture("marked"), "PNG", pnginfo=info)
    for origin in ("real", "synthetic"):
        write(tmp_path / "images" / origin / "photos" / "x" / "marked.png", data)
    done = collect(Store(tmp_path / "work"), [guarded(tmp_path / "images")], 0, ONE)
    assert (done.total, done.rejected, done.failed) == (1, {"ai-text": 1}, 0)
    done = collect(Store(tmp_path / "off"), [guarded(tmp_path / "images", guard={"ai_metadata": False})], 0, ONE)
    assert (done.total, done.rejected) == (2, {})


def test_the_date_comes_from_the_file_its_row_or_the_card(tmp_path, inline):
    old, new = (jpeg(day, exif=exif(t9003=f"{day} 10:00:00")) for day in ("2019:05:01", "2024:05:01"))
    for name, data in (("old", old), ("new", new), ("listed", new), ("undated", jpeg("undated"))):
        write(tmp_path / "images" / f"{name}.jpg", data)
    rows = ["path,origin,date", "old.jpg,real,", "new.jpg,real,", "listed.jpg,real,2020-02-02", "undated.jpg,real,"]
    write(tmp_path / "images" / "index.csv", "\n".join(rows))
    guard = {"taken_before": "2022-07-01", "undated": "reject"}
    done = collect(Store(tmp_path / "work"), [guarded(tmp_path / "images", guard=guard)], 0, ONE)
    assert reasons(Store(tmp_path / "work")) == {"new.jpg": "too-recent", "undated.jpg": "undated"}
    assert done.failed == 0
    params = {r["source_key"]: json.loads(r["params"]) for r in Store(tmp_path / "work").facts().to_pylist()}
    assert (params["old.jpg"]["taken"], params["listed.jpg"]["uploaded"]) == ("2019-05-01", "2020-02-02")


def test_a_card_states_guards_and_the_entry_overrides_them(tmp_path, monkeypatch, inline):
    write(tmp_path / "images" / "new.jpg", jpeg("new", exif=exif(t9003="2024:05:01 10:00:00")))
    write(
        tmp_path / "manifests" / "sources" / "dated.toml",
        'adapter = "imaginet_build.collectors.folder:Folder"\nlicence = "CC0-1.0"\norigin = "real"\nrevision = "local"\n'
        "[guard]\ntaken_before = 2022-07-01\n",
    )
    monkeypatch.chdir(tmp_path)
    options = {"root": "images"}
    done = collect(Store(tmp_path / "a"), [Collect(source="dated", options=options)], 0, ONE)
    assert done.rejected == {"too-recent": 1}
    later = Collect.model_validate({"source": "dated", "options": options, "guard": {"taken_before": "2025-01-01"}})
    assert collect(Store(tmp_path / "b"), [later], 0, ONE).rejected == {}


def test_screens_refuse_with_a_reason_each(tmp_path, inline):
    made = {
        "small": picture("small", 40, 90), "long": picture("long", 300, 60), "grey": picture("grey").convert("L"),
        "greyish": picture("greyish").convert("L").convert("RGB"), "blank": Image.new("RGB", (99, 99), (9, 80, 30)),
        "good": picture("good"),
    }  # fmt: skip
    for name, image in made.items():
        write(tmp_path / "images" / f"{name}.jpg", encoded(image, "JPEG", quality=85))
    screen = {"min_side": 50, "max_aspect": 3, "grayscale": False, "min_contrast": 1.0}
    store = Store(tmp_path / "work")
    want = guarded(tmp_path / "images", screen=screen).model_copy(
        update={"options": {"root": str(tmp_path / "images"), "origin": "real"}}
    )
    done = collect(store, [want], 0, ONE)
    assert reasons(store) == {
        "small.jpg": "too-small", "long.jpg": "aspect", "grey.jpg": "grayscale", "greyish.jpg": "grayscale",
        "blank.jpg": "blank",
    }  # fmt: skip
    assert (done.total, done.failed) == (1, 0)


@pytest.mark.skipif(regions.network() is None, reason="nudenet is not installed (extra: guards)")
def test_faces_are_verified_in_their_category_alone_and_scores_are_written_down(shared, tmp_path, inline):
    portraits = sorted((shared / "data" / "real" / "faces").rglob("*.jpg"))[:6]
    for number, path in enumerate(portraits):
        write(tmp_path / "images" / "faces" / "a" / f"{number}.jpg", path.read_bytes())
    for kind in ("faces", "photos"):
        write(tmp_path / "images" / kind / "b" / "patches.png", png("no face", 200, 200))
    store = Store(tmp_path / "work")
    want = guarded(tmp_path / "images", guard={"faces": "must"}, screen={"nsfw": "record"})
    options = {"root": str(tmp_path / "images"), "origin": "real"}
    done = collect(store, [want.model_copy(update={"options": options})], 0, ONE)
    assert (done.total, done.rejected, done.unchecked) == (7, {"no-face": 1}, {})
    params = {r["source_key"]: json.loads(r["params"]) for r in store.facts().to_pylist()}
    assert all(0.25 <= params[f"faces/a/{n}.jpg"]["face"] <= 1 for n in range(6))
    assert "face" not in params["photos/b/patches.png"]
    assert all(0 <= found["nsfw"] <= 1 for found in params.values())
    strict = guarded(tmp_path / "images", screen={"nsfw": "reject", "nsfw_limit": 0.000001}).model_copy(
        update={"options": options}
    )
    assert collect(Store(tmp_path / "strict"), [strict], 0, ONE).rejected == {"nsfw": 8}


def test_a_check_that_cannot_be_made_is_said_or_stops_everything(tmp_path, inline, monkeypatch, caplog):
    monkeypatch.setattr(regions, "PACKAGE", "no_such_package")
    monkeypatch.setattr(watermark, "PACKAGE", "no_such_package")
    root = gallery(tmp_path / "images", 3)
    tried = guarded(root, guard={"faces": "try", "watermark": "try"}).model_copy(
        update={"options": {"root": str(root), "origin": "real"}}
    )
    done = collect(Store(tmp_path / "work"), [tried], 0, ONE)
    assert done.total == 3
    assert done.unchecked["folder"].keys() == {"faces", "watermark"}
    assert "pip install 'imaginet-build[guards]'" in done.unchecked["folder"]["faces"]
    assert "folder: watermark is not checked" in caplog.text
    for tables in ({"guard": {"faces": "must"}}, {"guard": {"watermark": "must"}}, {"screen": {"nsfw": "record"}}):
        with pytest.raises(UsageError, match="needs no_such_package"):
            collect(Store(tmp_path / "never"), [guarded(root, **tables)], 0, ONE)
    assert not (tmp_path / "never").exists()


def test_what_was_measured_on_arrival_is_written_down(zoo):
    store, _ = zoo
    rows = {r["source_key"]: (r, json.loads(r["params"])) for r in store.facts().to_pylist()}
    assert rows["plain.png"][1] == {}
    row, params = rows["rotated.jpg"]
    assert params["decoded"] == ["upright: from EXIF orientation 6"]
    tables = jpegfile.parse(HONEST["rotated.jpg"]).tables
    assert [[int(text[i : i + 2], 16) for i in range(0, 128, 2)] for text in params["tables"]] == [list(t) for t in tables]
    assert (row["quality"], len(row["qtables"])) == (90, 16)
    assert rows["cmyk.jpg"][1]["decoded"] == ["cmyk: inks to colours"]
    assert rows["sixteen.png"][1]["decoded"] == ["16 bits a sample: the high byte"]
    assert rows["really a png.jpg"][1]["decoded"] == ["named .jpg, is png"]
    assert rows["palette.png"][1]["decoded"] == ["palette: looked up"]
    assert rows["wide.jpg"][1]["decoded"] == ["icc: to sRGB where the profile is usable and differs"]


# --- workers that die, disks that are full ----------------------------------------------------------------------------


def test_a_file_that_kills_its_worker_is_a_reject_and_its_neighbours_are_kept(tmp_path, monkeypatch):
    """As a bug in a decoder would; every process that touches it dies."""
    monkeypatch.setenv("KILLER_SHA256", hashlib.sha256(png("killer", 16, 16)).hexdigest())
    root = gallery(tmp_path / "images", 3)
    write(root / "photos" / "killer.png", png("killer", 16, 16))
    store = Store(tmp_path / "work")
    monkeypatch.setattr(intake.Arrive, "worker", property(Deadly))
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
    monkeypatch.setattr(intake.Arrive, "worker", property(AfterWriting))
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


# --- as a command ------------------------------------------------------------------------------------------------------


def test_the_command_says_what_came_what_did_not_and_why(tmp_path):
    gallery(tmp_path / "images" / "real", 9, bad=(1,))
    recipe = 'name = "r"\n[[collect]]\nsource = "folder"\ncategory = "photos"\ncount = 7\noptions = { root = "images" }\n'
    write(tmp_path / "r.toml", recipe)
    done = run("collect", "--recipe", "r.toml", "--work", "w", "--json", cwd=tmp_path, code=1)
    document = json.loads(done.stdout)
    assert (document["new"], document["total"], document["rejected"]) == (5, 5, {"truncated": 1})
    (quota,) = document["availability"]
    assert {k: quota[k] for k in ("asked", "had", "failed", "refused", "replaced", "given_up")} == {
        "asked": 7, "had": 5, "failed": 1, "refused": 0, "replaced": 0, "given_up": 2,
    }  # fmt: skip
    assert (document["matching"], document["broken"], document["unchecked"]) == ([], {}, {})
    said = run("collect", "--work", "w", cwd=tmp_path, code=1).stdout
    assert "0 images collected, 5 in all; 1 truncated" in said
    assert re.search(r"folder +photos +7 +5 +1 +0 +0 +2", said)
    unknown = run("collect", "--source", "foldr", "--work", "w", cwd=tmp_path, code=2).stderr
    assert "no source 'foldr' in manifests/sources; did you mean 'folder'?" in unknown


def test_a_broken_archive_is_asked_again_once_it_is_whole(tmp_path):
    archive = tmp_path / "shards" / "a.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for number in range(8):
            data = png(number, 40, 40)
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    recipe = (
        'name = "r"\n[[collect]]\nsource = "archive"\ncategory = "photos"\noptions = { root = "shards", origin = "real" }\n'
    )
    write(tmp_path / "r.toml", recipe)
    command = ("collect", "--recipe", "r.toml", "--work", "w")
    done = run(*command, cwd=tmp_path, code=1)
    assert "1 truncated" in done.stdout
    assert "1 may come back: build-imaginet collect --retry" in done.stdout
    archive.write_bytes(whole)
    run(*command, cwd=tmp_path, code=1)
    document = json.loads(run(*command, "--retry", "--json", cwd=tmp_path).stdout)
    assert (document["total"], document["rejected"], document["failed"]) == (8, {}, 0)
    assert [quota["may_come_back"] for quota in document["availability"]] == [0]
    assert json.loads(run(*command, "--json", cwd=tmp_path).stdout)["new"] == 0


def test_a_revision_belongs_into_the_card(tmp_path: Path) -> None:
    want = Collect(source="folder", options={"root": str(tmp_path), "revision": "main"})
    with pytest.raises(UsageError, match="a revision stands in the card"):
        collect(Store(tmp_path / "w"), [want], 0, Pool(workers=1))
