"""The audit: the published figures again, a verdict, and a way out for every leak."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pictures import jpeg, png
from PIL import Image

from imaginet_build.audit import AuditResult, audit, audit_facts, audit_folders, write
from imaginet_build.auditing.facts import FACTS, Growing, Target
from imaginet_build.auditing.probes import BYTES_PER_PIXEL


def facts(view: str | None, rows: int, seed: int, leaks: bool) -> pa.Table:
    """`rows` rows in pairs of one group, few looks; with `leaks`, synthetic images are larger and carry no camera data."""
    random = np.random.default_rng(seed)
    synthetic = np.arange(rows) % 2
    quality = random.choice([80, 90], rows)
    width = np.where(random.random(rows) < 0.5, 256, 256 + (256 * synthetic if leaks else 0))
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
        "height": random.choice([256, 320], rows),
        "mode": ["RGB"] * rows,
        "metadata": np.where((synthetic == 0) & leaks & (random.random(rows) < 0.1), "exif", "").tolist(),
        "nbytes": random.integers(9_000, 90_000, rows) * (1 + synthetic),
    }
    columns["split"] = [None] * len(columns["path"])
    nothing = [None] * rows
    return pa.table({f.name: pa.array(columns.get(f.name, nothing), f.type) for f in FACTS}, schema=FACTS)


@pytest.fixture(scope="module")
def leaky() -> AuditResult:
    """A release whose native view leaks and whose equalized view does not."""
    table = pa.concat_tables([facts("native", 1600, 1, leaks=True), facts("equalized", 1600, 3, leaks=False)])
    return audit_facts(Target("out", "release", table), permutations=19)


def test_the_gate_looks_at_the_equalized_view(leaky: AuditResult) -> None:
    assert leaky.gate.verdict == "passed"
    assert not leaky.refused
    native, equalized = leaky.row("origin", "all", view="native"), leaky.row("origin", "all", view="equalized")
    assert native is not None
    assert equalized is not None
    assert native.balanced_accuracy > 0.7
    assert equalized.balanced_accuracy == round(leaky.gate.value or 0, 6) < 0.55
    assert leaky.gate.groups == 800


def test_without_views_the_gate_looks_at_everything() -> None:
    result = audit_facts(Target("x", "folder", facts(None, 1600, 1, leaks=True)), permutations=19)
    assert result.refused
    assert result.gate.value is not None
    assert result.gate.value > 0.7


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
    assert found["rows"] == 3200
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
    table = pa.concat_tables([facts("native", 1600, 1, leaks=True), facts("equalized", 1600, 3, leaks=False)])
    back = pa.array(np.random.default_rng(0).permutation(len(table)))
    again = audit_facts(Target("out", "release", table.take(back)), permutations=19)
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
    table = facts(None, 120, 1, leaks=False)
    rare = table["generator"].to_pylist()
    rare[1] = "rare"
    table = table.set_column(table.column_names.index("generator"), "generator", pa.array(rare, pa.string()))
    result = audit_facts(Target("x", "folder", table), permutations=19)
    assert any("rare: 1 groups" in s.what for s in result.skipped)
    row = result.row("generator", "all")
    assert row is not None
    assert row.classes == 2


def test_two_images_are_too_few_to_say_and_no_error() -> None:
    result = audit_facts(Target("x", "folder", facts(None, 2, 1, leaks=False)), permutations=19)
    assert result.gate.verdict == "undecided"
    assert result.gate.value is None
    assert result.probes == ()


def bare(name: str, **settings: object) -> bytes:
    """A JPEG with a camera's EXIF, as every image of both classes has it."""
    exif = Image.Exif()
    exif[305] = "Lightroom"
    return jpeg(name, 48, 40, **({"exif": exif.tobytes()} | settings))


def photoshopped(name: str) -> bytes:
    exif = Image.Exif()
    exif[305] = "ComfyUI"
    return bare(name, exif=exif.tobytes())


PLANTED: dict[str, Callable[[str], bytes]] = {
    "comment": lambda name: bare(name, comment=b"made by nobody"),
    "software": photoshopped,
    "exif": lambda name: jpeg(name, 48, 40),
    "progressive": lambda name: bare(name, progressive=True),
    "subsampling": lambda name: bare(name, subsampling=0),
    "quality": lambda name: bare(name, quality=91),
    "width": lambda name: jpeg(name, 49, 40),
    "codec": lambda name: png(name, 48, 40),
}


