"""The card of a release: loaders believe it, so it must agree with the files; readers believe it, so it must be counted."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import published
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imaginet_build.releases import cardlint, cardwords, release
from imaginet_build.releases.datasetcard import About
from imaginet_build.releases.publish_settings import Statements

markdown = pytest.importorskip("markdown_it")
Tables = list[tuple[list[str], list[list[str]]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.release(tmp_path_factory.mktemp("card")).path


@pytest.fixture(scope="module")
def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def front(card: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return dict(yaml.safe_load(card.split("\n---\n", maxsplit=1)[0].removeprefix("---\n")))


@pytest.fixture(scope="module")
def rows(folder: Path) -> pd.DataFrame:
    """Every row of the default view as pandas reads it, by no code of ours."""
    return pd.concat(
        pd.DataFrame(pq.read_table(path).to_pylist()).assign(split=path.name.split("-")[0], file=path.name)
        for path in sorted(folder.glob("data/equalized/*.parquet"))
    )


class Shown(HTMLParser):
    """What a reader sees of Markdown: the tags, and the text of every table cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: Tables = []
        self._cell: list[str] | None = None
        self.feed(markdown.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append(([], []))
        elif tag == "tr" and self.tables[-1][0]:
            self.tables[-1][1].append([])
        elif tag in ("th", "td"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td") and self._cell is not None:
            header, body = self.tables[-1]
            (header if tag == "th" else body[-1]).append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


def table(card: str, *header: str) -> list[dict[str, str]]:
    """The one table of the card that begins with these columns."""
    (found,) = [t for t in Shown(card.split("\n---\n", 1)[1]).tables if t[0][: len(header)] == list(header)]
    return [dict(zip(found[0], row, strict=True)) for row in found[1]]


# --- what loaders believe ----------------------------------------------------------------------------------------------


def test_dataset_info_is_the_schema_of_the_files_of_every_config(folder: Path, front: dict[str, Any]) -> None:
    datasets = pytest.importorskip("datasets")
    assert [c["config_name"] for c in front["configs"]] == [i["config_name"] for i in front["dataset_info"]]
    assert [c["config_name"] for c in front["configs"] if c.get("default")] == ["equalized"]
    assert {"equalized", "native", "full", "metadata"} <= {c["config_name"] for c in front["configs"]}
    for config, info in zip(front["configs"], front["dataset_info"], strict=True):
        declared = datasets.Features._from_yaml_list(info["features"])
        files = {d["split"]: [p for pattern in d["path"] for p in sorted(folder.glob(pattern))] for d in config["data_files"]}
        for path in (path for paths in files.values() for path in paths):
            assert declared == datasets.Features.from_arrow_schema(pq.read_schema(path))
        assert {s["name"]: s["num_examples"] for s in info["splits"]} == {
            split: sum(pq.read_metadata(p).num_rows for p in paths) for split, paths in files.items()
        }
        assert info["download_size"] == sum(p.stat().st_size for paths in files.values() for p in paths)
        assert info["dataset_size"] == sum(s["num_bytes"] for s in info["splits"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_datasets_loads_every_config_with_the_right_names(
    folder: Path, front: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With swapped names in `dataset_info` real and synthetic would load inverted, without an error."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    for config in front["configs"]:
        loaded = datasets.load_dataset(str(folder), config["config_name"], cache_dir=str(tmp_path), streaming=True)
        assert list(loaded) == [d["split"] for d in config["data_files"]]
        for split in loaded.values():
            for row in split:
                kind = split.features["label"].int2str(row["label"])
                assert kind == ("synthetic" if row["seed"] is not None else "real")
                generator = split.features["generator"].int2str(row["generator"])
                assert (generator == "real") == (kind == "real")
                assert generator in ("real", *published.GENERATORS)


def test_the_front_matter_survives_every_title(front: dict[str, Any]) -> None:
    assert front["pretty_name"] == published.ABOUT.title
    assert (front["license"], front["license_link"], front["size_categories"]) == ("other", "LICENSE.md", ["n<1K"])


# --- what readers believe: every table counted a second time, by other means ---------------------------------------------


def test_the_composition_table_is_what_pandas_counts(
    folder: Path, card: str, rows: pd.DataFrame, front: dict[str, Any]
) -> None:
    names = {f["name"]: f["dtype"]["class_label"]["names"] for f in front["dataset_info"][0]["features"]
             if isinstance(f["dtype"], dict)}  # fmt: skip
    for column, known in names.items():
        rows = rows.assign(**{column: rows[column].map(lambda n, known=known: known[str(n)])})
    maker = np.where(rows["label"] == "real", rows["source"], rows["generator"])
    counted = Counter(zip(rows["content_type"], rows["label"], rows["family"], maker, rows["split"], strict=True))
    told = {
        (r["content type"], r["label"], r["family"], r["generator or source"], split): int(r[split])
        for r in table(card, "content type")[:-1]
        for split in ("train", "calibration", "test")
        if int(r[split])
    }
    assert told == dict(counted)
    last = table(card, "content type")[-1]
    assert [int(last[c]) for c in ("train", "calibration", "test", "all")] == [
        *(int((rows["split"] == split).sum()) for split in ("train", "calibration", "test")), len(rows),
    ]  # fmt: skip
    terms = Counter(zip(rows["label"], maker, rows["licence"], strict=True))
    by_source = table(card, "label", "generator or source")
    assert {(r["label"], r["generator or source"], r["licence of the rows"]): int(r["rows"]) for r in by_source} == dict(terms)
    assert {r["licence"]: (int(r["real rows"]), int(r["synthetic rows"])) for r in table(card, "licence")} == {
        name: tuple(int((of["label"] == label).sum()) for label in ("real", "synthetic"))
        for name, of in rows.groupby("licence")
    }
    written = pd.read_csv(folder / "composition.csv")
    keys = ["content_type", "label", "family", "generator_or_source", "split"]
    assert {tuple(row[k] for k in keys): row["rows"] for row in written.to_dict("records")} == dict(counted)


def test_sizes_bytes_and_likeness_are_what_the_images_say(card: str, folder: Path) -> None:
    for line in table(card, "view", "train"):
        view = line["view"]
        files = sorted(folder.glob(f"data/{view}/*.parquet"))
        held = [row for path in files for row in pq.read_table(path).to_pylist()]
        assert int(line["bytes"]) == sum(path.stat().st_size for path in files)
        kinds = Counter(row["image"]["path"].rpartition(".")[2] for row in held)
        assert line["codecs"] == ", ".join(f"{kind} {kinds[kind]}" for kind in sorted(kinds))
        (alike,) = [r for r in table(card, "view", "bytes per pixel, real") if r["view"] == view]
        shorter: dict[int, list[int]] = {}
        aspect = [[row["width"] / row["height"] for row in held if row["label"] == label] for label in (0, 1)]
        for label, name in enumerate(("real", "synthetic")):
            mine = [row for row in held if row["label"] == label]
            sides = shorter[label] = sorted(min(row["width"], row["height"]) for row in mine)
            said = f"{sides[0]} to {sides[-1]} px, median {np.median(sides):g}"
            assert line[f"shorter side, {name}"] == said
            spent = sum(len(row["image"]["bytes"]) for row in mine) / sum(row["width"] * row["height"] for row in mine)
            assert float(alike[f"bytes per pixel, {name}"]) == pytest.approx(spent, abs=1e-4)
        from scipy import stats

        assert float(alike["KS size"]) == pytest.approx(stats.ks_2samp(shorter[0], shorter[1]).statistic, abs=1e-4)
        assert float(alike["KS aspect"]) == pytest.approx(stats.ks_2samp(*aspect).statistic, abs=1e-4)
        assert float(alike["sampling error"]) == pytest.approx(1.358 * (23 / (12 * 11)) ** 0.5, abs=1e-4)


def test_the_audit_tables_are_the_audits_answer(card: str) -> None:
    told = {(r["view"], r["probe"]): [float(r[c]) for c in ("balanced accuracy", "AUC")]
            for t in Shown(card.split("\n---\n", 1)[1]).tables if t[0][:2] == ["view", "probe"]
            for r in (dict(zip(t[0], row, strict=True)) for row in t[1])}  # fmt: skip
    assert told == {(p["view"], p["probe"]): [p["balanced_accuracy"], p["auc"]] for p in published.PROBES}
    assert "balanced accuracy 0.512, limit 0.55, 95 % point of label permutations\n0.613, 21 groups" in card


def test_rejects_groups_and_the_digest_are_counted(card: str, folder: Path, rows: pd.DataFrame) -> None:
    reasons = Counter(pq.read_table(folder / "rejects.parquet")["reason"].to_pylist())
    assert {r["reason"]: int(r["images"]) for r in table(card, "reason")} == dict(reasons)
    assert f"{len(rows)} images" in card
    assert f"in {rows['group'].nunique()} groups" in card
    assert release.read_manifest(folder)["digest"] in card
    assert [r["column"] for r in table(card, "column")] == [c for c in rows if c not in ("split", "file")]


def test_it_says_what_its_composition_lacks(card: str) -> None:
    assert "- The classes are not equal: 12 real and 11 synthetic images." in card
    assert "verdict is undecided" in card


# --- words that are not ours ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "DATASHEET.md", "LICENSE.md"])
def test_nothing_of_others_becomes_markup(folder: Path, name: str) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    shown = Shown(text.split("\n---\n", 1)[1] if name == "README.md" else text)
    known = ["h1", "h2", "p", "strong", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"]
    for tag, attributes in shown.tags:
        if tag == "a":
            assert (attributes["href"] or "").startswith("https://spdx.org/licenses/"), "the only links are those of licences"
        else:
            assert tag in known
            assert attributes.keys() <= {"class"}
    assert sum(tag == "h1" for tag, _ in shown.tags) == 1
    assert "\u202e" not in text
    assert "\x07" not in text


def test_a_citation_comes_through_whole_whatever_it_holds(card: str) -> None:
    assert published.ABOUT.citation in card
    assert re.search(r"^````bibtex\n@misc\{x,", card, re.MULTILINE)
    assert "  author = {A lab}," in card
    assert "  year = {2026}," in card


LINES = st.text(st.one_of(st.characters(), st.sampled_from("|`*_[]()<>&#-+=.!~$\\\n\r\t \u2028\u202e{}1")), max_size=40)


@settings(max_examples=60, deadline=None)
@given(text=LINES)
def test_a_cell_shows_its_text_and_nothing_else(text: str) -> None:
    html = markdown.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(
        f"| a | b |\n|---|---|\n| {cardwords.cell(text)} | end |\n"
    )  # fmt: skip
    tags = {"table": 1, "thead": 1, "tbody": 1, "tr": 2, "th": 2, "td": 2}
    assert Counter(re.findall("<([a-z0-9]+)", html)) == Counter(re.findall("</([a-z0-9]+)", html)) == tags
    assert html.count("<td>end</td>") == 1


@settings(max_examples=60, deadline=None)
@given(text=LINES)
@example(text="<div x")
@example(text="<!-- x")
@example(text="<script")
@example(text="1) x\n\n- y\n\n===")
@example(text="```\n~~~\n````")
def test_paragraphs_and_code_stay_what_they_are(text: str) -> None:
    page = Shown(f"{cardwords.words(text)}\n\n# end\n\n{cardwords.fence(text)}\n\n# last\n")
    assert {tag for tag, _ in page.tags} <= {"p", "h1", "pre", "code"}
    assert sum(tag == "h1" for tag, _ in page.tags) == 2


@settings(max_examples=60, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text("ab_01 :#\u2028\x85é😀", min_size=1, max_size=4), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_yaml_reads_back_what_was_written(value: Any) -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(f"x: {cardwords.yaml(value)}\n") == {"x": value}
    assert yaml.safe_load(cardwords.block({"x": value}) + "\n") == {"x": value}


@settings(max_examples=60, deadline=None)
@given(text=LINES)
def test_bibtex_braces_are_only_ours(text: str) -> None:
    made = cardwords.bibtex(text)
    assert not re.search(r"[{}]|\\(?![$%&#_])|\n", made)


# --- what nobody can count ---------------------------------------------------------------------------------------------


def test_every_statement_of_the_recipe_stands_somewhere_and_is_said_to_be_missing_where_it_does_not(tmp_path: Path) -> None:
    told = {name: f"stated {name.replace('_', ' ')}" for name in Statements.model_fields} | {"published": "2026-02-03"}
    about = About(title="T", **Statements.model_validate(told).said())
    with_all = published.release(tmp_path / "all", about=about).path
    without = published.release(tmp_path / "none", about=About(title="T")).path
    texts = {
        where: "\n".join((where / name).read_text(encoding="utf-8") for name in ("README.md", "DATASHEET.md", "croissant.json"))
        for where in (with_all, without)
    }
    for name, said in told.items():
        assert said in texts[with_all], name
        if name not in ("description", "published"):
            assert f"publish.about.{name}" in texts[without], name
            assert f"publish.about.{name}" not in texts[with_all], name
    assert json.loads((without / "croissant.json").read_text())["description"].startswith("23 images")


def test_rows_without_pixels_are_counted_and_leave_the_likeness_alone(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for path in sorted(copy.glob("data/*/train-*.parquet")):
        table = pq.read_table(path)
        images = [one | {"bytes": None} for one in table["image"].to_pylist()]
        pq.write_table(table.set_column(0, table.schema.field(0), pa.array(images, table.schema.field(0).type)), path)
    facts, texts = cardlint.expected(copy, release.read_manifest(copy), release.inventory(copy))
    assert facts.withheld == facts.codecs["native"]["no pixels"] == facts.views["native"]["train"] == 10
    assert sum(facts.codecs["native"].values()) == 23
    assert "10 of 23 images are named here without their pixels" in texts["README.md"]
    assert "build-imaginet rebuild . --verify" in texts["README.md"]
    assert "10 of 23 images are named by source and key without their pixels" in texts["DATASHEET.md"]
    held = [row for path in copy.glob("data/native/*.parquet") for row in pq.read_table(path).to_pylist()]
    real = [row for row in held if row["label"] == 0 and row["image"]["bytes"] is not None]
    spent = sum(len(row["image"]["bytes"]) for row in real) / sum(row["width"] * row["height"] for row in real)
    assert facts.likeness["native"]["bytes_per_pixel"]["real"] == pytest.approx(spent, abs=1e-4)
