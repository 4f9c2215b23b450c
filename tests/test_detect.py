"""`detect` with the detector that ships."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import run
from PIL import Image

from imaginet_build import cli
from imaginet_build.cards import MODELS
from imaginet_build.detect import detect
from imaginet_build.errors import UsageError

KEYS = {"path", "p_synthetic", "verdict", "generator", "p_generator", "checkpoint", "note"}
SHIPPED = MODELS / "detector-small"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, size in (("a.png", (200, 150)), ("b.jpg", (300, 300)), ("deep/c.webp", (120, 500)), ("small.png", (60, 60))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (20, 20)).save(tmp_path / "tiny.png")
    return tmp_path


def test_every_file_gets_one_answer_in_order(pictures: Path) -> None:
    said = detect([pictures / "b.jpg", pictures])
    names = ["b.jpg", "a.png", "b.jpg", "deep/c.webp", "small.png", "text.jpg", "tiny.png"]
    assert [Path(s["path"]).relative_to(pictures).as_posix() for s in said] == names
    for answer in said[:5]:
        assert answer.keys() == KEYS
        assert 0 <= answer["p_synthetic"] <= 1
        assert answer["verdict"] in ("synthetic", "real", "cannot tell")
        assert (answer["generator"] is not None) == (answer["verdict"] == "synthetic")
        assert "ships with" in answer["checkpoint"]
        assert "photographs" in answer["note"], "its limits are in every verdict"
    assert said[0] == said[2]
    assert [s.keys() for s in said[5:]] == [{"path", "error"}] * 2
    assert "too-small" in said[6]["error"]


def test_an_image_smaller_than_a_crop_is_no_verdict(pictures: Path) -> None:
    (answer,) = detect([pictures / "small.png"])
    assert answer["verdict"] == "cannot tell"
    assert answer["note"].startswith("smaller than one crop of 96 pixels")


def test_a_checkpoint_of_ones_own_is_named_in_the_verdict(pictures: Path) -> None:
    (answer,) = detect([pictures / "a.png"], SHIPPED)
    assert answer["checkpoint"] == str(SHIPPED)


def test_wrong_calls_are_named(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        detect([pictures / "none.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no image files"):
        detect([tmp_path / "empty"])
    with pytest.raises(UsageError, match="is not a checkpoint"):
        detect([pictures / "a.png"], pictures)


def test_it_answers_without_torch(pictures: Path) -> None:
    code = (
        "import sys, json; sys.modules['torch'] = None; from pathlib import Path; from imaginet_build.detect import detect; "
        "print(json.dumps(detect([Path(sys.argv[1])])))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(pictures / "a.png")], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == detect([pictures / "a.png"])


def test_what_ships_is_small_and_carries_its_card() -> None:
    assert sum(p.stat().st_size for p in SHIPPED.iterdir()) <= 2_000_000
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    for word in ("AUC", "licence", "permuted", "blurred", "Limits"):
        assert word in card


def test_the_command_lists_what_it_could_not_read_and_exits_with_1(pictures: Path) -> None:
    done = run("detect", "--json", pictures / "a.png", pictures / "text.jpg", cwd=pictures, code=1)
    good, bad = json.loads(done.stdout)
    assert good.keys() == KEYS
    assert bad.keys() == {"path", "error"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("detect",), "name images, folders or addresses, or add --serve"),
        (("detect", "--serve", "a.png"), "takes no paths"),
        (("detect", "--serve", "--bind", "0.0.0.0"), "--allow-host NAME"),
        (("detect", "a.png", "--work", "nowhere"), "nothing is trained in nowhere"),
        (("baseline", "export"), "is trained in work"),
    ],
)
def test_wrong_calls_are_one_sentence(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
