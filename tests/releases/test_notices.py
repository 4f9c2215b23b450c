"""What was taken down stays away for ever, and its list names nobody; what was wrong is put right."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from imaginet_build.errors import UsageError
from imaginet_build.records import FACT_SCHEMA
from imaginet_build.releases import notices
from imaginet_build.releases.notices import TAKEN, Bars, Erratum, Notice, Notices
from imaginet_build.store import Store

SHA = {name: hashlib.sha256(name.encode()).hexdigest() for name in "abcdefgh"}


def facts(name: str, sha256: str = "", key: str | None = None, **more: object) -> dict[str, object]:
    empty = {field.name: "" if pa.types.is_string(field.type) else 0 for field in FACT_SCHEMA}
    known = {"id": name, "source": "album", "source_key": key, "sha256": sha256 or SHA[name], "pixel_hash": SHA[name]}
    return empty | known | {"pair_id": None, "origin": "real", "progressive": False, "contrast": 9.0} | more


def store(root: Path, *rows: dict[str, object]) -> Store:
    made = Store(root)
    made.write_part("collect", "one", list(rows), [b"" for _ in rows])
    return made


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_a_list_by_hand_names_images_in_any_way_and_comments_are_passed_over(tmp_path: Path) -> None:
    rows = f"# by hand\n\na,,,,privacy,\n,album,x/1.jpg,,,\n,,2.jpg,,,\n,,,{SHA['d'].upper()},error,Mrs Doe called\n"
    held = notices.read(write(tmp_path, "takedown.csv", "id,source,source_key,sha256,reason,note\n" + rows)).taken
    assert {notice.reason for notice in held} == {"privacy", "request", "error"}
    assert [n for n in held if n.id == "a"] == [Notice(id="a", reason="privacy")]
    assert [n.sha256 for n in held if n.reason == "error"] == [SHA["d"]]
    written = Notices(held).files()["takedown.csv"]
    assert "jpg" not in written
    assert "Doe" not in written


def test_a_line_that_names_no_image_is_told_by_its_number_and_what_was_taken_down_before_is_one(tmp_path: Path) -> None:
    held = store(tmp_path, facts("a", key="1.jpg"), facts("b", key="2.jpg"))
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    told = Notices((Notice(id="g", sha256=SHA["g"]), Notice(id="typo")))
    write(earlier, "takedown.csv", told.files()["takedown.csv"])
    lines = ["a,,", ",1.jpg,", f",,{SHA['b']}", "A,,", ",3.jpg,", f",,{SHA['c']}", "g,,", "typo,,", "typo,2.jpg,"]
    write(tmp_path, "takedown.csv", "\n".join(["id,source_key,sha256", *lines]))
    assert notices.strangers(held, [earlier]) == [f"takedown.csv, line {n}" for n in (5, 6, 7, 9)]
    (tmp_path / "takedown.csv").unlink()
    assert notices.strangers(held, [earlier]) == []


def test_every_fault_of_a_list_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, "takedown.csv", "id,sha256,reason\nx,,becaus\n,abc,\n,,request\n")
    with pytest.raises(UsageError) as error:
        notices.read(tmp_path)
    said = str(error.value)
    assert "3 fault(s)" in said
    assert all(
        words in said for words in ("line 2: the reason 'becaus'", "line 3: 'abc' is no SHA-256", "line 4: names no image")
    )
    with pytest.raises(UsageError, match="no column is called 'soruce_key'; did you mean 'source_key'"):
        notices.read(write(tmp_path, "takedown.csv", "id,soruce_key\na,b\n"))
    with pytest.raises(UsageError, match=r"line 2: 'split' is none of licence, source, prompt.*take the image down"):
        notices.read(write(write(tmp_path, "takedown.csv", ""), "errata.csv", "id,column,value\na,split,test\n"))


def test_whatever_has_the_same_bytes_pixels_or_place_goes_too_and_what_was_made_from_it(tmp_path: Path) -> None:
    held = store(
        tmp_path,
        facts("a", key="1.jpg"),
        facts("b", SHA["a"], "copy.jpg"),
        facts("c", key="other.png", pixel_hash=SHA["b"]),
        facts("d", key="2.jpg", pair_id="c", origin="synthetic"),
        facts("e", key="3.jpg"),
        facts("f", key="1.jpg", source="elsewhere"),
    )
    taken, known = notices.taken(Notices((Notice(id="a", reason="privacy"),)), held)
    assert sorted(taken) == ["a", "b", "c", "d"]
    assert {notice.reason for notice in taken.values()} == {"privacy"}
    assert {notice.id for notice in known.taken} == {"a", "b", "c", "d"}
    assert all(notice.sha256 and notice.pixels and notice.place for notice in known.taken)


def test_the_published_list_recognises_an_image_in_a_work_folder_that_never_heard_of_it(tmp_path: Path) -> None:
    first = store(tmp_path / "1", facts("a", key="1.jpg"), facts("b", key="2.jpg"))
    _, known = notices.taken(Notices((Notice(id="a"),)), first)
    (tmp_path / "release").mkdir()
    write(tmp_path / "release", "takedown.csv", known.files()["takedown.csv"])
    again = store(tmp_path / "2", facts("g", SHA["a"], "renamed.jpg"), facts("h", key="1.jpg"), facts("e", key="2.jpg"))
    assert sorted(notices.taken(notices.read(tmp_path / "release"), again)[0]) == ["g", "h"]


def test_lists_are_merged_a_fuller_notice_takes_the_place_of_a_shorter_one_and_the_last_erratum_holds() -> None:
    short, full = Notice(id="a"), Notice(id="a", sha256=SHA["a"])
    old, new = Erratum("b", "licence", "MIT"), Erratum("b", "licence", "CC0-1.0")
    both = notices.merged(Notices((short, full), (old,)), Notices((Notice(id="c"),), (new,)))
    assert both == Notices((full, Notice(id="c")), (new,))
    assert notices.merged(both, both) == both


def test_an_erratum_changes_its_own_row_and_column_and_nothing_else() -> None:
    table = pa.table({"id": ["a", "b"], "licence": ["x", "y"], "prompt": [None, "p"]})
    right = notices.corrected(table, [Erratum("b", "licence", "MIT"), Erratum("z", "prompt", "?"), Erratum("a", note="odd")])
    assert right.to_pylist() == [{"id": "a", "licence": "x", "prompt": None}, {"id": "b", "licence": "MIT", "prompt": "p"}]


def test_near_duplicates_of_what_was_taken_down_are_barred_and_those_of_what_was_refused_otherwise_are_not() -> None:
    bars = Bars({"a": (TAKEN, "taken down: request"), "c": ("not-redistributable", "no")})
    assert bars.copies(["a", "b", "c", "d"], [0, 0, 2, 2]) == {"b": (TAKEN, "a near-duplicate of a, which was taken down")}


def test_a_plan_is_marked_by_what_was_barred_and_by_nothing_where_nothing_was() -> None:
    assert Bars().mark() == {}
    assert Bars({"a": ("x", "y")}).mark() == Bars({"a": ("x", "said otherwise")}).mark()
    assert Bars({"a": ("x", "y")}).mark() != Bars({"b": ("x", "y")}).mark()
    assert Bars(only="commercial").mark() != Bars().mark()
