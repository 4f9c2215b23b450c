"""The audit: the published figures again, a verdict, and a way out for every leak."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from imaginet_build.audit import AuditResult, audit, audit_facts, audit_folders, write
from imaginet_build.facts import FACTS, Target
from imaginet_build.probes import BYTES_PER_PIXEL


def facts(view: str | None, rows: int, seed: int, leaks: bool) -> pa.Table:
    """`rows` rows in pairs of one group; with `leaks`, synthetic images are larger and carry no camera data."""
    random = np.random.default_rng(seed)
    synthetic = np.arange(rows) % 2
    quality = random.integers(80, 96, rows)
    width = random.choice([256, 320, 384, 512], rows) + (256 * synthetic if leaks else 0)
    columns = {
        "path": [f"{i}.jpg" for i in range(rows)],
        "view": [view] * rows,
        "origin": np.where(synthetic, "synthetic", "real").tolist(),
        "content_type": np.where(np.arange(rows) % 6 < 4, "photos", "faces").tolist(),
        "family": np.where(synthetic, np.where(np.arange(rows) % 4 == 1, "gan", "sd"), None).tolist(),
        "generator": np.where(synthetic, np.where(np.arange(rows) % 8 < 4, "a", "b"), None).tolist(),
        "group": [f"g{i // 2}" for i in range(rows)],
        "extension": ["jpg"] * rows,
        "codec": ["jpeg"] * rows,
        "quality": quality,
        "qtables": [f"q{q}" for q in quality],
        "subsampling": ["4:2:0"] * rows,
        "progressive": [False] * rows,
        "width": width,
        "height": random.choice([256, 320, 384, 512], rows),
        "mode": ["RGB"] * rows,
        "metadata": np.where((synthetic == 0) & leaks & (random.random(rows) < 0.1), "exif", "").tolist(),
        "nbytes": random.integers(9_000, 90_000, rows) * (1 + synthetic),
    }
    columns["split"] = [None] * len(columns["path"])
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in FACTS}, schema=FACTS)


@pytest.fixture(scope="module")
def leaky() -> AuditResult:
    """A release whose native view leaks and whose equalized view does not."""
    table = pa.concat_tables([facts("native", 400, 1, leaks=True), facts("equalized", 400, 3, leaks=False)])
    return audit_facts(Target("out", "release", table), permutations=9)


def test_the_gate_looks_at_the_equalized_view(leaky: AuditResult) -> None:
    assert leaky.gate.verdict == "passed"
    assert not leaky.refused
    native, equalized = leaky.row("origin", "all", view="native"), leaky.row("origin", "all", view="equalized")
    assert native is not None
    assert equalized is not None
    assert native.balanced_accuracy > 0.85
    assert equalized.balanced_accuracy == round(leaky.gate.value or 0, 6) < 0.55
    assert leaky.gate.groups == 200


def test_without_views_the_gate_looks_at_everything() -> None:
    result = audit_facts(Target("x", "folder", facts(None, 400, 1, leaks=True)), permutations=19)
    assert result.refused
    assert result.gate.value is not None
    assert result.gate.value > 0.85


def test_every_leak_says_where_to_look_and_what_removes_it(leaky: AuditResult) -> None:
    by_probe = {leak.probe: leak for leak in leaky.leaks}
    assert {"width", "exif", "all"} <= by_probe.keys()
    assert {leak.view for leak in leaky.leaks} == {"native"}
    exif = by_probe["exif"]
    assert (exif.value, exif.synthetic) == ("yes", 0)
    assert exif.p is not None
    assert exif.p < 0.01
    assert len(exif.examples) == 5
    assert all("build-imaginet " in leak.remedy for leak in leaky.leaks)


def test_json_is_what_others_rely_on(leaky: AuditResult) -> None:
    found = json.loads(json.dumps(leaky.to_json()))
    assert {"target", "rows", "gate", "probes"} <= found.keys()
    assert {"verdict", "value", "limit", "permutation95", "groups"} <= found["gate"].keys()
    assert found["rows"] == 800
    for row in found["probes"]:
        assert {"track", "view", "probe", "scope", "balanced_accuracy", "auc", "ci95"} <= row.keys()
        assert 0 <= row["ci95"][0] <= row["ci95"][1] <= 1
    tables = {(r["track"], r["view"], r["scope"]) for r in found["probes"] if r["probe"] == "all"}
    assert tables == {
        (t, v, s)
        for t in ("origin", "family", "generator")
        for v in ("equalized", "native")
        for s in ("all", "faces", "photos")
    }


def test_bytes_per_pixel_are_reported_and_not_held_against_the_data(leaky: AuditResult) -> None:
    row = leaky.row("origin", BYTES_PER_PIXEL, view="equalized")
    assert row is not None
    assert not row.gate
    assert row.balanced_accuracy > 0.55
    assert BYTES_PER_PIXEL not in {leak.probe for leak in leaky.leaks}


def test_the_order_of_rows_decides_nothing(leaky: AuditResult) -> None:
    table = pa.concat_tables([facts("native", 400, 1, leaks=True), facts("equalized", 400, 3, leaks=False)])
    back = pa.array(np.random.default_rng(0).permutation(len(table)))
    again = audit_facts(Target("out", "release", table.take(back)), permutations=9)
    assert again.gate == leaky.gate
    assert again.probes == leaky.probes


def test_it_is_written_as_json_and_as_a_table(leaky: AuditResult, tmp_path: Path) -> None:
    json_path, csv_path = write(leaky, tmp_path / "out")
    assert json.loads(json_path.read_text()) == json.loads(json.dumps(leaky.to_json()))
    table = pd.read_csv(csv_path)
    assert len(table) == len(leaky.probes) == len(leaky.table())
    assert {"ci_low", "ci_high", "balanced_accuracy"} <= set(table.columns)


def test_a_result_cannot_be_changed(leaky: AuditResult) -> None:
    with pytest.raises(FrozenInstanceError):
        leaky.gate = None  # type: ignore[misc,assignment]


def test_classes_too_small_to_judge_are_named() -> None:
    table = facts(None, 60, 1, leaks=False)
    rare = table["generator"].to_pylist()
    rare[1] = "rare"
    table = table.set_column(table.column_names.index("generator"), "generator", pa.array(rare, pa.string()))
    result = audit_facts(Target("x", "folder", table), permutations=9)
    assert any("rare: 1 groups" in s.what for s in result.skipped)
    row = result.row("generator", "all")
    assert row is not None
    assert row.classes == 2


def test_two_images_are_too_few_to_say_and_no_error() -> None:
    result = audit_facts(Target("x", "folder", facts(None, 2, 1, leaks=False)), permutations=9)
    assert result.gate.verdict == "undecided"
    assert result.gate.value is None
    assert result.probes == ()


def test_the_published_list_is_read_off_its_file_names(shared: Path) -> None:
    """ImagiNet's own test list, without a pixel: facts/biases.md and reference/README.md beside the repository."""
    result = audit(shared / "reference" / "imaginet-test-annotations.txt", permutations=9)
    assert result.refused
    assert result.rows == 40_000
    assert result.gate.value == pytest.approx(0.844, abs=5e-4)
    expected = {
        ("origin", "extension"): 0.7875,
        ("origin", "extension+content_type"): 0.844,
        ("family", "extension"): 0.750,
        ("family", "extension+content_type"): 1.000,
        ("generator", "extension"): 0.375,
        ("generator", "extension+content_type"): 0.804,
    }
    for (track, probe), value in expected.items():
        row = result.row(track, probe)
        assert row is not None
        assert row.balanced_accuracy == pytest.approx(value, abs=3e-3 if track == "generator" else 5e-4)
    family = result.row("family", "extension")
    assert family is not None
    assert family.accuracy == pytest.approx(0.875)


def test_the_corpus_leaks_as_two_plain_folders(shared: Path) -> None:
    result = audit_folders(
        shared / "data" / "real" / "uncategorized", shared / "data" / "synthetic" / "uncategorized", permutations=9
    )
    assert result.refused
    assert result.rows == 66
    assert result.unreadable == ()
    assert result.gate.value is not None
    assert result.gate.value > 0.9
