"""Archives read in place: every form gives the same bytes, the seed chooses as it does in a folder, nothing twice, no gap."""

from __future__ import annotations

import functools
import http.server
import itertools
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inline import Inline, Interrupted
from packing import KINDS, cut, pack, parquet, tar, zipped
from pictures import jpeg, png, write

from imaginet_build import cards, catalog, engine
from imaginet_build.collect import collect
from imaginet_build.collectors.archive import Archive
from imaginet_build.collectors.folder import Folder
from imaginet_build.engine import Pool
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.recipe import Collect
from imaginet_build.records import Found, Refusal, Want, make_id
from imaginet_build.store import Store

IMAGES = {f"pictures/{n}{'.jpg' if n % 3 else '.png'}": (jpeg if n % 3 else png)(f"packed {n}", 48, 40) for n in range(12)}


def want(have: set[str] = frozenset(), **asked) -> Want:
    return Want("archive", asked.pop("category", None), asked.pop("seed", 0), frozenset(have), **asked)


def listed(root, asked: Want | None = None, **settings) -> list[Found | Refusal]:
    found = list(
        Archive(root if isinstance(root, list) else str(root), **({"origin": "real"} | settings)).find(asked or want())
    )
    assert len({item.source_key for item in found}) == len(found)
    return found


def images(found: list[Found | Refusal]) -> dict[str, bytes]:
    return {item.source_key: item.data for item in found if isinstance(item, Found)}


def reasons(found: list[Found | Refusal]) -> dict[str, str]:
    return {item.source_key: item.reason for item in found if isinstance(item, Refusal)}


def keys(kind: str, files=IMAGES) -> list[str]:
    """The names that the images of `pack` have."""
    if kind == ".parquet":
        return [f"set.parquet/{n}.{name.rpartition('.')[2]}" for n, name in enumerate(files)]
    return [f"set{kind}/{name}" for name in files]


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Inline:
    run = Inline()
    monkeypatch.setattr(engine, "run", run)
    return run


