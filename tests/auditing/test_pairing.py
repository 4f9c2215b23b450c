"""Prompts and images belong together, or the test says they do not: by a tiny dual encoder trained here on coloured shapes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from imaginet_build.auditing import pairing
from imaginet_build.auditing.dualencoder import DualEncoder
from imaginet_build.cli import app
from imaginet_build.errors import UsageError
from imaginet_build.records import random_of

COLOURS = {"red": (220, 30, 30), "green": (30, 170, 40), "blue": (40, 60, 220), "yellow": (230, 220, 40), "white": (240,) * 3}
SHAPES = ("circle", "square", "bar")


def picture(name: str) -> tuple[Image.Image, str]:
    """A coloured shape somewhere on a dark ground, and what it shows."""
    random = random_of(name, "shape")
    colour, shape = str(random.choice(list(COLOURS))), str(random.choice(SHAPES))
    ground = random.integers(0, 70, 3).tolist()
    image = Image.new("RGB", (32, 32), tuple(ground))
    x, y, side = (int(random.integers(low, high)) for low, high in ((1, 12), (1, 12), (14, 19)))
    box = (x, y, x + side, y + (side // 3 if shape == "bar" else side))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=COLOURS[colour])
    return image, f"a {colour} {shape}"


def tokenizer(folder: Path):
    """A CLIP tokenizer that knows each word of the captions as one token."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    words, merges = [], []
    for word in ("a", *COLOURS, *SHAPES):
        done, letters = word[0], [*word[1:-1], word[-1] + "</w>"][-len(word) + 1 :] if len(word) > 1 else []
        for letter in letters:
            merges.append(f"{done} {letter}")
            done += letter
            words.append(done)
    letters = list(bytes_to_unicode().values())
    every = dict.fromkeys([*letters, *(f"{c}</w>" for c in letters), *words, "<|startoftext|>", "<|endoftext|>"])
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(every)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of 60,000 weights, trained for a few seconds with its own contrastive loss."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("encoder")
    words = tokenizer(folder)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.eos_token_id}
    model = CLIPModel(
        CLIPConfig(
            text_config={**size, **ends, "vocab_size": len(words), "max_position_embeddings": 16},
            vision_config={**size, "image_size": 32, "patch_size": 8},
            projection_dim=32,
        )
    )
    look = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pictures = [picture(f"train {i}") for i in range(512)]
    seen = look(images=[image for image, _ in pictures], return_tensors="pt")["pixel_values"]
    said = words([caption for _, caption in pictures], padding="max_length", max_length=8, return_tensors="pt")
    for _ in range(120):
        some = torch.randint(len(pictures), (48,))
        given = {name: values[some] for name, values in said.items()}
        loss = model(pixel_values=seen[some], **given, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for part in (model.eval(), words, look):
        part.save_pretrained(folder)
    return folder


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(root: Path, count: int, shift: int = 0, maker: str = "painter") -> Path:
    """Images with an index, the column of prompts rolled down by `shift` rows."""
    root.mkdir(parents=True)
    pictures = [picture(f"{maker} {i}") for i in range(count)]
    prompts = np.roll([caption for _, caption in pictures], shift)
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "prompt", "generator"])
        for i, (image, _) in enumerate(pictures):
            (root / f"{i}.png").write_bytes(png(image))
            writer.writerow([f"{i}.png", prompts[i], maker])
    return root


@pytest.fixture(scope="module")
def trained(encoder: Path) -> DualEncoder:
    return DualEncoder(str(encoder))


def test_fifty_images_with_their_own_prompts_are_paired(trained: DualEncoder, tmp_path: Path) -> None:
    done = pairing.pairing(folder_of(tmp_path / "good", 50), trained)
    (one,) = done.generators
    assert (one.verdict, one.pairs, one.shift) == ("paired", 50, 0)
    assert one.p < 0.01
    assert one.score > one.shuffled
    assert not done.refused


@pytest.mark.parametrize("shift", [1, -1, 2])
def test_a_column_that_slipped_is_caught_with_fifty_images(trained: DualEncoder, tmp_path: Path, shift: int) -> None:
    done = pairing.pairing(folder_of(tmp_path / "slipped", 50, shift), trained)
    (one,) = done.generators
    assert one.p_shift < 0.01
    assert (one.verdict, one.shift) == ("shifted", shift)
    assert done.refused


def test_shuffled_prompts_are_no_pairs_and_no_shift(trained: DualEncoder, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "shuffled", 60)
    rows = list(csv.reader((root / "index.csv").read_text().splitlines()))
    order = random_of("shuffled", "test").permutation(60)
    shuffled = [[row[0], rows[1 + order[i]][1], row[2]] for i, row in enumerate(rows[1:])]
    with (root / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *shuffled])
    (one,) = pairing.pairing(root, trained).generators
    assert one.verdict == "unpaired"
    assert one.p > 0.01


