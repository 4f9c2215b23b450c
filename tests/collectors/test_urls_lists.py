"""Lists as people keep them: every form, every flaw, and never more in memory than a few rows."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build.collectors import listfiles, rowgroups
from imaginet_build.collectors.urllist import Listed, UrlList
from imaginet_build.errors import UsageError
from imaginet_build.records import Refusal, Want

ROWS = [
    {"url": "http://a.example/1.jpg", "caption": "a cat, asleep", "category": "photos", "licence": "CC0-1.0"},
    {"url": "http://a.example/2.jpg", "caption": 'says "no"', "category": "faces", "licence": "CC-BY-4.0"},
    {"url": "http://a.example/ü.jpg", "caption": "=1+1|cmd", "category": "photos", "licence": ""},
]


def rows(path: Path, want: Want | None = None, columns: dict[str, str] | None = None, **settings) -> list[Listed | Refusal]:
    given = {"origin": "real"} | settings
    return list(UrlList(str(path), columns or {}, **given).rows(want or Want("urls", None, 0)))


def keys(listed: list[Listed | Refusal]) -> list[str]:
    return [row.reason if isinstance(row, Refusal) else row.found.source_key for row in listed]


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def in_form(folder: Path, form: str) -> Path:
    path = folder / f"list{form}"
    if form == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif form == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    else:
        mark = "\t" if form == ".tsv" else ","
        cells = [list(ROWS[0]), *[[f'"{value.replace(chr(34), chr(34) * 2)}"' for value in row.values()] for row in ROWS]]
        path.write_text("\n".join(mark.join(row) for row in cells), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_form_says_the_same(tmp_path, form):
    listed = rows(in_form(tmp_path, form))
    assert keys(listed) == [row["url"] for row in ROWS]
    assert [row.found.prompt for row in listed] == [row["caption"] for row in ROWS]  # a formula is a caption like any other
    assert [row.found.category for row in listed] == ["photos", "faces", "photos"]
    assert [row.found.licence for row in listed] == ["CC0-1.0", "CC-BY-4.0", None]
    assert listed[2].url.text == "http://a.example/%C3%BC.jpg"


def test_a_folder_of_lists_is_one_list(tmp_path):
    for form in (".jsonl", ".parquet"):
        in_form(tmp_path, form)
    assert keys(rows(tmp_path)) == [row["url"] for row in ROWS] + ["listed-twice"] * 3


def test_columns_have_the_usual_names_or_those_that_are_given(tmp_path):
    path = written(tmp_path / "l.csv", "URL,TEXT,my md5\nhttp://a.example/1.jpg,hello,d41d8cd98f00b204e9800998ecf8427e\n")
    assert rows(path)[0].found.prompt == "hello"
    assert rows(path, columns={"caption": ""})[0].found.prompt is None
    assert rows(path, columns={"md5": "my md5"})[0].md5 == "d41d8cd98f00b204e9800998ecf8427e"
    with pytest.raises(UsageError, match=r"md5: no column 'my md'; did you mean 'my md5'\?.*It has URL, TEXT, my md5"):
        rows(path, columns={"md5": "my md"})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("l.csv", "", "is empty"),
        (
            "l.csv",
            "link,caption\n",
            "no column 'url': name the one that holds URLs with the option `url_column`. It has link, caption",
        ),
        ("l.jsonl", '{"link": 1}\n', "no column 'url'"),
        ("l.jsonl", "not json\n", "no column 'url'"),
        ("l.parquet", b"PAR1 but no Parquet", "cannot be read as a list of URLs"),
        ("l.xlsx", b"PK", "a list of URLs is one of .csv"),
        ("l.csv", "url\nhttp://a.example/\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_at_once(tmp_path, name, text, said):
    with pytest.raises(UsageError) as error:
        rows(written(tmp_path / name, text))
    assert said in str(error.value)


def test_a_list_that_is_not_there_is_named_with_the_nearest(tmp_path):
    written(tmp_path / "photos.csv", "url\n")
    with pytest.raises(UsageError, match=r"no list .*photo\.csv; did you mean 'photos\.csv'\?"):
        rows(tmp_path / "photo.csv")
    with pytest.raises(UsageError, match="say what its images are: origin"):
        rows(tmp_path / "photos.csv", origin=None)


def test_flaws_of_rows_are_refused_row_by_row(tmp_path):
    text = b"\n".join([
        b"\xef\xbb\xbfurl,caption,origin,key",
        b"http://a.example/1.jpg,one,real,k1",
        b"",
        b",,,",
        b"http://a.example/2.jpg,caf\xe9,real,k2",
        b",no url,real,k3",
        b"http://a.example/4.jpg,two,unreal,k4",
        b"http://a.example/5.jpg,two,REAL,k5",
        b"http://a.example/6.jpg,again,real,k5",
        b"ftp://a.example/7.jpg,x,real,k7",
        b"http://user:secret@a.example/8.jpg,x,real,k8",
        b"http://a.example/9.jpg,\"never closed,real,k9",
        b"x" * 200_000,
        b"http://a.example/10.jpg,y,real,k10",
        b"http://a.example/11.jpg",
        b"http://a.example/12.jpg,y,real," + b"k" * 2000,
        b"http://a.example/13.jpg,nul\0,real,k13",
        b"z" * 3_000_000,
        b"http://a.example/14.jpg,y,real,k14,more,cells",
    ])  # fmt: skip
    listed = rows(written(tmp_path / "l.csv", text), origin=None)
    assert keys(listed) == [
        "k1", "not-utf8", "no-url", "unknown-origin", "k5", "listed-twice", "scheme", "credentials", *["broken-row"] * 2, "k10",
        "unknown-origin", "bad-key", "not-utf8", "broken-row", "k14",
    ]  # fmt: skip
    refused = [row for row in listed if isinstance(row, Refusal)]
    assert len({row.source_key for row in refused}) == len(refused)
    assert not any("secret" in row.detail + row.source_key for row in refused)
    assert refused[0].detail == "l.csv#5 holds bytes that are no UTF-8"


def test_flaws_of_json_lines(tmp_path):
    lines = [
        '{"url": "http://a.example/1.jpg", "key": 7, "caption": ["a", "list"]}', "", "{", '["http://a.example"]', "[" * 100_000,
        '{"url": null}', '{"url": {"deep": 1}, "key": "k"}', '{"url": "http://a.example/2.jpg", "key": ' + "9" * 5000 + "}",
        '{"url": "http://a.example/\\ud800.jpg"}', '{"other": 1, "caption": "x"}',
    ]  # fmt: skip
    listed = rows(written(tmp_path / "l.jsonl", "\n".join(lines)))
    assert keys(listed) == ["7", *["broken-row"] * 3, "no-url", "no-url", "broken-row", "not-utf8", "no-url"]
    assert listed[0].found.prompt is None


def test_a_row_without_an_address_in_plain_words_is_refused_and_says_what_it_has(tmp_path):
    lines = [
        '{"url": "http://a.example/1.jpg"}', '{"url": null}', '{"url": ["http://a.example/3.jpg"]}', '{"uri": "http://a.example/4.jpg"}',
        '{"url": {"large": "http://a.example/5.jpg"}}', '{"url": true}', "", "{}", '{"URL": "http://a.example/9.jpg"}',
        '{"\\ud800": 1}',
    ]  # fmt: skip
    listed = rows(written(tmp_path / "l.jsonl", "\n".join(lines)))
    assert keys(listed) == ["http://a.example/1.jpg", *["no-url"] * 6, "http://a.example/9.jpg", "no-url"]
    said = {row.source_key: row.detail for row in listed if isinstance(row, Refusal)}
    assert said == {
        "l.jsonl#2": "l.jsonl#2: its 'url' is null",
        "l.jsonl#3": "l.jsonl#3: its 'url' is no text but [\"http://a.example/3.jpg\"]",
        "l.jsonl#4": "l.jsonl#4: no 'url'; did you mean 'uri'?",
        "l.jsonl#5": 'l.jsonl#5: its \'url\' is no text but {"large": "http://a.example/5.jpg"}',
        "l.jsonl#6": "l.jsonl#6: its 'url' is no text but true",
        "l.jsonl#8": "l.jsonl#8: no 'url'",
        "l.jsonl#10": "l.jsonl#10: no 'url'",
    }
    empty = written(tmp_path / "l.csv", "url,note\nhttp://a.example/1.jpg,\n,only a note\n\n,\nhttp://a.example/5.jpg,\n")
    assert keys(rows(empty)) == ["http://a.example/1.jpg", "no-url", "http://a.example/5.jpg"]


def test_a_column_that_cannot_hold_text_is_named_with_its_type(tmp_path, caplog):
    def parquet(**columns: pa.Array) -> Path:
        pq.write_table(pa.table(columns), tmp_path / "l.parquet")
        return tmp_path / "l.parquet"

    urls = pa.array(["http://a.example/1.jpg", None])
    for values, kind in (
        (pa.array([["http://a.example/1.jpg"]]), r"list<(item|element): string>"),
        (pa.array([{"large": "http://a.example/1.jpg"}]), "struct<large: string>"),
        (pa.array([1]), "int64"),
    ):
        with pytest.raises(
            UsageError, match=rf"l\.parquet: the column 'url' holds {kind}, which is no text: give one of strings"
        ):
            rows(parquet(url=values))
    assert keys(rows(parquet(url=urls.dictionary_encode()))) == ["http://a.example/1.jpg", "no-url"]
    assert keys(rows(parquet(url=pa.nulls(2)))) == ["no-url"] * 2
    tags = parquet(url=urls, caption=pa.array([["a"], []]))
    assert keys(rows(tags)) == ["http://a.example/1.jpg", "no-url"]
    assert "its column 'caption' is not taken as caption: it holds list<" in caplog.text
    with pytest.raises(UsageError, match=r"the column 'caption' holds list<"):
        rows(tags, columns={"caption": "caption"})


# --- quotes --------------------------------------------------------------------------------------------------------------


def numbered(captions: list[str], mark: str = ",") -> str:
    return f"url{mark}caption\n" + "".join(f"http://a.example/{n}.jpg{mark}{text}\n" for n, text in enumerate(captions))


@pytest.mark.parametrize(
    "astray", ['"a fine photo', '"a "fine photo"', '"a" fine photo', '"a fine photo" ', '"', '"a fine photo,""', '"""']
)
@pytest.mark.parametrize(
    "later", ["plain", '5"', '"well, quoted"', '"says ""no"""', '""', '"two\nlines"', '"\nlines"', '", a\nb"']
)
@pytest.mark.parametrize("form", [".csv", ".tsv"])
def test_a_stray_quote_costs_its_own_line(tmp_path, astray, later, form):
    captions = [later] * 8
    captions[2] = astray
    text = numbered(captions, "\t" if form == ".tsv" else ",")
    listed = rows(written(tmp_path / f"l{form}", text))
    assert keys(listed) == [f"http://a.example/{n}.jpg" if n != 2 else "broken-row" for n in range(8)]
    number = text.splitlines().index(next(line for line in text.splitlines() if "/2.jpg" in line)) + 1
    assert listed[2].source_key == f"l{form}#{number}"
    assert "a quote in it is not closed, or is not written twice inside of quotes" in listed[2].detail


