"""Folders of images, with and without an index: each file is delivered as it lies or refused with a reason."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import jpeg, png, write

from imaginet_build.collectors import folder
from imaginet_build.collectors.folder import Folder
from imaginet_build.errors import UsageError
from imaginet_build.records import Found, Refusal, Want

PNG = png("folder", 24, 24)
HEADER = "path,origin,content_type,source,generator,licence\n"


def want(category: str | None = None, seed: int = 0, have: frozenset[str] = frozenset()) -> Want:
    return Want("folder", category, seed, have)


def find(root: Path, asked: Want | None = None, **settings) -> dict[str, Found | Refusal]:
    """Source key -> what was delivered; no key comes twice."""
    listed = list(Folder(str(root), **settings).find(asked or want()))
    assert len({item.source_key for item in listed}) == len(listed)
    return {item.source_key: item for item in listed}


def reasons(found: dict[str, Found | Refusal]) -> dict[str, str]:
    return {key: item.reason for key, item in found.items() if isinstance(item, Refusal)}


# --- a plain tree ------------------------------------------------------------------------------------------------------


def test_bytes_are_delivered_as_they_lie(tmp_path):
    data = {"a.png": PNG, "deep/er/b.JPG": jpeg(1), "c.jpg": b"not an image at all"}
    for key, content in data.items():
        write(tmp_path / key, content)
    found = find(tmp_path, origin="real")
    assert {key: item.data for key, item in found.items()} == data, "what is behind a name is for the decoder to say"


@pytest.mark.parametrize(
    ("key", "origin", "category", "generator", "source"),
    [
        ("real/photos/coco/1.png", "real", "photos", None, "coco"),
        ("synthetic/faces/stylegan2/x/1.png", "synthetic", "faces", "stylegan2", "stylegan2"),
        ("fake/1.png", "synthetic", "uncategorized", "ROOT", "ROOT"),
        ("sdxl/1_fake/1.png", "synthetic", "uncategorized", "sdxl", "sdxl"),
        ("Real/Paintings/1.png", "real", "paintings", None, "ROOT"),
        ("ai/1.png", "synthetic", "uncategorized", "ROOT", "ROOT"),
        ("nature/1.png", "real", "uncategorized", None, "ROOT"),
        ("elsewhere/1.png", None, "uncategorized", None, "elsewhere"),
    ],
)
def test_folder_names_say_class_category_and_maker(tmp_path, key, origin, category, generator, source):
    write(tmp_path / key, PNG)
    (found,) = find(tmp_path).values()
    root = tmp_path.name
    said = (found.origin, found.category, found.generator, found.source)
    assert said == (origin, category, root if generator == "ROOT" else generator, root if source == "ROOT" else source)


def test_what_the_recipe_says_comes_before_what_folders_are_called(tmp_path):
    write(tmp_path / "real" / "1.png", PNG)
    (found,) = find(tmp_path, origin="synthetic", category="faces").values()
    assert (found.origin, found.category) == ("synthetic", "faces")


def test_files_that_promise_no_image_are_passed_over_and_counted(tmp_path, caplog):
    for key in ("a.png", "b.txt", "c.txt", ".hidden.png", ".git/d.png"):
        write(tmp_path / key, PNG)
    with caplog.at_level("INFO"):
        assert set(find(tmp_path, origin="real")) == {"a.png"}
    assert "2 .txt" in caplog.text


def test_a_file_without_an_extension_is_taken_by_what_it_is(tmp_path, caplog):
    caplog.set_level("INFO")
    write(tmp_path / "camera ünï" / "noext", PNG)
    write(tmp_path / "camera ünï" / "README", b"words")
    write(tmp_path / "camera ünï" / "empty", b"")
    assert find(tmp_path).keys() == {"camera ünï/noext"}
    assert "2 without an extension" in caplog.text


def test_links_and_odd_files_are_refused_with_a_reason(tmp_path):
    root = tmp_path / "root"
    write(tmp_path / "secret.png", PNG)
    write(root / "inside.png", PNG)
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "within.png").symlink_to(root / "inside.png")
    (root / "dangling.png").symlink_to(root / "nowhere.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "device.png").symlink_to("/dev/zero")
    (root / "folder.png").mkdir()
    (root / "linked").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.png")
    found = find(root, origin="real")
    assert reasons(found) == {
        "out.png": "outside-root",
        "dangling.png": "missing",
        "loop.png": "missing",
        "device.png": "outside-root",
        "pipe.png": "not-a-file",
        "linked": "linked-folder",
    }
    assert {key for key, item in found.items() if isinstance(item, Found)} == {"inside.png", "within.png"}


def test_a_file_name_in_another_encoding_is_refused_in_letters_that_can_be_written_down(tmp_path):
    write(tmp_path / "good.png", PNG)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(PNG)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff/1.png")).write_bytes(PNG)
    found = find(tmp_path, origin="real")
    assert reasons(found) == {"caf\\xe9.png": "name-not-utf8", "\\xff/1.png": "name-not-utf8"}
    assert "rename" in found["caf\\xe9.png"].detail
    assert isinstance(found["good.png"], Found)


def test_a_huge_file_is_refused_unread(tmp_path):
    with write(tmp_path / "huge.png", b"").open("wb") as file:
        file.truncate(folder.MAX_BYTES + 1)
    assert reasons(find(tmp_path, origin="real")) == {"huge.png": "too-large"}


# --- an index ----------------------------------------------------------------------------------------------------------


def indexed(root: Path, rows: str, header: str = HEADER) -> Path:
    write(root / "a.png", PNG)
    write(root / "index.csv", header + rows)
    return root


def test_an_index_says_everything_of_its_images_and_only_they_are_taken(tmp_path):
    digest = hashlib.sha256(PNG).hexdigest().upper()
    root = indexed(
        tmp_path, f'a.png,Synthetic,photos,web,SDXL,MIT,{digest},set 7,"a, b"\n',
        "path,origin,content_type,source,generator,licence,sha256,group,prompt\n",
    )  # fmt: skip
    write(root / "unlisted.png", PNG)
    assert find(root) == {
        "a.png": Found("a.png", PNG, "synthetic", "photos", "SDXL", "web", "MIT", "set 7", "a, b", digest),
    }


def test_columns_may_come_in_any_order_with_a_byte_order_mark_and_unknown_ones(tmp_path):
    root = indexed(tmp_path, "x,real,a.png\n", "\ufeffnotes,origin,path\n")
    assert find(root)["a.png"].origin == "real"


def test_every_faulty_row_is_a_reject_that_names_its_line_and_the_rest_goes_on(tmp_path):
    for name in ("b.png", "c.png", "d.png", "e.png", "f.png", "short.png"):
        write(tmp_path / "root" / name, PNG)
    write(tmp_path / "outside.png", PNG)
    rows = [
        "a.png,real,photos,s,,MIT",
        "a.png,real,photos,s,,MIT",
        "nowhere.png,real,photos,s,,MIT",
        "../outside.png,real,photos,s,,MIT",
        "../nowhere.png,real,photos,s,,MIT",
        f"{tmp_path}/outside.png,real,photos,s,,MIT",
        "b.png,painted,photos,s,,MIT",
        "c.png,real,sculptures,s,,MIT",
        ",real,photos,s,,MIT",
        ".,real,photos,s,,MIT",
        "d.png,,photos,s,,MIT",
        'e.png,real,photos,"' + "x" * 200_000 + '",,MIT',
        "short.png,real",
        "f.png,real,photos,s,,MIT,and,more",
    ]
    found = find(indexed(tmp_path / "root", "\n".join(rows) + "\n"))
    assert reasons(found) == {
        "a.png#3": "listed-twice",
        "nowhere.png": "missing",
        "../outside.png": "outside-root",
        "../nowhere.png": "missing",
        f"{tmp_path}/outside.png": "outside-root",
        "b.png": "unknown-origin",
        "c.png": "unknown-category",
        "#10": "no-path",
        ".": "not-a-file",
        "d.png": "unknown-origin",
        "index.csv#13": "broken-row",
    }
    assert "line 8 of index.csv" in found["b.png"].detail
    assert {key for key, item in found.items() if isinstance(item, Found)} == {"a.png", "short.png", "f.png"}


def test_a_checksum_that_lies_is_found_out(tmp_path):
    header = "path,origin,sha256\n"
    assert reasons(find(indexed(tmp_path, f"a.png,real,{'0' * 64}\n", header))) == {"a.png": "checksum"}


def test_broken_utf8_costs_its_own_rows_only(tmp_path):
    write(tmp_path / "a.png", PNG)
    write(tmp_path / "index.csv", HEADER.encode() + b"caf\xe9.png,real,photos,s,,MIT\na.png,real,photos,caf\xe9,,MIT\n")
    found = find(tmp_path)
    assert reasons(found) == {"caf\ufffd.png": "missing"}
    assert found["a.png"].source == "caf\ufffd"


@pytest.mark.parametrize("header", ["file,label\n", "", "path;origin\n", "origin\n"])
def test_an_index_without_its_columns_stops_before_anything_is_read(tmp_path, header):
    write(tmp_path / "index.csv", header + "a.png,real\n" if header else "")
    with pytest.raises(UsageError, match=r"index\.csv: no column .*path|no column origin"):
        find(tmp_path)


@pytest.mark.parametrize("astray", ['"web', '"we"b', '"', '"web,""', '"web" '])
@pytest.mark.parametrize("later", ["web", '5"', '"a ""b"""', '"two\nlines"', '"\nlines"'])
def test_a_stray_quote_in_an_index_costs_its_own_line(tmp_path, astray, later):
    for number in range(9):
        write(tmp_path / f"{number}.png", PNG)
    rows = "".join(f"{n}.png,real,photos,{astray if n == 3 else later}\n" for n in range(9))
    write(tmp_path / "index.csv", f"path,origin,content_type,source\n{rows}")
    found = find(tmp_path)
    line = rows[: rows.index("3.png")].count("\n") + 2
    assert reasons(found) == {f"index.csv#{line}": "broken-row"}
    assert found[f"index.csv#{line}"].detail.startswith(f"line {line}: a quote in it is not closed")
    assert {key for key, item in found.items() if isinstance(item, Found)} == {f"{n}.png" for n in range(9) if n != 3}


