"""Data sets streamed through the `datasets` library: bytes as uploaded, rows by name, a clear word for all that is wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import hub_server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import COMMIT, served
from inline import Inline
from pictures import jpeg, png, write

from imaginet_build import cards, engine
from imaginet_build.collect import collect
from imaginet_build.collectors import hub, streams
from imaginet_build.collectors.hub import Hub
from imaginet_build.engine import Pool
from imaginet_build.errors import MissingExtra, UsageError
from imaginet_build.recipe import Collect
from imaginet_build.records import Found, Refusal, Want
from imaginet_build.store import Store

datasets = pytest.importorskip("datasets")

ROWS = 12
IMAGES = [jpeg(f"hub {n}", 64, 48) if n % 3 else png(f"hub {n}", 64, 48) for n in range(ROWS)]
SHARDS = 3
NAMES = [f"default/train/{n // 4}/{n % 4}{'.jpg' if n % 3 else '.png'}" for n in range(ROWS)]


def want(have: set[str] = frozenset(), category: str | None = None) -> Want:
    return Want("hub", category, 0, frozenset(have))


def find(root: Path, asked: Want | None = None, **settings) -> dict[str, Found | Refusal]:
    """Source key -> what was delivered; no key comes twice."""
    settings = settings if "label" in settings else {"origin": "real", **settings}
    listed = list(Hub(str(root), **settings).find(asked or want()))
    assert len({item.source_key for item in listed}) == len(listed)
    return {item.source_key: item for item in listed}


def reasons(found: dict[str, Found | Refusal]) -> dict[str, str]:
    return {key: item.reason for key, item in found.items() if isinstance(item, Refusal)}


def parquet(root: Path, shards: int = SHARDS, images: list | None = None, **columns) -> Path:
    """A data set of several Parquet files whose image column has the Hub's own type."""
    images = IMAGES if images is None else images
    values = [
        {"bytes": data, "path": f"{n}{'.jpg' if n % 3 else '.png'}"} if isinstance(data, bytes) else data
        for n, data in enumerate(images)
    ]
    features = datasets.Features({"image": datasets.Image(decode=False)} | {name: kind for name, (kind, _) in columns.items()})
    table = {"image": values} | {name: content for name, (_, content) in columns.items()}
    whole = pa.table(table, schema=features.arrow_schema)
    each = -(-len(images) // shards)
    (root / "data").mkdir(parents=True)
    for shard in range(shards):
        path = root / "data" / f"train-{shard:05d}-of-{shards:05d}.parquet"
        pq.write_table(whole.slice(shard * each, each), path)
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text, kinds = datasets.Value("string"), datasets.ClassLabel(names=["nature", "sdxl", "midjourney"])
    return parquet(
        tmp_path_factory.mktemp("photos"),
        name=(text, [f"photo-{n}" for n in range(ROWS)]),
        caption=(text, [f"a thing number {n}" if n else None for n in range(ROWS)]),
        album=(text, [f"album {n // 4}" for n in range(ROWS)]),
        subject=(text, ["portrait" if n % 2 else "landscape" for n in range(ROWS)]),
        kind=(kinds, [n % 3 for n in range(ROWS)]),
        terms=(text, ["CC0-1.0"] * ROWS),
    )


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Inline:
    run = Inline()
    monkeypatch.setattr(engine, "run", run)
    return run


# --- bytes and names ---------------------------------------------------------------------------------------------------


def test_bytes_are_those_that_were_uploaded_and_rows_have_names(photos):
    found = find(photos)
    assert list(found) == NAMES
    assert [item.data for item in found.values()] == IMAGES


def test_what_is_no_image_is_delivered_too_since_the_decoder_decides(tmp_path):
    rotten = [b"not an image", IMAGES[1][:100]]
    assert [item.data for item in find(parquet(tmp_path, 1, rotten)).values()] == rotten


def test_a_folder_of_files_and_one_of_archives_are_read_in_place(tmp_path):
    for n, data in enumerate(IMAGES[:4]):
        write(tmp_path / "tree" / ("cat" if n < 2 else "dog") / f"{n}.png", data)
    (tmp_path / "packed").mkdir()
    with zipfile.ZipFile(tmp_path / "packed" / "all.zip", "w") as archive:
        for n, data in enumerate(IMAGES[:4]):
            archive.writestr(f"{n}.png", data)
    for root in (tmp_path / "tree", tmp_path / "packed"):
        found = find(root)
        assert list(found) == [f"default/train/{n}.png" for n in range(4)]
        assert [item.data for item in found.values()] == IMAGES[:4]


def test_webdataset_shards_are_read_with_their_own_names(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as archive:
            for n in (2 * shard, 2 * shard + 1):
                for suffix, data in (("jpg", IMAGES[n]), ("cls", b"7")):
                    member = tarfile.TarInfo(f"n{n}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    found = find(tmp_path, image="jpg", key="__key__")
    assert {key: item.data for key, item in found.items()} == {f"n{n}": IMAGES[n] for n in range(4)}


@pytest.mark.parametrize("kind", ["binary", "large_binary", "struct"])
def test_images_without_the_hubs_own_type_are_found_in_their_column(tmp_path, kind):
    values = {
        "binary": pa.array(IMAGES[:3], pa.binary()),
        "large_binary": pa.array(IMAGES[:3], pa.large_binary()),
        "struct": pa.array([{"bytes": data, "path": None} for data in IMAGES[:3]]),
    }[kind]
    pq.write_table(pa.table({"picture": values}), tmp_path / "train.parquet")
    found = find(tmp_path, image="picture")
    assert [item.data for item in found.values()] == IMAGES[:3]
    assert list(found) == [f"default/train/{n}" for n in range(3)]


def test_pixels_that_would_have_to_be_encoded_are_not_taken(tmp_path):
    pq.write_table(pa.table({"image": pa.array([[[1, 2], [3, 4]]] * 2)}), tmp_path / "train.parquet")
    with pytest.raises(UsageError, match=r"the column 'image' holds .*no image files"):
        find(tmp_path)


def test_columns_say_what_they_know(photos):
    found = find(
        photos, label="kind", labels={"sdxl": "SDXL 1.0", "midjourney": "midjourney"}, caption="caption", key="name",
        group="album", category_column="subject", categories={"portrait": "faces", "landscape": "photos"},
        licence_column="terms",
    )  # fmt: skip
    assert found["photo-0"] == Found("photo-0", IMAGES[0], "real", "photos", None, None, "CC0-1.0", "album 0", None)
    assert found["photo-1"] == Found(
        "photo-1", IMAGES[1], "synthetic", "faces", "SDXL 1.0", None, "CC0-1.0", "album 0", "a thing number 1"
    )
    assert found["photo-5"].generator == "midjourney"


def test_origin_comes_from_the_card_and_classes_may_then_name_generators(photos):
    found = find(photos, origin="synthetic", label="kind", labels={"nature": "dalle3", "sdxl": "sdxl", "midjourney": "mj"})
    assert {(item.origin, item.generator) for item in found.values()} == {
        ("synthetic", "dalle3"), ("synthetic", "sdxl"), ("synthetic", "mj"),
    }  # fmt: skip


def test_a_card_may_name_the_one_generator_of_all(photos):
    assert {item.generator for item in find(photos, origin="synthetic", generator="dalle3").values()} == {"dalle3"}
    assert {item.generator for item in find(photos, generator="dalle3").values()} == {None}, "real images have none"


def test_a_class_that_nobody_explained_is_refused_with_the_way_out(photos):
    found = find(photos, label="kind", labels={"sdxl": "sdxl"})
    assert set(reasons(found).values()) == {"unknown-label"}
    assert len(reasons(found)) == ROWS / 3
    assert "'midjourney': name it in `labels`" in found[NAMES[2]].detail


def test_one_category_alone_may_be_asked_for(photos):
    found = find(photos, want(category="faces"), category_column="subject", categories={"portrait": "faces"})
    assert {item.category for item in found.values() if isinstance(item, Found)} == {"faces"}
    assert set(reasons(found).values()) == {"unknown-category"}


def test_a_set_without_content_types_is_of_the_type_asked_for_and_one_of_another_type_is_not_streamed(photos):
    assert {item.category for item in find(photos, want(category="faces")).values()} == {"faces"}
    with pytest.raises(UsageError, match="holds paintings, no faces"):
        find(photos, want(category="faces"), category="paintings")


# --- rows that cannot be had -------------------------------------------------------------------------------------------


def test_rows_without_bytes_are_refused_and_no_file_from_elsewhere_is_read(tmp_path):
    secret = write(tmp_path / "secret.png", IMAGES[0])
    rows = [
        {"bytes": None, "path": str(secret)},
        {"bytes": None, "path": "https://example.org/1.png"},
        {"bytes": None, "path": f"https://example.org/?::{tmp_path}/set/data/x.zip"},
        {"bytes": None, "path": str(tmp_path / "set" / ".." / "secret.png")},
        {"bytes": None, "path": str(tmp_path / "set" / "gone.png")},
        {"bytes": None, "path": None},
        None,
        {"bytes": IMAGES[7], "path": "/etc/passwd"},
    ]
    found = find(parquet(tmp_path / "set", 1, rows))
    assert list(reasons(found).values()) == ["no-bytes"] * 4 + ["missing"] + ["no-bytes"] * 2
    assert "place elsewhere" in found["default/train/0.png"].detail
    assert found["default/train/7"].data == IMAGES[7]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    write(tmp_path / "secret.png", IMAGES[0])
    write(tmp_path / "set" / "a.png", IMAGES[1])
    (tmp_path / "set" / "b.png").symlink_to(tmp_path / "secret.png")
    assert reasons(find(tmp_path / "set")) == {"default/train/1.png": "no-bytes"}


def test_a_huge_row_is_refused(photos, monkeypatch):
    monkeypatch.setattr(hub, "MAX_BYTES", len(IMAGES[0]) - 1)
    assert reasons(find(photos))[NAMES[0]] == "too-large"


def test_keys_that_are_empty_or_come_twice_are_refused(tmp_path):
    names = ["a", "b", "a", None, ""]
    found = find(parquet(tmp_path, 1, IMAGES[:5], name=(datasets.Value("string"), names)), key="name")
    assert reasons(found) == {"a#2": "listed-twice", "default/train/3": "no-key", "default/train/4": "no-key"}
    assert find(tmp_path, want({"a", "b", *reasons(found)}), key="name") == {}


def test_files_that_happen_to_have_a_rows_name_are_left_alone(photos, tmp_path, monkeypatch):
    for n in range(ROWS):
        write(tmp_path / NAMES[n].rpartition("/")[2], b"somebody's own file")
    monkeypatch.chdir(tmp_path)
    assert [item.data for item in find(photos).values()] == IMAGES


# --- going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"key": "name"}], ids=["by row", "by key"])
@pytest.mark.parametrize("here", [range(5), range(ROWS), (0, 1, 4, 9), (3, 7)], ids=["run", "all", "gaps", "middle"])
def test_what_is_here_already_is_not_delivered_again(photos, settings, here):
    whole = find(photos, **settings)
    names = list(whole)
    rest = find(photos, want({names[n] for n in here}), **settings)
    assert rest == {name: whole[name] for n, name in enumerate(names) if n not in here}


def test_a_shard_that_is_here_is_not_opened_and_a_run_of_rows_at_the_start_of_one_is_skipped(photos, monkeypatch):
    """How long a shard is, its Parquet file says at its end: a few bytes in place of the whole."""
    opened = []
    read = streams._of_parquet
    monkeypatch.setattr(
        streams, "_of_parquet", lambda path, n, names: opened.append((path.name[:11], n)) or read(path, n, names)
    )
    assert list(find(photos, want({*NAMES[:6], NAMES[8]}))) == [*NAMES[6:8], *NAMES[9:]]
    assert opened == [("train-00001", 2), ("train-00002", 1)]


# --- the seed ----------------------------------------------------------------------------------------------------------


def order(root: Path, seed: int, have: set[str] = frozenset(), count: int = 5, **settings) -> list[str]:
    asked = Want("hub", None, seed, frozenset(have), count=count)
    return [item.source_key for item in Hub(str(root), origin="real", **settings).find(asked)]


def test_the_seed_decides_which_rows_come_first_and_nothing_else_does(photos):
    orders = {seed: order(photos, seed) for seed in range(6)}
    assert all(sorted(names) == sorted(NAMES) for names in orders.values())
    assert len({tuple(names[:5]) for names in orders.values()}) > 3
    assert orders[3] == order(photos, 3)
    assert len({names[0].split("/")[2] for names in orders.values()}) > 1, "shards come in the seed's order too"


@pytest.mark.parametrize("settings", [{}, {"key": "name"}], ids=["by row", "by key"])
def test_what_is_here_does_not_change_the_order_of_the_rest(photos, settings, monkeypatch):
    monkeypatch.setattr("imaginet_build.collectors.streams.WINDOW", 2)
    whole = order(photos, 1, **settings)
    for here in (whole[:5], whole[2:4], whole[::2], whole[-3:]):
        assert order(photos, 1, set(here), **settings) == [name for name in whole if name not in here]


def test_a_set_that_is_sorted_by_class_does_not_give_its_first_class_alone(tmp_path, monkeypatch):
    parquet(
        tmp_path, 1, [jpeg(f"sorted {n}", 16, 16) for n in range(40)], kind=(datasets.Value("string"), ["a"] * 20 + ["b"] * 20)
    )
    taken = {int(name.rpartition("/")[2].partition(".")[0]) for name in order(tmp_path, 0)[:20]}
    assert 4 <= len({n for n in taken if n < 20}) <= 16


def test_the_window_is_bounded_in_bytes_too(photos, monkeypatch):
    monkeypatch.setattr("imaginet_build.collectors.streams.WINDOW_BYTES", 0)
    drawn = order(photos, 1)
    assert [n for n in drawn if n.startswith("default/train/0/")] == NAMES[:4], "nothing is held, so each row is given at once"


def card(name: str, text: str) -> None:
    write(Path("manifests/sources") / f"{name}.toml", text)
    cards._announce.cache_clear()


CARD = 'adapter = "imaginet_build.collectors.hub:Hub"\nlicence = "CC0-1.0"\n'


def held(store: Store) -> dict[str, bytes]:
    """source key -> bytes."""
    rows = store.facts(["id", "source_key"]).to_pylist()
    data = dict(store.images(store.in_part_order([row["id"] for row in rows])))
    return {row["source_key"]: data[row["id"]] for row in rows}


def test_a_quota_takes_the_first_rows_of_the_seeds_order_that_can_be_read(tmp_path, monkeypatch, inline):
    monkeypatch.chdir(tmp_path)
    first = order(parquet(tmp_path / "whole"), 0)
    images = list(IMAGES)
    for name, rotten in zip(first[:2], (b"rotten", None), strict=True):
        images[NAMES.index(name)] = rotten
    parquet(tmp_path / "set", images=images)
    card("mine", CARD + 'origin = "real"\n')
    entry = Collect(source="mine", count=4, options={"dataset": str(tmp_path / "set")})
    store = Store(tmp_path / "work")
    done = collect(store, [entry], 0, Pool(workers=1))
    kept = held(store)
    assert (done.new, set(done.rejected)) == (4, {"no-bytes", "not-an-image"})
    assert all(data == IMAGES[NAMES.index(name)] for name, data in kept.items())
    assert collect(store, [entry], 0, Pool(workers=1)).new == 0
    assert set(store.facts(["extension"])["extension"].to_pylist()) <= {"jpg", "png"}


def test_a_stream_that_dies_half_way_is_one_refusal_and_the_rest_goes_on(tmp_path):
    """Here, where the file is damaged, the other shards are read; over a network they would come over the same line."""
    shard = parquet(tmp_path / "set") / "data" / "train-00001-of-00003.parquet"
    shutil.copy(shard, tmp_path / "whole")
    shard.write_bytes(b"half a file" * 100)
    found = find(tmp_path / "set")
    assert reasons(found) == {"default/train/1": "unreadable"}
    assert "broke off at row default/train/1/0" in found["default/train/1"].detail
    assert [name for name in found if name in NAMES] == [*NAMES[:4], *NAMES[8:]]
    shutil.copy(tmp_path / "whole", shard)
    rest = find(tmp_path / "set", want({*NAMES[:4], *NAMES[8:], "default/train/1"}))
    assert {name: item.data for name, item in rest.items()} == dict(zip(NAMES[4:8], IMAGES[4:8], strict=True))


@pytest.mark.parametrize("count", [None, 9])
def test_a_row_of_a_local_copy_that_is_no_text_and_a_row_group_that_is_a_bomb_cost_themselves_alone(tmp_path, count):
    (tmp_path / "data").mkdir()
    schema = pa.schema([("image", pa.binary()), ("said", pa.string()), ("day", pa.timestamp("us"))])
    with pq.ParquetWriter(tmp_path / "data" / "train-0.parquet", schema, compression="zstd") as writer:
        for images, words in ((IMAGES[:2], [b"a", b"\xff"]), ([bytes(2**26 + 1)], [b"b"]), (IMAGES[2:3], [b"c"])):
            said = pa.array(words, pa.binary()).view(pa.string())
            days = pa.array([2**62] * len(words), pa.int64()).view(pa.timestamp("us"))
            writer.write_table(pa.table([pa.array(images, pa.binary()), said, days], schema=schema))
    for columns in ({"caption": "said"}, {"caption": "said", "date": "day"}):
        found = find(tmp_path, Want("hub", None, 0, frozenset(), None, count), **columns)
        assert reasons(found) == {"default/train/1": "not-utf8", "default/train/row-group-1": "bomb"}
        images = {key: item.data for key, item in found.items() if isinstance(item, Found)}
        assert images == {"default/train/0": IMAGES[0], "default/train/3": IMAGES[2]}
    # What is here is not read again, refused or not.
    assert find(tmp_path, want(set(found)), caption="said") == {}
    assert list(find(tmp_path, want({"default/train/0", "default/train/1"}), caption="said")) == [
        "default/train/row-group-1", "default/train/3",
    ]  # fmt: skip


def test_a_local_copy_has_the_names_of_the_data_set_it_stands_for(photos, tmp_path, monkeypatch, inline):
    monkeypatch.chdir(tmp_path)
    card("mine", CARD + 'origin = "real"\ndataset = "lab/photos"\n')
    shutil.copytree(photos, tmp_path / "copy")
    ids = []
    for root in (photos, tmp_path / "copy"):
        store = Store(tmp_path / f"work-{len(ids)}")
        collect(store, [Collect(source="mine", options={"root": str(root)})], 0, Pool(workers=1))
        ids.append(store.ids())
    assert ids[0] == ids[1]
    assert len(ids[0]) == ROWS


def test_a_release_of_our_own_can_be_collected_back(quickstart, tmp_path):
    release = next((quickstart / "work" / "quickstart").glob("release/README.md")).parent
    told = {"label": "label", "category_column": "content_type", "generator_column": "generator", "licence_column": "licence",
            "key": "id", "group": "group", "caption": "prompt"}  # fmt: skip
    found = find(release, config="native", **told)
    table = pa.concat_tables(pq.read_table(path) for path in sorted((release / "data" / "native").glob("train-*.parquet")))
    rows = table.to_pylist()
    assert {row["id"]: row["image"]["bytes"] for row in rows} == {key: item.data for key, item in found.items()}
    assert {row["id"]: row["label"] for row in rows} == {key: int(i.origin == "synthetic") for key, i in found.items()}
    assert all((item.generator is None) == (item.origin == "real") for item in found.values())
    assert len({item.generator for item in found.values()}) > 1


# --- calls that are wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image": "imge"}, r"image: no column 'imge'; did you mean 'image'\?.*It has image, name, caption"),
        (
            {"caption": "captoin", "key": "nme"},
            r"key: no column 'nme'.*; caption: no column 'captoin'; did you mean 'caption'\?",
        ),
        ({"split": "test"}, "cannot be read: Bad split: test. Available splits: .'train'"),
        ({"config": "other"}, "cannot be read: BuilderConfig 'other' not found"),
        ({"label": "kind", "labels": {"sdlx": "sdxl"}}, "labels: no class 'sdlx' in the column 'kind'; did you mean 'sdxl'"),
        ({"labels": {"a": "real"}}, "`label` names no column"),
        ({"origin": None}, "say what its images are"),
        ({"origin": "painted"}, "it is one of real, synthetic"),
        ({"label": "kind", "origin": "real", "labels": {"sdxl": "sdxl"}}, "leave `origin` out where labels decide"),
    ],
)
def test_a_wrong_call_is_said_with_the_nearest_right_one(photos, settings, words):
    with pytest.raises(UsageError, match=words):
        find(photos, **settings)


def test_a_folder_that_is_not_there_is_named_with_its_neighbour(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match=r"no folder .*phots; did you mean 'photos'\?.*owner/name"):
        Hub(str(tmp_path / "phots"), origin="real")


def test_an_empty_folder_and_a_loading_script_are_refused_and_no_code_runs(tmp_path, capsys):
    with pytest.raises(UsageError, match="doesn't contain any data files"):
        find(tmp_path)
    write(tmp_path / f"{tmp_path.name}.py", "print('RAN')")
    with pytest.raises(UsageError, match="scripts are no longer supported"):
        find(tmp_path)
    assert "RAN" not in capsys.readouterr().out


def test_a_missing_package_is_named_with_the_command_that_installs_it(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"needs datasets: pip install 'imaginet-build\[hub\]'"):
        find(photos)


def test_without_a_network_it_says_so_at_once_with_the_way_round(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(
        UsageError, match=r"lab/photos: the hub cannot be asked.*hf download --repo-type dataset lab/photos"
    ) as error:
        list(Hub("lab/photos", origin="real").find(want()))
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 5


READER = """
import hashlib, json, logging, sys
from imaginet_build.collectors.hub import Hub
from imaginet_build.records import Want
logging.basicConfig(format="%(message)s")
read = {}
for name, revision in (("rows", None), ("files", sys.argv[1])):
    have = frozenset({"default/train/0.png", "default/train/0/0.png"})
    found = Hub(f"lab/{name}", revision=revision, origin="real").find(Want("hub", None, 0, have))
    read[name] = {item.source_key: hashlib.sha256(item.data).hexdigest() for item in found}
print(json.dumps(read))
"""


def test_a_data_set_of_the_hub_is_streamed_at_one_commit_byte_for_byte(tmp_path):
    parquet(tmp_path / "hub" / "rows")
    for n, data in enumerate(IMAGES[:4]):
        write(tmp_path / "hub" / "files" / "data" / f"{n}.png", data)
    with served(tmp_path / "hub") as address:
        place = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", READER, COMMIT], env=os.environ | place | {"HF_HUB_DISABLE_XET": "1"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    digests = [hashlib.sha256(data).hexdigest() for data in IMAGES]
    assert json.loads(done.stdout) == {
        "rows": {name: digest for name, digest in zip(NAMES, digests, strict=True) if name != "default/train/0/0.png"},
        "files": {f"default/train/{n}.png": digests[n] for n in range(1, 4)},
    }
    assert f'lab/rows: reading commit {COMMIT}; to stay at it, write revision = "{COMMIT}"' in done.stderr
    assert "lab/files: reading" not in done.stderr


def test_a_stream_from_the_hub_that_dies_half_way_goes_on_later_without_duplicate_or_gap(tmp_path):
    """The true clients against a server that cuts every answer for one shard short, and later does not."""
    parquet(tmp_path / "hub" / "rows")
    server = hub_server.Hub(large=re.compile(r"(?!)"))
    with served(tmp_path / "hub", server) as address:
        place = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache")}
        here: list[str] = []
        answers = []
        for server.cut in ("train-00001", ""):
            done = subprocess.run(
                [sys.executable, "-c", GOES_ON, COMMIT, json.dumps(here)], env=os.environ | place | {"HF_HUB_DISABLE_XET": "1"},
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            answers.append(json.loads(done.stdout))
            here += [name for name, reason in answers[-1] if reason is None]
    assert "the stream broke off at row default/train/1/0" in answers[0][-1][1]
    assert "run the same command again to go on from there" in answers[0][-1][1]
    assert [reason for _, reason in answers[1] if reason] == []
    assert sorted(here) == sorted(NAMES)


GOES_ON = """
import json, sys, time
time.sleep = lambda seconds: None  # the clients try for minutes, with pauses that grow
from imaginet_build.collectors.hub import Hub
from imaginet_build.errors import BuildError
from imaginet_build.records import Refusal, Want
found = Hub("lab/rows", revision=sys.argv[1], origin="real").find(Want("hub", None, 0, frozenset(json.loads(sys.argv[2]))))
answers = []
try:
    for item in found:
        answers.append((item.source_key, item.reason if isinstance(item, Refusal) else None))
except BuildError as error:
    answers.append((None, str(error)))
print(json.dumps(answers))
"""