def test_a_cell_of_several_lines_is_one_cell(tmp_path):
    poem = "\n".join(f"line {n}, of many" for n in range(90))
    captions = [f'"{poem}"', "plain", '"see http://b.example, ""there""\n\nand\r\nend"', '5" wide']
    listed = rows(written(tmp_path / "l.csv", numbered(captions)))
    assert [row.found.prompt for row in listed] == [
        poem, "plain", 'see http://b.example, "there"\n\nand\r\nend', '5" wide',
    ]  # fmt: skip
    listed = rows(written(tmp_path / "l.csv", numbered([f'"{poem}\n{poem}"', "plain"])))
    assert keys(listed)[0] == "broken-row"
    assert keys(listed)[-1] == "http://a.example/1.jpg"


def test_a_header_with_a_stray_quote_is_said_at_once(tmp_path):
    with pytest.raises(UsageError, match=r"l\.csv: line 1 should name the columns, but a quote in it is not closed"):
        rows(written(tmp_path / "l.csv", 'url,"caption\nhttp://a.example/1.jpg,5"\n'))


@given(st.lists(st.text('ab," \n\r', max_size=12), min_size=2, max_size=12), st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_line_a_quote_breaks_every_other_row_is_answered(tmp_path_factory, captions, data):
    broken = data.draw(st.integers(0, len(captions) - 1))
    written_rows = []
    for number, caption in enumerate(captions):
        text = io.StringIO(newline="")
        csv.writer(text).writerow([f"http://a.example/{number}.jpg", caption])
        written_rows.append(text.getvalue())
    row = written_rows[broken]
    at = data.draw(st.integers(0, len(row.rstrip("\r\n"))))
    written_rows[broken] = row[:at] + '"' + row[at:]
    listed = rows(written(tmp_path_factory.mktemp("quote") / "l.csv", "url,caption\n" + "".join(written_rows)))
    prompts = {row.found.source_key: row.found.prompt or "" for row in listed if isinstance(row, Listed)}
    for number, caption in enumerate(captions):
        if number != broken:
            assert prompts[f"http://a.example/{number}.jpg"] == caption.strip()
    assert len(listed) >= len(captions)


def test_flaws_of_parquet(tmp_path):
    values = pa.array([b"http://a.example/1.jpg", b"http://a.example/\xff.jpg", None], pa.binary())
    table = pa.table({"url": values, "key": pa.array([1, 2, 3]), "caption": pa.array([["a"], None, []])})
    pq.write_table(table, tmp_path / "a.parquet")
    assert keys(rows(tmp_path / "a.parquet")) == ["1", "not-utf8", "no-url"]
    many = pa.table({"url": pa.array([f"http://a.example/{n}.jpg" for n in range(3000)])})
    path = tmp_path / "b.parquet"
    pq.write_table(many, path, row_group_size=1000, compression="none", use_dictionary=False)
    with pq.ParquetFile(path) as file:
        start = file.metadata.row_group(1).column(0).data_page_offset
    raw = bytearray(path.read_bytes())
    raw[start : start + 5000] = bytes(5000)
    found = keys(rows(written(path, bytes(raw))))
    assert found == [f"http://a.example/{n}.jpg" for n in range(1000)] + ["broken-list"] + [
        f"http://a.example/{n}.jpg" for n in range(2000, 3000)
    ]


def test_a_parquet_list_whose_columns_have_no_names_in_utf8_is_refused_at_once(tmp_path):
    pq.write_table(pa.table({"url": ["http://a.example/1.jpg"], "caption": ["a"]}), tmp_path / "a.parquet")
    path = written(tmp_path / "b.parquet", (tmp_path / "a.parquet").read_bytes().replace(b"caption", b"capti\xffn"))
    with pytest.raises(UsageError, match="cannot be read as a list of URLs"):
        rows(path)


def test_a_day_that_no_calendar_has_is_none_in_a_parquet_list_and_costs_nothing(tmp_path):
    days = pa.array([0, 2**62, 86_400_000_000], pa.int64()).view(pa.timestamp("us"))
    table = pa.table({"url": [f"http://a.example/{n}.jpg" for n in range(3)], "date": days})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [row.found.date for row in rows(tmp_path / "a.parquet")] == ["1970-01-01 00:00:00", None, "1970-01-02 00:00:00"]


def test_a_parquet_list_that_would_fill_the_memory_is_refused_unread_and_the_rest_goes_on(tmp_path):
    schema = pa.schema([("url", pa.string()), ("caption", pa.string())])
    with pq.ParquetWriter(tmp_path / "a.parquet", schema, compression="zstd") as writer:
        for n, caption in enumerate(["a", "x" * (2**26 + 1), "x" * (2**20 + 1), "b"]):
            writer.write_table(pa.table({"url": [f"http://a.example/{n}.jpg"], "caption": [caption]}, schema))
    assert (tmp_path / "a.parquet").stat().st_size < 40_000
    found = rows(tmp_path / "a.parquet")
    assert keys(found) == ["http://a.example/0.jpg", "bomb", "broken-row", "http://a.example/3.jpg"]
    assert "a cell of 1,048,577 characters, more than 1,048,576" in found[2].detail
    # What is not read is not judged.
    assert len(keys(rows(tmp_path / "a.parquet", columns={"caption": ""}))) == 4
    assert "bomb" not in keys(rows(tmp_path / "a.parquet", columns={"caption": ""}))


def test_what_is_here_and_what_is_not_wanted_is_passed_over(tmp_path):
    path = in_form(tmp_path, ".csv")
    assert keys(rows(path, Want("urls", "faces", 0))) == ["http://a.example/2.jpg"]
    have = frozenset({"http://a.example/1.jpg"})
    assert keys(rows(path, Want("urls", None, 0, have))) == [row["url"] for row in ROWS[1:]]
    with pytest.raises(UsageError, match="has no column 'stratum': name the one that divides it with the option `stratum`"):
        rows(path, Want("urls", None, 0, stratum="x"))


def test_strata_are_counted_and_taken_one_by_one(tmp_path):
    lines = [f"http://a.example/{n}.jpg,{'abc'[n % 3]},{'photos' if n < 7 else 'faces'}" for n in range(9)]
    path = written(tmp_path / "l.csv", "\n".join(["url,class,category", *lines, "broken,a,photos"]))
    given = UrlList(str(path), {"stratum": "class"}, "real")
    assert given.strata(Want("urls", None, 0)) == {"a": 3, "b": 3, "c": 3}
    assert given.strata(Want("urls", "photos", 0)) == {"a": 3, "b": 2, "c": 2}
    taken = rows(path, Want("urls", None, 0, stratum="b"), {"stratum": "class"})
    assert keys(taken) == [f"http://a.example/{n}.jpg" for n in (1, 4, 7)]
    assert {row.found.stratum for row in taken} == {"b"}
    assert keys(rows(path, Want("urls", None, 0, stratum="a"), {"stratum": "class"}))[-1] == "scheme"


def test_words_for_content_types_are_translated(tmp_path):
    path = written(tmp_path / "l.csv", "url,category\nhttp://a.example/1,portrait\nhttp://a.example/2,street\n")
    assert keys(rows(path, categories={"portrait": "faces"})) == ["http://a.example/1", "unknown-category"]


@given(st.binary(max_size=400), st.sampled_from([".csv", ".tsv", ".jsonl", ".txt"]))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_rows_or_refusals(tmp_path_factory, noise, form):
    head = b'{"url": "http://a.example/1"}\n' if form == ".jsonl" else b"url\n"
    path = written(tmp_path_factory.mktemp("noise") / f"l{form}", head + noise)
    for row in rows(path):
        name = row.source_key if isinstance(row, Refusal) else row.found.source_key
        assert name
        name.encode()


MEASURE = """
import sys
from pathlib import Path
from imaginet_build.collectors.urllist import UrlList
from imaginet_build.records import Want
count = sum(1 for _ in UrlList(sys.argv[1], {}, "real").rows(Want("urls", None, 0)))
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(count, int(peak.split()[1]) // 1024)
"""


def long_list(path: Path, count: int) -> Path:
    names = (f"http://photos.example/{n:08d}/a-name-of-usual-length.jpg" for n in range(count))
    if path.suffix == ".parquet":
        schema = pa.schema([("url", pa.string())])
        with pq.ParquetWriter(path, schema) as writer:
            writer.write_table(pa.table({"url": pa.array(list(names))}, schema=schema), row_group_size=count)
    else:
        with path.open("w") as file:
            file.write("url\n")
            file.writelines(f"{name}\n" for name in names)
    return path


def memory_of(path: Path) -> tuple[int, int]:
    shown = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True).stdout.split()
    return int(shown[0]), int(shown[1])