def test_a_stray_quote_in_the_header_of_an_index_is_said(tmp_path):
    with pytest.raises(
        UsageError, match=r"index\.csv: its first line should name the columns, but a quote in it is not closed"
    ):
        find(indexed(tmp_path, 'a.png,real,5"\n', 'path,origin,"source\n'))


def test_zero_bytes_and_control_characters_in_an_index_are_a_missing_file(tmp_path):
    found = find(indexed(tmp_path, "a\0.png,real,photos,s,,MIT\na.png,real,photos,s,,MIT\n"))
    assert reasons(found) == {"a\0.png": "missing"}
    assert isinstance(found["a.png"], Found)


rows = st.lists(
    st.tuples(
        st.sampled_from(["a.png", "b.png", "../x.png", "", "a.png ", "nowhere.png"]) | st.text(max_size=6),
        st.sampled_from(["real", "synthetic", "REAL ", ""]) | st.text(max_size=4),
        st.sampled_from(["photos", "faces", ""]) | st.text(max_size=4),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows)
def test_whatever_an_index_says_every_row_is_answered_and_no_byte_comes_from_elsewhere(tmp_path, listed):
    write(tmp_path / "x.png", b"the secret")
    root = tmp_path / "root"
    for name in ("a.png", "b.png"):
        write(root / name, PNG)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("path", "origin", "content_type"), *listed])
    write(root / "index.csv", text.getvalue().encode("utf-8", "replace"))
    found = find(root)
    assert len(found) == len(listed)
    for item in found.values():
        assert item.reason if isinstance(item, Refusal) else item.data == PNG


