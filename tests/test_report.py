"""The report is one file that asks for nothing, escapes everything, and comes whatever stages have run."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imaginet_build import images
from imaginet_build.errors import UsageError
from imaginet_build.records import Record, make_id
from imaginet_build.report import heat_maps, report
from imaginet_build.running.reportdata import gather
from imaginet_build.store import Store

HOSTILE = "</script><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)> \"quoted\" {{ 7*7 }}"


class Page(HTMLParser):
    """What a browser would find in the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "rect", "line", "polyline"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag, f"</{tag}> closes the wrong element"

    def handle_data(self, data: str) -> None:
        self.words += data


def image(colour: int) -> bytes:
    out = io.BytesIO()
    Image.radial_gradient("L").rotate(colour).convert("RGB").save(out, "PNG")
    return out.getvalue()


def collected(work: Path) -> list[dict[str, Any]]:
    store, made = Store(work), []
    for i in range(6):
        real = i % 2 == 0
        data = image(i * 30)
        made.append(
            (
                Record(
                    id=make_id(i),
                    origin="real" if real else "synthetic",
                    category="photos",
                    family=None if real else "gan",
                    generator=None if real else HOSTILE,
                    source="album" if real else None,
                    source_key=HOSTILE if real else None,
                    licence="CC0-1.0",
                    revision="1",
                    prompt=None if real else HOSTILE,
                    negative=None,
                    seed=i,
                    params="{}",
                    pair_id=None,
                    group=make_id(i),
                    extension="png",
                    facts=images.measure(data),
                ).row(),
                data,
            )
        )
    store.write_part("collect", "a", [row for row, _ in made], [data for _, data in made])
    lost = {"id": "00", "stage": "collect", "origin": "real", "category": "photos", "generator_or_source": "album"}
    store.write_rejects("collect", "a", [lost | {"source_key": HOSTILE, "reason": "truncated", "detail": HOSTILE}])
    return [row for row, _ in made]


def balanced(work: Path) -> list[str]:
    rows = collected(work)
    plan = [
        {c: row[c] for c in ("id", "category", "origin", "group")}
        | {"generator_or_source": row["generator"] or row["source"], "keep": i != 2, "split": None if i == 2 else "test"}
        | {"reason": "twin" if i == 2 else None, "detail": "a near-duplicate" if i == 2 else None}
        for i, row in enumerate(rows)
    ]
    blank = dict.fromkeys(
        ("left", "top", "width", "height", "codec", "quality", "subsampling", "first_quality", "first_subsampling")
    )
    Store(work).write_plan([row | blank for row in plan])
    ids = [str(row["id"]) for row in rows]
    (work / "twins.json").write_text(json.dumps([{"kind": "twin", "ids": [ids[2], ids[0]], "kept": ids[0]}]))
    cells = [
        {"category": "photos", "origin": "real", "generator_or_source": "album", "asked": 3, "kept": 2, "reason": "one twin"}
    ]
    cells.append(
        {"category": "faces", "origin": "real", "generator_or_source": "nobody", "asked": 4, "kept": 0, "reason": "no source"}
    )
    (work / "balance.json").write_text(json.dumps({"cells": cells}))
    return ids


def judged(work: Path) -> None:
    gate = {"verdict": "passed", "value": 0.512, "limit": 0.55, "permutation95": 0.61, "groups": 6}
    probe = {
        "track": "origin",
        "view": "native",
        "probe": "extension",
        "balanced_accuracy": 0.987,
        "auc": 0.99,
        "ci95": [0.9, 1.0],
    }
    probes = [probe | {"scope": scope} for scope in ("all", "photos")]
    (work / "audit.json").write_text(json.dumps({"target": "release", "rows": 6, "gate": gate, "probes": probes}))
    (work / "baseline").mkdir()
    origin = {"auc": 0.75, "ap": None, "ci95": [0.5, 0.9], "reasons": {"ap": "needs 5 groups of each class"}}
    controls = {"permuted_labels": {"mean": 0.501, "range95": [0.4, 0.6]}}
    results = {"detector": "small", "tracks": {"origin": origin, "generator": {}}, "controls": controls}
    (work / "baseline" / "results.json").write_text(json.dumps(results | {"by_generator": {HOSTILE: {"auc": 0.7}}}))
    (work / "baseline" / "scores.csv").write_text(
        "id,label,seed,p_synthetic\n1,real,,0.1\n2,real,,0.6\n3,synthetic,,0.5\n4,synthetic,,0.9\n"
    )


def test_an_empty_work_folder_has_a_report_that_says_what_to_run(tmp_path: Path) -> None:
    text = report(tmp_path).read_text()
    for command in ("collect", "generate", "balance", "audit", "publish", "baseline"):
        assert f"build-imaginet {command}" in text


def test_a_work_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no work folder"):
        report(tmp_path / "nowhere")