@pytest.mark.prove
@pytest.mark.parametrize("form", [".csv", ".parquet"])
def test_a_million_rows_take_the_memory_of_ten_thousand(tmp_path, form):
    used = [memory_of(long_list(tmp_path / f"{count}{form}", count)) for count in (10_000, 100_000, 1_000_000)]
    assert [count for count, _ in used] == [10_000, 100_000, 1_000_000]
    assert used[2][1] < used[0][1] + 50, f"MB: {used}"


@pytest.mark.parametrize("form", [{}, {"use_dictionary": False, "compression": "zstd"}], ids=["dictionary", "plain"])
def test_a_licence_on_every_row_is_no_bomb_however_little_it_takes(tmp_path, form, monkeypatch):
    """A million addresses and one licence, made small: the limit of 64 MiB is brought down with it."""
    monkeypatch.setattr(rowgroups, "FREE_BYTES", 2**21)
    count = 60_000
    urls = [f"https://h.example/{n * 2654435761 % 2**40:x}.jpg" for n in range(count)]
    table = pa.table({"url": urls, "licence": ["https://creativecommons.org/licenses/by/4.0/"] * count})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=count, **form)
    licence = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(1)
    assert max(rowgroups.FREE_BYTES, licence.total_compressed_size * rowgroups.MAX_RATIO) < table["licence"].nbytes
    read = list(listfiles.cells(tmp_path / "a.parquet", {"url": "url", "licence": "licence"}))
    same = [row["url"] for _, row in read if isinstance(row, dict)] == urls
    assert same, read[0]


def test_columns_are_a_bomb_together_where_each_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(rowgroups, "FREE_BYTES", 2**18)
    table = pa.table({name: ["x" * 2000] * 100 for name in ("url", "caption")})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", write_statistics=False)
    ((number, row),) = listfiles.cells(tmp_path / "a.parquet", {"url": "url", "caption": "caption"})
    assert (number, row.reason) == (1, "bomb")
    assert len(list(listfiles.cells(tmp_path / "a.parquet", {"url": "url"}))) == 100