def test_false_alarms_are_as_rare_as_the_level_says(trained: DualEncoder) -> None:
    """Of 25 well paired sets none is refused; of 25 without any pairs no more are taken for shifted than by the level."""
    verdicts = []
    for paired in (True, False):
        for k in range(25):
            pictures = [picture(f"set {k} {i}") for i in range(50)]
            texts = [caption for _, caption in pictures]
            if not paired:
                texts = [texts[i] for i in random_of(f"set {k}", "none").permutation(50)]
            words, seen = trained.texts(texts), trained.images([image for image, _ in pictures])
            shifts = [s for s in range(-3, 4) if s]
            columns = {(0, "own"): words} | {(s, "own"): np.roll(words, -s, axis=0) for s in shifts}
            verdicts.append((paired, pairing.judge(f"set {k}", seen, columns).verdict))
    assert {verdict for paired, verdict in verdicts if paired} == {"paired"}
    assert sum(verdict == "shifted" for paired, verdict in verdicts if not paired) <= 2
    assert sum(verdict == "paired" for paired, verdict in verdicts if not paired) <= 2


def test_one_bad_generator_among_good_ones_is_named_also_in_a_release(trained: DualEncoder, tmp_path: Path) -> None:
    """Of a table whose prompts slipped as a whole, the fitting prompt stands in the order of all rows."""
    names = ["real", "painter", "sculptor"]
    rows = []
    for i in range(180):
        image, caption = picture(f"row {i}")
        maker = 1 + int(random_of(f"{i}", "maker").integers(2))
        rows.append({"image": {"bytes": png(image), "path": None}, "generator": maker, "prompt": caption, "id": str(i)})
    features = {"info": {"features": {"generator": {"names": names, "_type": "ClassLabel"}}}}

    def release(root: Path, prompts: list[str]) -> Path:
        table = pa.Table.from_pylist([row | {"prompt": text} for row, text in zip(rows, prompts, strict=True)])
        shard = root / "data" / "native" / "train-00000-of-00001.parquet"
        shard.parent.mkdir(parents=True)
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), shard, row_group_size=50)
        return root

    texts = [row["prompt"] for row in rows]
    slipped = pairing.pairing(release(tmp_path / "all", [texts[-1], *texts[:-1]]), trained)
    assert [(o.generator, o.verdict, o.shift, o.order) for o in slipped.generators] == [
        ("painter", "shifted", 1, "all"),
        ("sculptor", "shifted", 1, "all"),
    ]
    own = [i for i, row in enumerate(rows) if row["generator"] == 2]
    for i, before in zip(own, np.roll(own, 1), strict=True):
        texts[i] = rows[before]["prompt"]
    done = pairing.pairing(release(tmp_path / "one", texts), trained)
    assert [(o.generator, o.verdict, o.order) for o in done.generators] == [
        ("painter", "paired", "own"),
        ("sculptor", "shifted", "own"),
    ]


def test_the_same_call_gives_the_same_figures(trained: DualEncoder, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "twice", 30)
    assert pairing.pairing(root, trained).to_json() == pairing.pairing(root, trained).to_json()


def test_few_images_are_said_to_be_few(trained: DualEncoder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no generator has 10 images with a prompt"):
        pairing.pairing(folder_of(tmp_path / "few", 9), trained)
    root = folder_of(tmp_path / "gone", 12)
    (root / "3.png").write_bytes(b"GIF89a")
    assert [name for name, _ in pairing.pairing(root, trained).unreadable] == ["3.png"]


def test_the_command_exits_with_three_and_says_where_the_prompts_are(encoder: Path, tmp_path: Path) -> None:
    folder_of(tmp_path / "slipped", 50, 1)
    said = CliRunner().invoke(app, ["pairing", str(tmp_path / "slipped"), "--model", str(encoder), "--json"])
    assert said.exit_code == 3
    (one,) = json.loads(said.stdout)["generators"]
    assert (one["verdict"], one["shift"]) == ("shifted", 1)
    assert one["p_shift"] < 0.01
    done = pairing.Paired("slipped", "tiny", (pairing.Pairing(**one),), (), ())
    assert "painter: shifted (50 pairs" in pairing.text(done)
    assert "stands 1 row further on, in the order of this generator's images" in pairing.text(done)


def test_a_model_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"not on this machine.*hf download nobody/nothing"):
        DualEncoder("nobody/nothing")
    with pytest.raises(UsageError, match="there is no model at"):
        DualEncoder("./nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="is no dual encoder that transformers can load here"):
        DualEncoder(str(tmp_path))