@pytest.mark.parametrize("fact", PLANTED)
def test_a_marker_in_25_files_of_a_hundred_and_fifty_is_refused_by_name(fact: str) -> None:
    """In the files themselves, in a class drawn by a seed of its own; the rest is alike."""
    random = np.random.default_rng(len(fact))
    marked = set(random.choice(np.flatnonzero(np.arange(150) % 2 == len(fact) % 2), 25, replace=False).tolist())
    growing = Growing()
    known = [{"path": f"{i}.jpg", "origin": ("real", "synthetic")[i % 2]} for i in range(150)]
    files = [PLANTED[fact](f"{fact} {i}") if i in marked else bare(f"{fact} {i}") for i in range(150)]
    growing.add_all(known, files, map)
    result = audit_facts(growing.target("planted", "folder"), permutations=0)
    assert result.refused
    (leak,) = [leak for leak in result.leaks if leak.probe == fact]
    assert leak.value is not None
    assert {int(path.partition(".")[0]) % 2 for path in leak.examples} == {len(fact) % 2} or leak.more_values


def test_nothing_planted_nothing_found() -> None:
    growing = Growing()
    known = [{"path": f"{i}.jpg", "origin": ("real", "synthetic")[i % 2]} for i in range(150)]
    growing.add_all(known, [bare(f"plain {i}") for i in range(150)], map)
    result = audit_facts(growing.target("plain", "folder"), permutations=19)
    assert (result.gate.verdict, result.gate.value) == ("passed", 0.5)
    assert result.gate.self_test is not None
    assert result.gate.self_test.caught
    assert result.leaks == ()


def crossed(rows: int, each: int) -> pa.Table:
    """Two content types of files alike in all else, where `each` synthetic photos and as many real faces are named .png."""
    table = facts(None, 1, 7, leaks=False).take([0] * rows)
    photos, synthetic = np.arange(rows) % 4 < 2, np.arange(rows) % 2 == 1
    odd = np.zeros(rows, bool)
    odd[np.flatnonzero(photos & synthetic)[:each]] = odd[np.flatnonzero(~photos & ~synthetic)[:each]] = True
    for name, values in (
        ("path", [f"{i}.jpg" for i in range(rows)]),
        ("origin", np.where(synthetic, "synthetic", "real")),
        ("extension", np.where(odd, "png", "jpg")),
        ("content_type", np.where(photos, "photos", "faces")),
        ("group", np.arange(rows).astype(str)),
    ):
        table = table.set_column(table.column_names.index(name), name, pa.array(list(values), pa.string()))
    return table


def test_a_marker_that_turns_round_between_content_types_is_refused_by_name() -> None:
    result = audit_facts(Target("x", "folder", crossed(1200, 25)), permutations=19)
    assert result.refused
    assert re.match(r"extension = png marks a class among (photos|faces): in \d+ of 300 real groups", result.gate.reason)
    assert {(m.probe, m.scope) for m in result.gate.markers} == {
        (probe, scope) for probe in ("extension", "mime", "mime_mismatch") for scope in ("photos", "faces")
    }
    (leak,) = [leak for leak in result.leaks if leak.probe == "extension"]
    assert (leak.value, leak.more_values, {leak.real, leak.synthetic}) == ("png", 0, {0, 25})
    mine = {"photos": {1}, "faces": {2}}[leak.scope]
    assert {int(path.partition(".")[0]) % 4 for path in leak.examples} == mine
    row = result.row("origin", "extension", leak.scope)
    assert row is not None
    assert leak.balanced_accuracy == row.balanced_accuracy
    clean = audit_facts(Target("x", "folder", crossed(1200, 0)), permutations=19)
    assert (clean.gate.verdict, clean.leaks) == ("passed", ())
    assert clean.gate.self_test is not None
    assert (clean.gate.self_test.caught, clean.gate.self_test.scope) == (True, "faces")


