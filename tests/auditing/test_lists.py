"""Lists people keep: with a header or without, words or digits, and lines that make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from imaginet_build.auditing.facts import Unreadable
from imaginet_build.auditing.lists import read_index, read_list
from imaginet_build.errors import UsageError


def listed(folder: Path, text: str, name: str = "list.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_published_form_has_digits_and_no_header(tmp_path: Path) -> None:
    target = read_list(listed(tmp_path, "./a/1.JPEG,0,0,4,8\n./b/2.png,1,2,0,1\n"))
    assert target.table.select(["path", "origin", "content_type", "family", "generator"]).to_pylist() == [
        {
            "path": "./a/1.JPEG",
            "origin": "real",
            "content_type": "photos",
            "family": None,
            "generator": None,
        },
        {
            "path": "./b/2.png",
            "origin": "synthetic",
            "content_type": "faces",
            "family": "gan",
            "generator": "stylegan_xl",
        },
    ]
    assert target.views == [None]


@pytest.mark.parametrize(
    "text",
    [
        "path,origin,generator\na.jpg,real,\nb.png,synthetic,sdxl\n",
        "origin,path,generator\nreal,a.jpg,\nsynthetic,b.png,sdxl\n",
        "filename,label,model\na.jpg,0,\nb.png,1,sdxl\n",
        "\ufeffpath,origin,generator\r\na.jpg,Real,\r\nb.png,fake,sdxl\r\n",
    ],
)
def test_a_header_names_the_columns(tmp_path: Path, text: str) -> None:
    table = read_list(listed(tmp_path, text, "list.csv")).table
    assert table["origin"].to_pylist() == ["real", "synthetic"]
    assert table["generator"].to_pylist() == [None, "sdxl"]
    assert table["content_type"].to_pylist() == ["uncategorized"] * 2


def test_tabs_and_two_columns_will_do(tmp_path: Path) -> None:
    assert len(read_list(listed(tmp_path, "a.jpg\t0\nb.png\t1\n", "list.tsv")).table) == 2


def test_lines_that_make_no_sense_are_listed(tmp_path: Path) -> None:
    target = read_list(listed(tmp_path, "a.jpg,0\nb.png,1\nc.png,7\n,1\nd.png\n"))
    assert len(target.table) == 2
    assert [u.reason for u in target.unreadable] == ["unknown-origin", "no-path", "unknown-origin"]


@pytest.mark.parametrize("text", ["", "hello world\n", "a.jpg,0\nb.jpg,0\n", "a,b\nc,d\n"])
def test_what_is_no_list_of_two_classes_is_a_usage_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"list\.txt"):
        read_list(listed(tmp_path, text))


def test_an_index_yields_what_it_says_of_each_file(tmp_path: Path) -> None:
    unreadable: list[Unreadable] = []
    path = listed(
        tmp_path,
        "path,origin,content_type,generator,group,sha256\na.jpg,real,photos,Canon,g1,ff\nb.png,synthetic,,sdxl,,\nc.png,?,,,,\n",
        "index.csv",
    )
    assert list(read_index(path, unreadable)) == [
        {"path": "a.jpg", "origin": "real", "content_type": "photos", "generator": None, "family": None, "group": "g1"},
        {"path": "b.png", "origin": "synthetic", "content_type": "uncategorized", "generator": "sdxl", "group": None},
    ]
    assert [(u.path, u.reason) for u in unreadable] == [("c.png", "unknown-origin")]


def test_a_line_with_too_many_fields_is_listed_and_not_lost(tmp_path: Path) -> None:
    target = read_list(listed(tmp_path, "path,origin\na.jpg,real\nb.png,fake,and,more\nc.png,fake\n", "list.csv"))
    assert target.table["path"].to_pylist() == ["a.jpg", "c.png"]
    assert target.unreadable == (Unreadable("list.csv:3", "no-row", "expected 2 fields, saw 4"),)


def test_rows_that_contradict_themselves_or_each_other_are_listed(tmp_path: Path) -> None:
    lines = "a.jpg,0,0,4,8\na.jpg,1,0,0,0\nb.png,1,0,4,8\nc.png,1,0,0,0\nd.jpg,0,0,4,8\nc.png,1,0,0,0\n"
    target = read_list(listed(tmp_path, lines))
    assert target.table["path"].to_pylist() == ["c.png", "d.jpg"]
    assert [(u.path, u.reason) for u in target.unreadable] == [
        ("a.jpg", "contradiction"),
        ("a.jpg", "contradiction"),
        ("b.png", "contradiction"),
        ("c.png", "listed-twice"),
    ]


def test_two_columns_of_one_meaning_that_disagree_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'origin' and 'label' both say origin and contradict each other in 1 rows, as row 1"):
        read_list(listed(tmp_path, "path,origin,label\na.jpg,real,1\nb.png,fake,1\n", "list.csv"))
    agreeing = read_list(listed(tmp_path, "path,origin,label\na.jpg,real,0\nb.png,fake,1\n", "other.csv"))
    assert agreeing.table["origin"].to_pylist() == ["real", "synthetic"]


def test_a_class_of_things_beside_the_origin_is_words(tmp_path: Path) -> None:
    table = read_list(listed(tmp_path, "path,class,origin\na.jpg,dog,real\nb.png,cat,fake\n", "list.csv")).table
    assert table["origin"].to_pylist() == ["real", "synthetic"]
    assert table["caption"].to_pylist() == ["dog", "cat"]


def test_groups_of_a_list_are_kept(tmp_path: Path) -> None:
    table = read_list(listed(tmp_path, "path,origin,group\na.jpg,real,x\nb.png,fake,x\nc.png,fake,\n", "list.csv")).table
    assert table["group"].to_pylist() == ["g:x", "g:x", "000000002"]