# --- forms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_same_bytes_in_stored_order(tmp_path, kind):
    assert images(listed(pack(tmp_path, kind, IMAGES))) == dict(zip(keys(kind), IMAGES.values(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_here_is_not_delivered_again_and_the_rest_is(tmp_path, kind):
    path, names = pack(tmp_path, kind, IMAGES), keys(kind)
    for here in (names[:5], names[3:4], names[::2], names):
        assert list(images(listed(path, want(set(here))))) == [name for name in names if name not in here]


@pytest.mark.parametrize("kind", [".7z", ".zip", ".tar.gz"])
@pytest.mark.parametrize("given", ["first part", "whole name", "folder"])
def test_numbered_parts_are_one_archive(tmp_path, kind, given):
    parts = cut(pack(tmp_path, kind, IMAGES), 4)
    root = {"first part": parts[0], "whole name": tmp_path / f"set{kind}", "folder": tmp_path}[given]
    assert images(listed(root)) == dict(zip(keys(kind), IMAGES.values(), strict=True))


def test_a_missing_part_is_one_refusal_that_names_it(tmp_path):
    parts = cut(pack(tmp_path, ".7z", IMAGES), 4)
    parts[1].unlink()
    (refusal,) = listed(tmp_path)
    assert (refusal.reason, refusal.source_key) == ("missing-part", "set.7z")
    assert "part 002 is missing" in refusal.detail


def test_what_a_file_is_its_first_bytes_say(tmp_path):
    pack(tmp_path, ".zip", IMAGES).rename(tmp_path / "set.tar")
    assert images(listed(tmp_path / "set.tar")) == {f"set.tar/{name}": data for name, data in IMAGES.items()}
    write(tmp_path / "page.zip", "<html>404</html>" * 40)
    assert reasons(listed(tmp_path / "page.zip")) == {"page.zip": "not-an-archive"}


def test_a_folder_and_a_pattern_are_all_the_archives_in_them(tmp_path):
    for n, name in enumerate(IMAGES):
        (tmp_path / "shards" / f"{n % 2}").mkdir(parents=True, exist_ok=True)
        tar(tmp_path / "shards" / f"{n % 2}" / f"{n:02d}.tar", {name: IMAGES[name]})
    write(tmp_path / "shards" / "README.txt", "not an archive")
    whole = images(listed(tmp_path / "shards"))
    assert sorted(whole.values()) == sorted(IMAGES.values())
    assert "0/00.tar/pictures/0.png" in whole
    assert list(images(listed(tmp_path / "shards" / "1" / "*.tar"))) == [
        f"{n:02d}.tar/{list(IMAGES)[n]}" for n in range(1, 12, 2)
    ]
    assert len(images(listed([str(tmp_path / "shards" / "0" / "00.tar"), str(tmp_path / "shards" / "1" / "01.tar")]))) == 2


def test_concatenated_tars_are_read_to_the_end(tmp_path):
    names = list(IMAGES)
    a, b = (tar(tmp_path / n, {name: IMAGES[name] for name in part}) for n, part in (("a", names[:5]), ("b", names[5:])))
    write(tmp_path / "set.tar", a.read_bytes() + b.read_bytes())
    assert list(images(listed(tmp_path / "set.tar")).values()) == list(IMAGES.values())


def test_old_and_long_and_foreign_names_are_read(tmp_path):
    names = ["a/" * 60 + "deep.jpg", "x" * 150 + ".jpg", "日本語/ü.jpg", "./dotted.jpg"]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tar(tmp_path / "set.tar", dict.fromkeys(names, IMAGES["pictures/1.jpg"]), format=form)
        assert list(images(listed(path))) == [f"set.tar/{name.removeprefix('./')}" for name in names]


def test_a_zip_with_something_before_it_and_a_large_one_are_read(tmp_path, monkeypatch):
    path = pack(tmp_path, ".zip", IMAGES)
    path.write_bytes(path.read_bytes()[:4] + path.read_bytes()[4:])
    monkeypatch.setattr("zipfile.ZIP_FILECOUNT_LIMIT", 3)  # the 64-bit directory, which large archives have
    whole = zipped(tmp_path / "large.zip", IMAGES)
    assert list(images(listed(whole)).values()) == list(IMAGES.values())
    write(tmp_path / "self.zip", b"PK\3\4" + bytes(100) + path.read_bytes())
    assert list(images(listed(tmp_path / "self.zip")).values()) == list(IMAGES.values())


def test_only_what_was_asked_for_by_pattern_is_taken(tmp_path):
    path = tar(
        tmp_path / "set.tar", {"a/0_real/1.jpg": b"1", "a/1_fake/2.jpg": b"2", "b/0_real/3.jpg": b"3", "b/0_real/4.jpg": b"4"}
    )
    assert list(images(listed(path, include=["*/0_real/*"], exclude=["*/4.*"]))) == [
        "set.tar/a/0_real/1.jpg",
        "set.tar/b/0_real/3.jpg",
    ]


def test_members_that_are_no_images_are_passed_over_and_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    assert listed(tar(tmp_path / "set.tar", {"notes.md": b"x", "a.csv": b"y", "b.csv": b"z"})) == []
    assert "passed over members that are not images by name: 2 .csv, 1 .md" in caplog.text


# --- what is said of an image ------------------------------------------------------------------------------------------


def test_a_webdataset_samples_other_files_speak_of_its_images(tmp_path):
    path = tar(tmp_path / "set.tar", {
        "0.jpg": IMAGES["pictures/1.jpg"], "0.json": b'{"licence": "CC0-1.0", "kind": "sdxl", "album": "x"}',
        "0.txt": b"a cat\n",
        "1.cls": b"7", "1.jpg": IMAGES["pictures/2.jpg"], "1.json": b'{"kind": "nature", "caption": "a dog"}',
        "2.jpg": IMAGES["pictures/4.jpg"], "2.json": b"{broken",
    })  # fmt: skip
    told = {"origin": None, "label": "kind", "labels": {"sdxl": "SDXL 1.0", "nature": "real"}, "licence_column": "licence",
            "group": "album", "stratum": "cls"}  # fmt: skip
    cat, dog, broken = listed(path, **told)
    assert (cat.prompt, cat.origin, cat.generator, cat.licence, cat.group) == ("a cat", "synthetic", "SDXL 1.0", "CC0-1.0", "x")
    assert (dog.prompt, dog.origin, dog.stratum) == ("a dog", "real", "7")
    assert broken.reason == "unknown-label"


def test_parquets_columns_speak_too_and_name_the_rows(tmp_path):
    names, said = [f"photo {n}" for n in range(12)], [f"a thing {n}" for n in range(12)]
    path = parquet(tmp_path / "set.parquet", IMAGES, name=names, said=said, kind=["portrait", "landscape"] * 6)
    told = {
        "key": "name",
        "caption": "said",
        "category_column": "kind",
        "categories": {"portrait": "faces", "landscape": "photos"},
    }
    found = listed(path, **told)
    assert [item.source_key for item in found] == [f"set.parquet/photo {n}" for n in range(12)]
    assert (found[3].prompt, found[3].category) == ("a thing 3", "photos")
    assert [item.source_key for item in listed(path, want(category="faces"), **told)] == [
        f"set.parquet/photo {n}" for n in range(0, 12, 2)
    ]


def test_a_plain_bytes_column_is_an_image_column(tmp_path):
    pq.write_table(pa.table({"picture": pa.array(list(IMAGES.values()), pa.binary())}), tmp_path / "set.parquet")
    assert list(images(listed(tmp_path / "set.parquet", image="picture")).values()) == list(IMAGES.values())


def test_folder_names_say_what_is_real_where_nothing_else_does(tmp_path):
    path = tar(tmp_path / "set.tar", {"real/a.jpg": b"1", "fake/sd15/b.jpg": b"2", "other/c.jpg": b"3"})
    assert [(item.origin, item.generator) for item in listed(path, origin=None)] == [
        ("real", None),
        ("synthetic", "sd15"),
        (None, None),
    ]
    tar(tmp_path / "fake.tar", {"b.jpg": b"2"})
    assert [item.origin for item in listed(tmp_path / "fake.tar", origin=None)] == ["synthetic"]


def test_strata_are_folders_or_columns_and_can_be_listed_beforehand(tmp_path):
    path = tar(
        tmp_path / "set.tar", {f"{kind}/{n}.jpg": b"x" for kind, count in (("cat", 3), ("dog", 2)) for n in range(count)}
    )
    archive = Archive(str(path), origin="real", stratum="/")
    assert archive.strata(want()) == {"cat": 3, "dog": 2}
    assert [item.stratum for item in archive.find(want(stratum="dog"))] == ["dog", "dog"]


# --- the seed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_count_is_the_choice_of_the_seed_and_the_names_alone(tmp_path, kind):
    """First those that are taken, in stored order; then the spares, in the order of the seed."""
    path, names = pack(tmp_path, kind, IMAGES), keys(kind)
    for seed in (0, 1):
        by_seed = sorted(names, key=lambda name: make_id(seed, name))
        found = list(images(listed(path, want(seed=seed, count=5))))
        assert found == [name for name in names if name in by_seed[:5]] + by_seed[5:]


def test_it_is_the_choice_that_a_folder_makes(tmp_path):
    for name, data in IMAGES.items():
        write(tmp_path / "tree" / "set.tar" / name, data)
    folder = [item.source_key for item in Folder(str(tmp_path / "tree"), origin="real").find(want(seed=3))]
    packed = list(images(listed(pack(tmp_path, ".tar", IMAGES), want(seed=3, count=4))))
    assert (set(packed[:4]), packed[4:]) == (set(folder[:4]), folder[4:])


def test_spares_that_do_not_fit_in_memory_are_read_again(tmp_path, monkeypatch):
    path = pack(tmp_path, ".tar.gz", IMAGES)
    whole = listed(path, want(count=3))
    monkeypatch.setattr("imaginet_build.collectors.archive._SPARE_BYTES", 1)
    assert listed(path, want(count=3)) == whole


def openings(tmp_path, monkeypatch, number: int, taken: int, kind: str = ".tar.gz") -> int:
    """How often an archive is opened until a quota of half its members has taken so many of its images."""
    opened: list[str] = []
    whole = Archive._opened
    monkeypatch.setattr(Archive, "_opened", lambda self, volume: opened.append(volume.name) or whole(self, volume))
    folder = tmp_path / f"{number}-{taken}"
    folder.mkdir()
    path = pack(folder, kind, {f"{n}.jpg": b"\xff\xd8\xff %d" % n for n in range(number)})
    found = list(itertools.islice(Archive(str(path), origin="real").find(want(count=number // 2)), taken))
    assert len({item.source_key for item in found}) == taken
    by_seed = sorted((f"set{kind}/{n}.jpg" for n in range(number)), key=lambda name: make_id(0, name))
    assert [item.source_key for item in found][number // 2 :] == by_seed[number // 2 : taken]
    monkeypatch.undo()
    return len(opened)


def test_an_archive_of_which_much_is_broken_is_read_a_few_times_however_large_it_is(tmp_path, monkeypatch):
    """A quota of half, and two thirds as many spares: five times the members, not five times the readings."""
    few, many = (openings(tmp_path, monkeypatch, number, number * 5 // 6) for number in (600, 3000))
    assert few <= 8
    assert many <= few + 2
    assert openings(tmp_path, monkeypatch, 600, 300) <= 2, "what needs no spare is read once, behind one look at the names"


def test_spares_for_which_there_is_no_room_are_said(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    path = pack(tmp_path, ".tar", IMAGES)
    monkeypatch.setattr("imaginet_build.collectors.archive.SpooledTemporaryFile.write", full)
    found = Archive(str(path), origin="real").find(want(count=3))
    assert len(list(itertools.islice(found, 3))) == 3
    with pytest.raises(BuildError, match=r"No space left on device.*set TMPDIR"):
        next(found)


def test_some_shards_of_many_may_be_asked_for(tmp_path):
    for n in range(10):
        tar(tmp_path / f"{n}.tar", {"a.jpg": b"x", "b.jpg": b"y"})
    taken = {seed: tuple(images(listed(tmp_path, want(seed=seed), shards=3))) for seed in range(4)}
    assert all(len(names) == 6 for names in taken.values())
    assert len(set(taken.values())) > 1
    assert taken[0] == tuple(images(listed(tmp_path, want(seed=0), shards=3)))


# --- at a URL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_fsspec_url_is_read_in_place(tmp_path, kind):
    memory = fsspec.filesystem("memory")
    place = f"/{tmp_path.name}/set{kind}"
    memory.pipe(place, pack(tmp_path, kind, IMAGES).read_bytes())
    for url in (f"memory:/{place}", f"memory://{tmp_path.name}", f"memory://{tmp_path.name}/*{kind}"):
        assert images(listed(url)) == dict(zip(keys(kind), IMAGES.values(), strict=True))
    assert images(listed(f"file://{tmp_path}/set{kind}")) == dict(zip(keys(kind), IMAGES.values(), strict=True))


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A folder over HTTP with ranges; `cut`: answers for files of this name end half-way; `to`: every request is sent there."""

    protocol_version = "HTTP/1.1"
    cut = to = ""
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        path = Path(self.directory) / self.path.lstrip("/")
        if self.to:
            return self.answer(302, b"", Location=self.to)
        if not path.is_file():
            return self.answer(404, b"")
        data = path.read_bytes()
        start, end = 0, len(data) - 1
        if asked := self.headers.get("Range"):
            start, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(start), min(int(last or end), end)
        span = {"Content-Range": f"bytes {start}-{end}/{len(data)}"} if asked else {}
        self.answer(206 if asked else 200, data[start : end + 1], **{"Accept-Ranges": "bytes", **span})

    do_HEAD = do_GET

    def answer(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            broken = bool(self.cut and self.cut in self.path and code == 206)
            self.wfile.write(body[: len(body) // 2] if broken else body)
            self.close_connection = broken

    def log_message(self, *words: object) -> None:
        """Quiet."""


@pytest.fixture
def served(tmp_path):
    handler = type("Here", (Ranges,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", handler
        server.shutdown()


def test_http_is_read_by_ranges(tmp_path, served):
    pytest.importorskip("aiohttp")
    place, _ = served
    for kind in (".tar", ".zip", ".parquet", ".tar.gz"):
        pack(tmp_path, kind, IMAGES)
        found = listed(f"http://{place}/set{kind}", allow_loopback=[place])
        assert images(found) == dict(zip(keys(kind), IMAGES.values(), strict=True))


def test_a_private_address_is_not_connected_to_unless_that_is_allowed_nor_through_a_redirect(tmp_path, served):
    pytest.importorskip("aiohttp")
    place, handler = served
    pack(tmp_path, ".tar", IMAGES)
    with pytest.raises(BuildError, match="loopback address, where nothing is fetched"):
        listed(f"http://{place}/set.tar")
    assert handler.asked == 0
    with pytest.raises(BuildError, match=r'To mend it: .*options = \{ allow_loopback = \["HOST:PORT"\] \}\. What was'):
        listed(f"http://{place}/set.tar")
    handler.to = "http://127.0.0.2:9/set.tar"
    with pytest.raises(BuildError, match=r"127\.0\.0\.2 is a loopback address"):
        listed(f"http://{place}/set.tar", allow_loopback=[place])
    with pytest.raises(UsageError, match=r"leads to 127\.0\.0\.1, a loopback address"):
        listed("ftp://127.0.0.1/set.tar")
    with pytest.raises(UsageError, match="allow_loopback"):
        listed("ftp://127.0.0.1/set.tar")
    with pytest.raises(UsageError, match=r"10\.0\.0\.1, a .*give a public URL, or fetch the archive yourself"):
        listed("ftp://10.0.0.1/set.tar")


def test_a_url_at_which_there_is_nothing_is_to_be_corrected_and_the_other_archives_are_read(tmp_path, served):
    pytest.importorskip("aiohttp")
    place, _ = served
    pack(tmp_path, ".tar", IMAGES)
    found = Archive([f"http://{place}/{n}.tar" for n in ("gone", "set")], origin="real", allow_loopback=[place]).find(want())
    assert len(list(itertools.islice(found, len(IMAGES)))) == len(IMAGES)
    with pytest.raises(BuildError, match=r"gone\.tar: .*404.*To mend it: correct the URL in `root`, or take it out\. What"):
        next(found)


def test_a_transport_that_fails_is_no_fault_of_the_archive_and_the_next_call_goes_on(tmp_path, served):
    pytest.importorskip("aiohttp")
    place, handler = served
    for name in ("a.tar", "b.tar", "c.tar"):
        tar(tmp_path / name, {f"{name[0]}{n}.jpg": jpeg(f"{name}{n}", 32, 32) for n in range(3)})
    root = [f"http://{place}/{name}.tar" for name in "abc"]
    archive = Archive(root, origin="real", allow_loopback=[place])
    handler.cut = "b.tar"
    found = archive.find(want())
    here = {next(found).source_key for _ in range(6)}
    assert here == {f"{v}.tar/{v}{n}.jpg" for v in "ac" for n in range(3)}, "the other archives are read all the same"
    with pytest.raises(BuildError, match=r"b\.tar.*run the same command again") as error:
        next(found)
    assert not isinstance(error.value, UsageError)
    handler.cut = ""
    assert set(images(listed(root, want(here), allow_loopback=[place]))) == {f"b.tar/b{n}.jpg" for n in range(3)}


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("nowhere/set.tra", r'no archive nowhere/set\.tra\. Name .*entry: options = \{ root = "PLACE" \}.*collect --list'),
        ("zip://a.zip::memory://b.zip", "a chained URL reads one archive inside another"),
        ([], "root names no archive"),
        ("memory://nowhere-at-all/*.tar", "no archive in memory://nowhere-at-all"),
        ("blob://x/y.tar", "Protocol not known: blob"),
    ],
)
def test_a_wrong_place_is_said(root, words):
    with pytest.raises(UsageError, match=words):
        listed(root)


def test_a_near_name_is_suggested(tmp_path):
    pack(tmp_path, ".tar", IMAGES)
    with pytest.raises(UsageError, match=r"did you mean 'set\.tar'\?"):
        listed(tmp_path / "sett.tar")


# --- collected ---------------------------------------------------------------------------------------------------------

CARD = 'adapter = "imaginet_build.collectors.archive:Archive"\nlicence = "CC0-1.0"\norigin = "real"\n'


def entry(monkeypatch, tmp_path, root: Path, count: int | None = None) -> Collect:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "manifests" / "sources" / "mine.toml", CARD)
    cards._announce.cache_clear()
    return Collect(source="mine", count=count, options={"root": str(root)})


def held(store: Store) -> dict[str, bytes]:
    rows = store.facts(["id", "source_key"]).to_pylist()
    data = dict(store.images(store.in_part_order([row["id"] for row in rows])))
    return {row["source_key"]: data[row["id"]] for row in rows}


@pytest.mark.parametrize("kind", [".tar.gz", ".zip", ".parquet"])
def test_a_quota_interrupted_anywhere_ends_with_the_same_set(tmp_path, monkeypatch, kind):
    rotten = dict(IMAGES) | dict.fromkeys(list(IMAGES)[::4], b"rotten")
    monkeypatch.setattr("imaginet_build.collect.SEGMENT_IMAGES", 2, raising=False)
    wanted = entry(monkeypatch, tmp_path, pack(tmp_path, kind, rotten), 6)
    monkeypatch.setattr(engine, "run", Inline())
    whole = Store(tmp_path / "whole")
    collect(whole, [wanted], 0, Pool(workers=1))
    by_seed = sorted(keys(kind), key=lambda name: make_id(0, name))
    good = [name for name in by_seed if not name.endswith(tuple(f"/{n}.{e}" for n in (0, 4, 8) for e in ("png", "jpg")))]
    assert set(held(whole)) == set(good[:6])
    store = Store(tmp_path / "interrupted")
    for patience in range(4):
        monkeypatch.setattr(engine, "run", Inline(seed=patience, patience=patience))
        try:
            collect(store, [wanted], 0, Pool(workers=1))
        except Interrupted:
            continue
    monkeypatch.setattr(engine, "run", Inline())
    collect(store, [wanted], 0, Pool(workers=1))
    assert held(store) == held(whole)


def test_the_same_images_have_the_same_ids_wherever_the_archive_lies(tmp_path, monkeypatch, inline):
    pack(tmp_path, ".tar", IMAGES)
    (tmp_path / "moved").mkdir()
    ids = []
    for root in (tmp_path / "set.tar", tmp_path / "moved" / "set.tar"):
        store = Store(tmp_path / f"work-{len(ids)}")
        collect(store, [entry(monkeypatch, tmp_path, root)], 0, Pool(workers=1))
        ids.append(store.ids())
        if len(ids) == 1:
            root.rename(tmp_path / "moved" / "set.tar")
    assert ids[0] == ids[1]
    assert len(ids[0]) == len(IMAGES)


def test_it_can_be_built_from_a_card(tmp_path, monkeypatch):
    entry(monkeypatch, tmp_path, pack(tmp_path, ".tar", IMAGES))
    assert isinstance(catalog.build(catalog.card("sources", "mine"), root=str(tmp_path / "set.tar")), Archive)


def killed_and_resumed(tmp_path: Path, monkeypatch, kind: str, count: int | None, number: int, kills: int) -> None:
    """The true command, killed without warning at random moments, until it is through; beside one that was left alone."""
    files = {f"p/{n:04d}.jpg": jpeg(f"kill {n}", 64, 48) for n in range(number)}
    entry(monkeypatch, tmp_path, pack(tmp_path, kind, files))
    quota = f"count = {count}\n" if count else ""
    asked = f'[[collect]]\nsource = "mine"\n{quota}options = {{ root = "set{kind}" }}\n'
    write(tmp_path / "kill.toml", f'name = "kill"\nseed = 5\n[engine]\nworkers = 2\n{asked}')

    def start(work: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "imaginet_build", "collect", "--recipe", "kill.toml", "--work", work]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    alone = start("alone")
    assert alone.wait(timeout=300) == 0, alone.stdout.read()
    chance = random.Random(number)
    for _ in range(kills):
        process = start("killed")
        parts = tmp_path / "killed" / "parts" / "collect"
        before = len(list(parts.glob("*.parquet"))) if parts.is_dir() else 0
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            if parts.is_dir() and len(list(parts.glob("*.parquet"))) > before:
                break
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    last = start("killed")
    assert last.wait(timeout=300) == 0, last.stdout.read()
    whole, resumed = held(Store(tmp_path / "alone")), held(Store(tmp_path / "killed"))
    assert resumed == whole
    assert len(whole) == (count or number)
    for process in (alone, last):
        process.stdout.close()


def test_killed_and_resumed_it_has_no_duplicate_and_no_gap(tmp_path, monkeypatch):
    killed_and_resumed(tmp_path, monkeypatch, ".tar.gz", 90, 150, 2)


@pytest.mark.prove
@pytest.mark.parametrize(
    ("kind", "count"), [(".tar", None), (".zip", 700), (".7z", None), (".parquet", 700), (".tar.zst", 700)]
)
def test_killed_again_and_again_it_has_no_duplicate_and_no_gap(tmp_path, monkeypatch, kind, count):
    killed_and_resumed(tmp_path, monkeypatch, kind, count, 1000, 6)


def test_a_fault_of_ours_is_not_called_damage_and_one_of_a_library_is(tmp_path, monkeypatch):
    """Whose line raised it decides."""
    path = zipped(tmp_path / "set.zip", {"a.jpg": jpeg("a", 48, 40)})
    for module in ("imaginet_build.collectors.archive", "some.library"):
        line = compile("lambda self, *_: self.nothing_of_that_name", "line", "eval")
        monkeypatch.setattr(Archive, "_described", eval(line, {"__name__": module}))
        if module == "some.library":
            assert reasons(listed(path)) == {"set.zip": "damaged"}
        else:
            with pytest.raises(AttributeError, match="nothing_of_that_name"):
                listed(path)