@pytest.mark.parametrize("stages", [(collected,), (balanced,), (balanced, judged)], ids=["collected", "balanced", "judged"])
def test_whatever_has_run_the_page_is_well_formed_and_asks_for_nothing(tmp_path: Path, stages: Any) -> None:
    for stage in stages:
        stage(tmp_path)
    page = Page(report(tmp_path).read_text())
    assert page.open == []
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1
    assert not {"link", "iframe", "object", "embed", "base", "video", "audio", "source"} & set(names)
    for tag, attributes in page.tags:
        assert not [a for a in attributes if a.startswith("on")]
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert (attributes.get("href") or "#").startswith("#")
        if tag == "img":
            assert attributes["alt"]
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_what_came_from_outside_is_shown_as_it_is_and_does_nothing(tmp_path: Path) -> None:
    balanced(tmp_path)
    judged(tmp_path)
    text = report(tmp_path).read_text()
    page = Page(text)
    assert "<script>alert" not in text
    assert "<img src=http" not in text
    assert page.words.count(HOSTILE) >= 6


def test_the_five_figures(tmp_path: Path) -> None:
    balanced(tmp_path)
    judged(tmp_path)
    words = " ".join(Page(report(tmp_path).read_text()).words.split())
    for figure in (
        "images5of 6",
        "twins removed1in 1 groups",
        "cells filled1 of 3",
        "audit0.512balanced",
        "baseline AUC0.75095 %",
    ):
        assert figure in words


def test_cells_twins_rejects_and_the_curve_are_as_the_files_say(tmp_path: Path) -> None:
    ids = balanced(tmp_path)
    judged(tmp_path)
    content = gather(tmp_path)
    cells = {(c.category, c.origin): c for c in content.cells}
    assert (cells["photos", "real"].asked, cells["photos", "real"].kept, cells["photos", "real"].why) == (3, 2, "one twin")
    assert (cells["faces", "real"].found, cells["faces", "real"].why) == (0, "no source")
    assert [s.id for s in content.twins[0].samples] == [ids[0], ids[2]]
    assert all(s.thumbnail for s in content.twins[0].samples)
    assert [(r.stage, r.reason, r.count) for r in content.reasons] == [("balance", "twin", 1), ("collect", "truncated", 1)]
    (curve,) = content.curves
    assert curve.auc == pytest.approx(0.75)
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)


def test_a_missing_figure_comes_with_its_reason(tmp_path: Path) -> None:
    judged(tmp_path)
    words = Page(report(tmp_path).read_text()).words
    assert "apneeds 5 groups of each class" in words
    assert "reasons" not in words


@pytest.mark.parametrize(("name", "quickstart"), [("quickstart", True), ("mine", False)])
def test_the_quickstart_says_what_its_auc_is_worth(tmp_path: Path, name: str, quickstart: bool) -> None:
    judged(tmp_path)
    (tmp_path / "recipe.toml").write_text(f'name = "{name}"\n')
    words = Page(report(tmp_path).read_text()).words
    assert ("shows that the machine runs, not that it detects" in words) == quickstart
    assert "permuted labels: mean" in words


def test_a_file_that_cannot_be_read_is_a_note_and_no_end(tmp_path: Path) -> None:
    balanced(tmp_path)
    (tmp_path / "audit.json").write_text("{")
    (tmp_path / "twins.json").write_text("{}")
    words = Page(report(tmp_path).read_text()).words
    assert "audit.json cannot be read" in words
    assert "twins.json cannot be read" in words


def test_the_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    balanced(tmp_path)
    judged(tmp_path)
    first = report(tmp_path).read_bytes()
    assert report(tmp_path).read_bytes() == first
    assert len(first) < 500_000


def test_the_heat_map_and_the_worst_images_of_each_leak(tmp_path: Path) -> None:
    ids = balanced(tmp_path)
    judged(tmp_path)
    said = json.loads((tmp_path / "audit.json").read_text())
    line = said["probes"][0]
    beside = line | {"probe": "thumbnail", "gate": False, "balanced_accuracy": 0.41, "p": 0.7, "classes": 2}
    said["probes"] += [beside, line | {"view": "equalized", "balanced_accuracy": 0.5, "gate": True, "p": 0.01, "classes": 2}]
    said["notes"] = {"thumbnail": "should not tell"}
    leak = {"view": "native", "probe": "extension", "value": HOSTILE, "balanced_accuracy": 0.987, "remedy": "publish"}
    said["leaks"] = [
        leak | {"real": 3, "synthetic": 0, "more_values": 1, "examples": [f"{ids[0]}.png", HOSTILE, "nobody.jpg"]},
        leak | {"probe": "all", "value": None, "examples": []},
    ]
    (tmp_path / "audit.json").write_text(json.dumps(said))
    content = gather(tmp_path)
    assert [[s.id for s in worst] for worst in content.worst] == [[ids[0], ids[0], "nobody.jpg"], []]
    assert content.worst[0][0].thumbnail
    (origin,) = heat_maps(content.audit)
    assert origin["columns"] == [("equalized", "all"), ("native", "all"), ("native", "photos")]
    assert [(name, gate, [c and c["heat"] for c in cells]) for name, gate, cells in origin["rows"]] == [
        ("extension", True, [0, 10, 10]),
        ("thumbnail", False, [None, 0, None]),
    ]
    page = Page(report(tmp_path).read_text())
    assert page.open == []
    classes = [attrs.get("class") for _, attrs in page.tags]
    assert "n h10" in classes
    assert "n h0" in classes
    assert "should not tell" in page.words
    assert HOSTILE in page.words
    scopes = [attrs.get("scope") for tag, attrs in page.tags if tag == "th"]
    assert "row" in scopes
    assert "col" in scopes
