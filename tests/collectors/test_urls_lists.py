"""Lists as people keep them: every form, every flaw, and never more in memory than a few rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        "k1", "not-utf8", "no-url", "unknown-origin", "k5", "listed-twice", "scheme", "credentials", "broken-row", "k10",
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
    assert keys(listed) == ["7", "broken-row", "broken-row", "broken-row", "no-url", "broken-row", "not-utf8", "no-url"]
    assert listed[0].found.prompt is None


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