# --- which, and in which order -----------------------------------------------------------------------------------------


def tree(root: Path, count: int = 12) -> Path:
    for number in range(count):
        write(root / ("photos" if number % 2 else "faces") / f"{number:02}.png", PNG)
    return root


def test_the_order_depends_on_the_seed_alone(tmp_path):
    here, there = tree(tmp_path / "here"), tree(tmp_path / "there")
    orders = [list(find(root, want(seed=seed), origin="real")) for root in (here, there) for seed in (0, 1)]
    assert orders[0] == orders[2]
    assert orders[1] == orders[3]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_files_that_come_later_do_not_reorder_those_that_were_there(tmp_path):
    before = list(find(tree(tmp_path, 8), origin="real"))
    after = list(find(tree(tmp_path, 12), origin="real"))
    assert [key for key in after if key in before] == before


def test_what_is_here_already_is_not_read_again(tmp_path):
    keys = list(find(tree(tmp_path), origin="real"))
    rest = list(find(tmp_path, want(have=frozenset(keys[:5])), origin="real"))
    assert rest == keys[5:]


def test_one_category_alone_may_be_asked_for(tmp_path):
    found = find(tree(tmp_path), want(category="faces"), origin="real")
    assert len(found) == 6
    assert {item.category for item in found.values()} == {"faces"}