@pytest.mark.parametrize("each", [6, 9, 20, 25])
def test_fewer_than_25_groups_of_a_class_are_never_called_passed(each: int) -> None:
    """Files alike in every fact: nothing is left to chance, and still nothing can be promised."""
    growing = Growing()
    known = [{"path": f"{i}.jpg", "origin": ("real", "synthetic")[i % 2]} for i in range(2 * each)]
    growing.add_all(known, [bare(f"plain {i}") for i in range(2 * each)], map)
    gate = audit_facts(growing.target("plain", "folder"), permutations=19).gate
    assert gate.self_test is not None
    assert gate.self_test.caught == (each == 25)
    if each == 25:
        assert gate.verdict == "passed"
    else:
        few = f"{each} groups of a class (real), fewer than the 25 that the self-test marks"
        assert (gate.verdict, gate.reason) == ("undecided", f"undecided: {2 * each} groups; {few}")


def test_one_group_alone_is_undecided_and_no_error() -> None:
    growing = Growing()
    known = [{"path": f"{i}.jpg", "origin": ("real", "synthetic")[i % 2], "group": "one"} for i in range(20)]
    growing.add_all(known, [bare(f"one {i}") for i in range(20)], map)
    gate = audit_facts(growing.target("one", "folder"), permutations=19).gate
    assert (gate.verdict, gate.groups, gate.value) == ("undecided", 1, None)
    assert "undecided: 1 groups" in gate.reason


def test_the_published_list_is_read_off_its_file_names(shared: Path) -> None:
    """ImagiNet's own test list, without a pixel: facts/biases.md and reference/README.md beside the repository."""
    result = audit(shared / "reference" / "imaginet-test-annotations.txt", permutations=19)
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


def _comment(mark: bool) -> dict[str, object]:
    software = Image.Exif()
    software[305] = "Adobe Photoshop"
    return {"exif": software, "comment": b"ComfyUI" if mark else b"hello"}


def _described(mark: bool) -> dict[str, object]:
    exif = Image.Exif()
    exif[270] = "made by AI" if mark else "a picture"
    return {"exif": exif}


def _source(mark: bool) -> dict[str, object]:
    kind = "trainedAlgorithmicMedia" if mark else "digitalCapture"
    packet = f'<rdf:Description xmp:CreatorTool="Adobe Photoshop" Iptc4xmpExt:DigitalSourceType="{kind}"/>'
    return {"xmp": packet.encode()}


def _profile(mark: bool) -> dict[str, object]:
    return {"icc_profile": b"X" * 200 if mark else b"Y" * 200}


@pytest.mark.parametrize(
    ("said", "probe", "value"),
    [
        (_comment, "header comment", "ComfyUI"),
        (_described, "exif ImageDescription", "made by AI"),
        (_source, "xmp Iptc4xmpExt:DigitalSourceType", "trainedAlgorithmicMedia"),
        (_profile, "icc_profile", None),
    ],
)
def test_a_marker_inside_metadata_that_all_have_refuses(
    said: Callable[[bool], dict[str, object]], probe: str, value: str | None, tmp_path: Path
) -> None:
    """All files have the same containers; of a hundred synthetic ones forty say something that no real one does."""
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        for i in range(100):
            data = jpeg(f"{name} {i}", 32, 32, **said(name == "fake" and i < 40))
            (tmp_path / name / f"{i}.jpg").write_bytes(data)
    result = audit_folders(tmp_path / "real", tmp_path / "fake", permutations=19)
    assert result.refused
    leak = result.leaks[0]
    assert (leak.probe, leak.synthetic if value else 40, leak.value) == (probe, 40, value or leak.value)
    assert "pixels and nothing else" in leak.remedy


def test_a_container_that_one_class_has_is_one_leak_whatever_it_holds(tmp_path: Path) -> None:
    """Twenty keys came with it; twenty leaks would say no more."""
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        for i in range(40):
            exif = Image.Exif()
            for tag in range(40_000, 40_020):
                exif[tag] = f"{tag} {i % 2}"
            data = jpeg(f"{name} {i}", 32, 32, **({"exif": exif} if name == "real" else {}))
            (tmp_path / name / f"{i}.jpg").write_bytes(data)
    result = audit_folders(tmp_path / "real", tmp_path / "fake", permutations=3)
    assert [leak.probe.partition(" ")[0] for leak in result.leaks].count("exif") == 1


def test_the_same_pixels_under_both_labels_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        for i in range(6):
            (tmp_path / name / f"{i}.png").write_bytes(png(i if i < 4 else f"{name} {i}", 32, 32))
    audit_folders(tmp_path / "real", tmp_path / "fake", permutations=0)
    assert "4 images stand under both labels, pixel by pixel, such as " in caplog.text
    assert caplog.text.count("both labels") == 1
