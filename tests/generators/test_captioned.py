"""Caption, then draw: what a real captioner says of a real image is drawn, recorded, and kept to the rules of prompts."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pictures import write
from PIL import Image

from imaginet_build import engine, orders
from imaginet_build.errors import UsageError
from imaginet_build.generate import generate
from imaginet_build.generators import conformance, stack
from imaginet_build.generators.captioned import CaptionThenDraw
from imaginet_build.recipe import Generate
from imaginet_build.records import Refusal
from imaginet_build.running.adapterproof import _photographs
from imaginet_build.store import Store

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "on", "the", "old", "harbour", "red"]
RED, BLUE = Image.new("RGB", (48, 32), (220, 40, 40)), Image.new("RGB", (48, 32), (30, 40, 220))


@pytest.fixture(scope="session")
def blip(tmp_path_factory) -> Path:
    """A BLIP of one layer, trained for a moment to tell a red image from a blue one."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    layer = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        text_config={**layer, **ends, "vocab_size": len(WORDS), "max_position_embeddings": 64, "encoder_hidden_size": 16},
        vision_config={**layer, "image_size": 32, "patch_size": 8},
    )
    words = BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)
    both = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), words)
    with stack.no_vendor_warnings():
        model = BlipForConditionalGeneration(config)
        given = both(images=[RED, BLUE], text=["a red cat", "the old harbour"], return_tensors="pt")
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
        for _ in range(60):
            loss = model(**given, labels=given["input_ids"]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save_pretrained(folder)
        both.save_pretrained(folder)
    assert loss < 0.5
    return folder


@pytest.fixture(scope="session")
def vit_gpt2(tmp_path_factory) -> Path:
    """An encoder-decoder whose image processor and tokenizer nobody tied together."""
    from tinypipelines import letters
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig, ViTImageProcessor

    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("vit-gpt2")
    layer = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sees, says = ViTConfig(**layer, image_size=32, patch_size=8), GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(sees, says)
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 5, 1, 0
    with stack.no_vendor_warnings():
        VisionEncoderDecoderModel(config).save_pretrained(folder)
        letters().save_pretrained(folder)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def made(model: Path, captioner: Path, **keywords) -> CaptionThenDraw:
    return CaptionThenDraw(str(model), captioner=str(captioner), steps=2, caption_tokens=6, name="captioned", **keywords)


def showing(order, image: Image.Image):
    """The order, with another image to start from."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return replace(order, source=replace(order.source, data=buffer.getvalue()))


def test_what_the_image_shows_is_drawn_and_told(tiny_sd, blip):
    adapter = made(tiny_sd, blip)
    first, second = conformance.orders(2, 64, 48, needs="source")
    red, blue = adapter.draw([showing(first, RED), showing(second, BLUE)])
    assert red.info["params"]["caption"] == "a red cat"
    assert blue.info["params"]["caption"] == "the old harbour"
    assert red.size == (64, 48)
    assert adapter.params()["captioner"] == str(blip)


def test_the_caption_decides_the_image_and_neighbours_do_not_decide_the_caption(tiny_sd, blip):
    adapter = made(tiny_sd, blip)
    order = conformance.orders(1, 64, 48, needs="source")[0]
    red, blue = (next(adapter.draw([showing(order, image)])) for image in (RED, BLUE))
    assert red.tobytes() != blue.tobytes()
    three = conformance.orders(3, 64, 48, needs="source")
    turned = adapter.draw([showing(one, image) for one, image in zip(three, (BLUE, RED, BLUE), strict=True)])
    assert [image.info["params"]["caption"] for image in turned] == ["the old harbour", "a red cat", "the old harbour"]


def test_any_image_to_text_model_will_do(tiny_sd, vit_gpt2):
    adapter = made(tiny_sd, vit_gpt2)
    (image,) = adapter.draw(conformance.orders(1, 64, 48, needs="source"))
    assert isinstance(image, Refusal) or image.info["params"]["caption"]


@pytest.mark.prove
def test_it_passes_the_suite_that_ships(tiny_sd, blip):
    wanted = conformance.orders(3, 64, 48, needs="source")
    assert conformance.check(lambda: made(tiny_sd, blip), wanted) == []


@pytest.mark.parametrize(
    ("options", "size", "drawn"),
    [
        ({"width": 1024, "height": 1024}, (4000, 3000), (1184, 880)),
        ({"width": 1024, "height": 1024}, (3000, 4000), (880, 1184)),
        ({"width": 512, "height": 512}, (640, 640), (512, 512)),
        ({"width": 512, "height": 512, "sizes": [[512, 512], [640, 384], [384, 640]]}, (4000, 2500), (640, 384)),
        ({}, (641, 427), (640, 432)),
    ],
)
def test_it_draws_at_the_partners_aspect_and_the_cards_area(options, size, drawn):
    assert CaptionThenDraw.size_of(options, *size) == drawn


def test_what_is_not_a_captioner_is_refused(tiny_sd, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="does not load"):
        made(tiny_sd, tiny_sd)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"hf download nobody/blip, or set captioner = "):
        CaptionThenDraw(str(tiny_sd), captioner="nobody/blip")


def test_no_source_and_no_words_are_refusals(tiny_sd, blip, monkeypatch):
    adapter = made(tiny_sd, blip)
    good = conformance.orders(2, 64, 48, needs="source")
    monkeypatch.setattr(adapter._captioner._read, "batch_decode", lambda *_, **__: [" \n "])
    reasons = [answer.reason for answer in adapter.draw([good[0], replace(good[1], source=None)])]
    assert reasons == ["no-caption", "no-source"]


CARD = """
adapter = "imaginet_build.generators.captioned:CaptionThenDraw"
family = "sd"
licence = "CC0-1.0"
revision = "1"
model = "{model}"
captioner = "{captioner}"
caption_tokens = 6
steps = 1
width = 64
height = 64
"""


def test_its_record_ties_the_pair_and_a_named_person_is_refused(tiny_sd, blip, tmp_path, monkeypatch, caplog):
    """By `generate`: the caption is the prompt of the row, `pair_id` and `group` are the real image's."""
    from inline import Inline

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", Inline())
    write(tmp_path / "manifests" / "generators" / "told.toml", CARD.format(model=tiny_sd, captioner=blip))
    store = Store(tmp_path / "work")
    _photographs(store)
    entry = Generate(generator="told", category="photos", count=3, batch=2)
    caplog.set_level("INFO")
    generate(store, [entry], 1, engine.Pool(workers=1))
    rows = [row for row in store.facts().to_pylist() if row["origin"] == "synthetic"]
    real = {row["id"]: row for row in store.facts().to_pylist() if row["origin"] == "real"}
    assert len(rows) == 3
    assert re.search(r"told: (no GPU found|cuda|mps): \w+", caplog.text), "what was chosen by the device is said"
    for row in rows:
        assert set(row["prompt"].split()) <= set(WORDS[5:])
        assert real[row["pair_id"]]["group"] == row["group"]
        assert (row["width"], row["height"]) == (64, 64)
        assert "caption" not in json.loads(row["params"])
        assert json.loads(row["params"])["captioner"] == str(blip)

    monkeypatch.setattr("imaginet_build.generators.captioned.Captioner.say", lambda *_: "President Macron on a red horse")
    done = generate(store, [entry.model_copy(update={"count": 5})], 1, engine.Pool(workers=1))
    assert done.rejected == {"named-person": 2}
    assert done.failed == 0


def test_a_card_with_sizes_gives_each_prompt_one_of_them_and_batches_of_one_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = """
adapter = "imaginet_build.generators.diffusion:Diffusion"
family = "sd"
licence = "CC0-1.0"
revision = "1"
model = "./somewhere"
width = 64
height = 64
sizes = [[64, 64], [96, 48], [48, 96]]
"""
    write(tmp_path / "manifests" / "generators" / "wide.toml", card)
    entry = Generate(generator="wide", category="photos", count=40, batch=4)
    batches = list(orders.manifest([entry], 1, Store(tmp_path / "work"), {"wide": "1"}))
    sizes = [{(order.width, order.height) for order in batch.orders} for batch in batches]
    assert all(len(size) == 1 for size in sizes)
    assert set().union(*sizes) == {(64, 64), (96, 48), (48, 96)}
    assert sum(len(batch.orders) for batch in batches) == 40
    assert [len(batch.orders) for batch in batches].count(4) >= 8
    fixed = entry.model_copy(update={"width": 32, "height": 32})
    (size,) = {(o.width, o.height) for b in orders.manifest([fixed], 1, Store(tmp_path), {"wide": "1"}) for o in b.orders}
    assert size == (32, 32)


def test_a_source_of_any_size_is_captioned(tiny_sd, blip):
    order = conformance.orders(1, 200, 130, needs="source")[0]
    (image,) = made(tiny_sd, blip).draw([replace(order, width=80, height=48)])
    assert isinstance(image, Image.Image)
    assert image.size == (80, 48)