def test_what_nothing_gives_a_category_is_of_the_one_that_is_asked_for(tmp_path):
    for key in ("1.png", "holiday/2.png", "faces/3.png"):
        write(tmp_path / "plain" / key, PNG)
    found = find(tmp_path / "plain", want(category="photos"), origin="real")
    assert {key: item.category for key, item in found.items()} == {"1.png": "photos", "holiday/2.png": "photos"}
    assert find(tmp_path / "plain", want(category="photos"), origin="real", category="faces") == {}
    assert Folder(str(tmp_path / "plain"), stratum="/").strata(want(category="photos")) == {".": 1, "holiday": 1}
    for name in ("a.png", "b.png"):
        write(tmp_path / "listed" / name, PNG)
    write(tmp_path / "listed" / "index.csv", "path,origin,content_type\na.png,real,\nb.png,real,faces\n")
    found = find(tmp_path / "listed", want(category="photos"))
    assert {key: item.category for key, item in found.items()} == {"a.png": "photos"}
    assert find(tmp_path / "listed")["a.png"].category == "uncategorized"


def test_a_folder_that_comes_to_nothing_says_so(tmp_path, caplog):
    root = tmp_path / "images"
    root.mkdir()
    assert find(root, want(category="photos"), origin="real") == {}
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("WARNING", f"{root}: there is no image in it. {folder._NEXT}")
    for key in ("faces/1.png", "faces/2.png", "paintings/3.png"):
        write(root / key, PNG)
    caplog.clear()
    assert find(root, want(category="photos"), origin="real") == {}
    assert [record.message for record in caplog.records] == [
        f"{root}: none of its images is of the category photos: it holds 2 of faces, 1 of paintings"
    ]
    caplog.clear()
    assert len(find(root, want(category="faces"), origin="real")) == 2
    assert not caplog.records
    write(root / "index.csv", "path,origin\n")
    assert find(root) == {}
    assert "index.csv lists no image" in caplog.text


# --- calls that are wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"root": "imges"},
            r"no folder .*imges; did you mean 'images'\? Say where .*: --set root=DIR.*, options = \{ root = .DIR. \} in .*",
        ),
        ({"root": "zzz"}, r"no folder .*zzz\. Say where the images lie"),
        ({"root": "images", "origin": "painted"}, r"origin = 'painted': it is one of real, synthetic"),
        ({"root": "images", "index": "list.csv"}, r"no index .*list\.csv"),
    ],
)
def test_a_wrong_call_is_said_when_the_folder_is_opened(tmp_path, settings, words):
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match=words):
        Folder(**settings | {"root": str(tmp_path / settings["root"])})


def test_an_index_may_have_another_name(tmp_path):
    write(tmp_path / "a.png", PNG)
    write(tmp_path / "index.csv", "nonsense")
    write(tmp_path / "list.csv", "path,origin\na.png,real\n")
    assert set(find(tmp_path, index="list.csv")) == {"a.png"}


# --- strata and dates ----------------------------------------------------------------------------------------------------


def test_folders_or_a_column_of_the_index_divide_the_images(tmp_path):
    for place in ("real/photos/cats/1.png", "real/photos/cats/2.png", "real/photos/dogs/3.png", "real/faces/x/4.png"):
        write(tmp_path / "tree" / place, PNG)
    source = Folder(str(tmp_path / "tree"), stratum="/")
    assert source.strata(want()) == {"cats": 2, "dogs": 1, "x": 1}
    assert source.strata(want(category="photos")) == {"cats": 2, "dogs": 1}
    cats = list(source.find(Want("folder", "photos", 0, frozenset(), "cats")))
    assert sorted((found.source_key, found.stratum) for found in cats) == [
        ("real/photos/cats/1.png", "cats"), ("real/photos/cats/2.png", "cats"),
    ]  # fmt: skip
    rows = ["path,origin,breed,date", "a.png,real,tabby,2019-05-01", "b.png,real,,", "c.png,real,tabby,"]
    write(tmp_path / "listed" / "index.csv", "\n".join(rows))
    for name in "abc":
        write(tmp_path / "listed" / f"{name}.png", PNG)
    listed = Folder(str(tmp_path / "listed"), stratum="breed")
    assert listed.strata(want()) == {"tabby": 2}
    found = {f.source_key: f for f in listed.find(want())}
    assert (found["a.png"].date, found["b.png"].date, found["b.png"].stratum) == ("2019-05-01", None, None)


def test_a_folder_that_is_not_divided_says_how_to(tmp_path):
    write(tmp_path / "a.png", PNG)
    with pytest.raises(UsageError, match='is not divided: give `stratum`, a column of its index, or "/"'):
        Folder(str(tmp_path)).strata(want())
    write(tmp_path / "index.csv", "path,origin\na.png,real\n")
    with pytest.raises(UsageError, match="no column breed"):
        list(Folder(str(tmp_path), stratum="breed").find(want()))
