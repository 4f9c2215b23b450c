"""Verdicts of many images at a time: in order, in bounded memory, with what they are worth."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imaginet_build.cards import MODELS
from imaginet_build.detecting import judge as module
from imaginet_build.detecting.given import Given
from imaginet_build.detecting.judge import Judge
from imaginet_build.records import Item

SHIPPED = MODELS / "detector-small"


def png(number: int, side: int = 100) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def with_calibration(folder: Path, **values: object) -> Judge:
    shutil.copytree(SHIPPED, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"calibration": values}))
    return Judge(folder)


def test_answers_come_in_order_and_alike_however_many_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [Given(str(k), png(k, 100 + 10 * k)) if k % 3 else Given(str(k), None, "gone") for k in range(10)]
    judge = Judge()
    together = list(judge.answers(files))
    assert [a["path"] for a in together] == [str(k) for k in range(10)]
    assert [a.get("error") for a in together[::3]] == ["gone"] * 4
    monkeypatch.setattr(module, "_PIXELS", 1)
    assert list(judge.answers(files)) == together
    assert list(judge.answers([])) == []


def test_a_folder_of_any_length_is_held_a_few_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIXELS", 40_000)
    data = png(0)
    given_out = 0

    def files() -> Iterator[Given]:
        nonlocal given_out
        for k in range(60):
            given_out += 1
            yield Given(str(k), data)

    for said, _ in enumerate(Judge().answers(files()), start=1):
        assert given_out - said <= 4 + module._AHEAD + 1


def test_the_band_of_the_calibration_decides_what_it_cannot_tell(tmp_path: Path) -> None:
    file = Given("x", png(1))
    p = next(Judge().answers([file]))["p_synthetic"]
    known = {"scale": Judge().calibration.scale, "bias": Judge().calibration.bias, "rows": 90, "error": 0.05, "groups": 30}
    said = {}
    for name, low, high in (
        ("synthetic", p / 3, p / 2),
        ("real", (1 + p) / 2, (2 + p) / 3),
        ("cannot tell", p / 2, (1 + p) / 2),
    ):
        (answer,) = with_calibration(tmp_path / name, **known, low=low, high=high).answers([file])
        said[name] = answer["verdict"]
        assert "of images like the 90 it was calibrated on, at most 5%" in answer["note"]
        assert (answer["generator"] is None) == (name != "synthetic")
    assert said == {name: name for name in said}


def test_a_detector_without_a_calibration_split_gives_no_verdict(tmp_path: Path) -> None:
    judge = with_calibration(tmp_path / "c", scale=9.0, bias=0.0)
    answers = list(judge.answers([Given(str(k), png(k)) for k in range(3)]))
    assert {a["verdict"] for a in answers} == {"cannot tell"}
    assert all("no calibration split stands behind it" in a["note"] for a in answers)


def test_one_image_comes_with_its_patches() -> None:
    answer, item, patches = Judge().look(Given("x", png(0, 200)))
    assert answer["path"] == "x"
    assert isinstance(item, Item)
    assert len(patches) == 16
    assert patches[0].keys() == {"left", "top", "side", "p_synthetic"}
    answer, item, patches = Judge().look(Given("x", b"no image"))
    assert (answer.keys(), item, patches) == ({"path", "error"}, None, [])
