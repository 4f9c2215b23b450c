"""`baseline export`: the fastest form that keeps its promises beside torch, as a checkpoint that others use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imaginet_build.baseline.export import export, table_text
from imaginet_build.detect import detect
from imaginet_build.detectors import selfcon
from imaginet_build.detectors.checkpoint import read_config
from imaginet_build.errors import BuildError, MissingExtra, UsageError
from imaginet_build.records import Item

pytest.importorskip("torch")
pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def items() -> list[Item]:
    random = np.random.default_rng(0)
    sizes = [(64, 48), (40, 40), (90, 33), (200, 100)]
    return [Item(str(s), b"", Image.fromarray(random.integers(0, 256, (*s, 3), dtype=np.uint8))) for s in sizes]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_fp32_says_what_torch_says(runtime: str, trained: Path, tmp_path: Path, items: list[Item]) -> None:
    pytest.importorskip(runtime)
    done = export(trained, tmp_path / "out", runtime=runtime, rounds=1)
    assert (done.chosen.runtime, done.chosen.precision) == (runtime, "fp32")
    assert done.chosen.difference <= 1e-5
    assert done.chosen.nbytes == sum(p.stat().st_size for p in (tmp_path / "out").iterdir() if p.name != "config.json")
    config = read_config(tmp_path / "out", "export")
    from imaginet_build import catalog

    detector = catalog.build(catalog.card("detectors", config["card"]), model=str(tmp_path / "out"))
    wanted = selfcon.SelfCon("small", str(trained)).score(items)
    got = detector.score(items)
    np.testing.assert_allclose(got.p_synthetic, wanted.p_synthetic, atol=1e-5)
    np.testing.assert_allclose(got.p_generator, wanted.p_generator, atol=1e-5)
    assert got.generators == wanted.generators


def test_a_calibration_split_too_small_to_judge_int8_on_leaves_fp32(trained: Path, tiny: Path, tmp_path: Path) -> None:
    done = export(trained, tmp_path / "out", tiny, runtime="onnxruntime", rounds=1)
    said = {one.precision: one for one in done.table}
    assert done.chosen == said["fp32"]
    assert said["int8"].loss is None
    assert any("too few to show a loss of 0.002" in fault for fault in said["int8"].broken)
    text = table_text(done.table, done.untried, done.chosen)
    assert "onnxruntime int8" in text
    assert "chosen" in text
    with pytest.raises(BuildError, match=r"(?s)nothing was written.*onnxruntime int8.*too few"):
        export(trained, tmp_path / "never", tiny, precision="int8", runtime="onnxruntime", rounds=1)
    assert not (tmp_path / "never").exists()


def test_the_export_is_a_checkpoint_for_detect(trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "out", runtime="onnxruntime", rounds=1)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (from_torch,), (from_file,) = (detect([tmp_path / "a.png"], folder) for folder in (trained, tmp_path / "out"))
    assert from_file["p_synthetic"] == pytest.approx(from_torch["p_synthetic"], abs=1e-4)
    assert from_file["verdict"] == from_torch["verdict"]
    assert from_file["checkpoint"] == str(tmp_path / "out")


def test_nothing_but_an_earlier_export_is_written_over(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is the checkpoint itself"):
        export(trained, trained)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds something that is no earlier export"):
        export(trained, tmp_path / "mine")
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    with pytest.raises(UsageError, match="no earlier export"):
        export(trained, copy)
    export(trained, tmp_path / "out", runtime="onnxruntime", rounds=1)
    before = (tmp_path / "out" / "model.onnx").read_bytes()
    export(trained, tmp_path / "out", runtime="onnxruntime", rounds=1)
    assert (tmp_path / "out" / "model.onnx").read_bytes() == before


def test_int8_without_a_release_is_refused_at_once(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--on RELEASE"):
        export(trained, tmp_path / "out", precision="int8")


def test_without_openvino_the_other_runtime_is_tried_alone(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = export(trained, tmp_path / "out", rounds=1)
    assert [one.runtime for one in done.table] == ["onnxruntime"]
    assert any("imaginet-build[openvino]" in why for why in done.untried)
    with pytest.raises(MissingExtra, match=r"imaginet-build\[openvino\]"):
        export(trained, tmp_path / "other", runtime="openvino", rounds=1)


def test_openvino_reports_nothing_home() -> None:
    """Importing it sends a message over the network where its telemetry package can be imported."""
    pytest.importorskip("openvino")
    code = (
        "import sys\nfrom imaginet_build.detectors.openvino import import_openvino\nimport_openvino('a test')\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.prove
def test_the_papers_network_is_exported_twice_as_fast_and_in_int8_five_times(
    tmp_path: Path, write_release: Callable[..., Path]
) -> None:
    """Its own shape and size; its head fitted on frozen features, so that it tells something apart."""
    pytest.importorskip("openvino")
    from papernet import fitted

    data = write_release(tmp_path / "release", {"train": 48, "calibration": 320}, side=48)
    done = export(fitted(tmp_path / "checkpoint", data), tmp_path / "out", data, rounds=3, most=200)
    text = table_text(done.table, done.untried, done.chosen)
    fp32 = [one for one in done.table if one.precision == "fp32"]
    assert [one for one in fp32 if not one.broken], text
    assert done.chosen.precision.startswith("int8"), text
    assert done.chosen.speed >= 5, text
    assert json.loads((tmp_path / "out" / "config.json").read_text())["export"]["loss"][2] <= 0.002
