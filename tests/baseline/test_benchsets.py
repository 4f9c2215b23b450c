"""Other people's test sets as they lie on a disk, each with the labels and the real images it was published with."""

from __future__ import annotations

import io
import json
import logging
import re
from collections import Counter
from pathlib import Path

import hub_client
import hub_server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imaginet_build import sketch
from imaginet_build.baseline import benchsets, contaminated, hubsets
from imaginet_build.baseline.data import Rows
from imaginet_build.baseline.testset import Around, prepare
from imaginet_build.errors import BadImage, UsageError


def drawn(number: int) -> bytes:
    held = io.BytesIO()
    Image.effect_noise((64, 64), 10 + number % 90).convert("RGB").save(held, "PNG")
    return held.getvalue()


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn(sum(map(ord, name))))
    return root


def cells(rows: Rows) -> dict[tuple[str, str], int]:
    return dict(Counter(zip(rows.generator, rows.content_type, strict=True)))


def test_genimage_and_its_own_reals_for_each_generator(tmp_path: Path) -> None:
    put(
        tmp_path,
        "Midjourney/imagenet_midjourney/val/ai/1.png", "Midjourney/imagenet_midjourney/val/nature/n1.JPEG",
        "Midjourney/imagenet_midjourney/train/ai/2.png", "Midjourney/imagenet_midjourney/train/nature/n2.JPEG",
        "ADM/imagenet_ai_0508_adm/val/ai/3.PNG", "ADM/imagenet_ai_0508_adm/val/nature/n3.JPEG",
    )  # fmt: skip
    bench = benchsets.opened(tmp_path)
    assert bench.layout == "GenImage"
    pairs = [("Midjourney", "Midjourney"), ("real", "Midjourney"), ("ADM", "ADM"), ("real", "ADM")]
    assert cells(bench.rows) == dict.fromkeys(pairs, 1), "not the split for training, and each generator's own real images"
    assert dict(zip(bench.rows.generator, bench.rows.family, strict=True)) == {
        "Midjourney": "midjourney", "ADM": "diffusion", "real": "real",
    }  # fmt: skip
    alone = benchsets.opened(tmp_path / "ADM" / "imagenet_ai_0508_adm" / "val")
    assert (alone.layout, set(alone.rows.generator)) == ("GenImage", {"imagenet_ai_0508_adm", "real"})


def test_forensynths_with_and_without_classes(tmp_path: Path) -> None:
    put(
        tmp_path, "progan/airplane/0_real/a.png", "progan/airplane/1_fake/b.png", "progan/car/0_real/a.png",
        "progan/car/1_fake/b.png", "crn/0_real/a.png", "crn/1_fake/b.png", "crn/1_fake/notes.txt",
    )  # fmt: skip
    bench = benchsets.opened(tmp_path)
    assert bench.layout == "ForenSynths"
    assert cells(bench.rows) == {("progan", "progan"): 2, ("real", "progan"): 2, ("crn", "crn"): 1, ("real", "crn"): 1}
    assert bench.rows.ids == tuple(sorted(bench.rows.ids)), "names are paths, in order"
    assert "progan/car/1_fake/b.png" in bench.rows.ids


def test_synthbuster_needs_real_images_from_elsewhere(tmp_path: Path) -> None:
    fake = put(tmp_path / "synthbuster", "dalle3/r0.png", "firefly/r0.png", "glide/r0.png", "midjourney-v5/r0.png")
    (fake / "prompts.csv").write_text("image name,Prompt\nr0,a boat\n")
    real = put(tmp_path / "RAISE", "r0.png", "r1.png")
    with pytest.raises(UsageError, match=r"brings no real images.*--real DIR"):
        benchsets.opened(fake)
    bench = benchsets.opened(fake, real=real)
    assert bench.layout == "Synthbuster"
    assert set(bench.rows.generator) == {"dalle3", "firefly", "glide", "midjourney-v5", "real"}
    assert set(bench.rows.content_type) == {"all"}, "all share the same real images"
    with pytest.raises(UsageError, match="did you mean 'RAISE'"):
        benchsets.opened(fake, real=tmp_path / "RAISSE")


def test_a_folder_pair_names_generators_by_folder(tmp_path: Path) -> None:
    put(tmp_path, "real/a.png", "fake/sdxl/b.png", "fake/flux/c.png", "fake/d.png")
    bench = benchsets.opened(tmp_path)
    assert bench.layout == "folders"
    assert set(bench.rows.generator) == {"real", "sdxl", "flux", "fake"}
    assert dict(zip(bench.rows.generator, bench.rows.family, strict=True))["sdxl"] == "sd"


def test_the_corvi_list_is_twelve_generators(tmp_path: Path) -> None:
    names = [
        "biggan_512/biggan_318.png,1", "biggan_256/biggan_227.png,1", "dalle_2/DALL·E 2022 - A cake, sitting.png,1",
        "stylegan3_r_ffhqu_1024x1024/seed20499.png,1", "stylegan3_t_afhqv2_512x512/seed1.png,1", "real_coco_valid/1.jpg,0",
        "guided-diffusion_noise2image_LSUNcats/202.png,1", "real_ucid/gone.png,0",
    ]  # fmt: skip
    put(tmp_path, *(line.rpartition(",")[0] for line in names[:-1]))
    (tmp_path / "annotations_corvi.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    bench = benchsets.opened(tmp_path / "annotations_corvi.txt")
    assert bench.layout == "Corvi"
    assert dict(Counter(bench.rows.generator)) == {"BigGAN": 2, "DALL·E 2": 1, "StyleGAN3": 2, "ADM": 1, "real": 1}
    assert set(bench.lost) == {"real_ucid/gone.png"}
    assert bench.lost["real_ucid/gone.png"].startswith("missing")
    assert len(benchsets.CORVI) == 12
    with pytest.raises(UsageError, match="--images DIR"):
        benchsets.opened(tmp_path / "annotations_corvi.txt", images=put(tmp_path / "elsewhere", "x.png"))


def test_the_practical_lists_keep_their_own_real_images(tmp_path: Path) -> None:
    put(
        tmp_path, "AIDraw_1122/Fake/DreamBooth/1.png", "AIDraw_1122/Fake/MidjourneyV5/2.png",
        "AIDraw_1122/Real/Bryndon Diaz/0.jpg",
    )  # fmt: skip
    lists = tmp_path / "annotation"
    lists.mkdir()
    real = "AIDraw_1122/Real/Bryndon Diaz/0.jpg 0\n"
    (lists / "Test_DreamBooth_num2.txt").write_text("AIDraw_1122/Fake/DreamBooth/1.png 1\n" + real)
    (lists / "Test_MidjourneyV5_num2.txt").write_text("AIDraw_1122/Fake/MidjourneyV5/2.png 1\n" + real)
    bench = benchsets.opened(lists, images=tmp_path)
    assert bench.layout == "Practical"
    pairs = [("DreamBooth",) * 2, ("real", "DreamBooth"), ("MidjourneyV5",) * 2, ("real", "MidjourneyV5")]
    assert cells(bench.rows) == dict.fromkeys(pairs, 1)
    shared = [group for group, name in zip(bench.rows.group, bench.rows.ids, strict=True) if "Real" in name]
    assert len(shared) == 2
    assert len(set(shared)) == 1, "the same photograph in two lists is one group"


def test_the_papers_own_lists_and_lists_with_a_header(tmp_path: Path) -> None:
    put(tmp_path, "imagenet/1.JPEG", "progan/horse/2.png", "a.png", "b.png")
    (tmp_path / "test.txt").write_text("./imagenet/1.JPEG,0,0,4,8\n./progan/horse/2.png,1,0,0,0\n")
    bench = benchsets.opened(tmp_path / "test.txt")
    assert bench.layout == "ImagiNet list"
    assert (bench.rows.generator, bench.rows.family) == (("real", "progan"), ("real", "gan"))
    assert set(bench.rows.content_type) == {"photos"}
    (tmp_path / "index.csv").write_text("path,origin,content_type,generator\na.png,real,faces,\nb.png,fake,faces,Flux 2\n")
    headed = benchsets.opened(tmp_path).rows
    assert (headed.generator, headed.family, headed.content_type) == (
        ("real", "Flux 2"),
        ("real", "diffusion"),
        ("faces", "faces"),
    )


def test_what_leads_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    put(tmp_path, "secret.png", "set/a.png", "set/b.png")
    (tmp_path / "set" / "list.txt").write_text("a.png,0\nb.png,1\n../secret.png,1\nb.png,1\n")
    bench = benchsets.opened(tmp_path / "set" / "list.txt")
    assert bench.rows.ids == ("a.png", "b.png")
    assert {reason.partition(":")[0] for reason in bench.lost.values()} == {"outside-root", "listed-twice"}


def test_what_is_no_test_is_said(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png")
    with pytest.raises(UsageError, match=r"no file or folder.*did you mean 'images'"):
        benchsets.opened(tmp_path / "imges")
    with pytest.raises(UsageError, match="is no test set; it takes a release"):
        benchsets.opened(tmp_path / "images")
    with pytest.raises(UsageError, match="is no test set"):
        benchsets.opened(tmp_path / "images" / "a.png")
    put(tmp_path, "half/real/a.png")
    (tmp_path / "half" / "fake").mkdir()
    with pytest.raises(UsageError, match="must hold both real and synthetic"):
        benchsets.opened(tmp_path / "half")


def test_a_file_that_goes_away_is_a_bad_image(tmp_path: Path) -> None:
    rows = benchsets.opened(put(tmp_path, "real/a.png", "fake/b.png")).rows
    (tmp_path / "real" / "a.png").unlink()
    with pytest.raises(BadImage, match="unreadable"):
        rows.read(rows.ids.index("real/a.png"))


def parquet(path: Path, labels: list[object], names: list[str] | None, **columns: list[object]) -> Path:
    images = [{"bytes": drawn(i), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({"image": pa.array(images), "label": pa.array(labels), **{k: pa.array(v) for k, v in columns.items()}})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def test_parquet_with_class_names_words_or_digits(tmp_path: Path) -> None:
    classes = hubsets.of_parquet([parquet(tmp_path / "a.parquet", [0, 1, 2], ["sdxl", "real", "flux"])], "t")
    assert classes.generator == ("sdxl", "real", "flux")
    assert classes.family == ("sd", "real", "diffusion")
    words = hubsets.of_parquet([parquet(tmp_path / "b.parquet", ["fake", "real"], None, model=["Midjourney v6", None])], "t")
    assert (words.generator, words.label.tolist()) == (("Midjourney v6", "real"), [1, 0])
    digits = hubsets.of_parquet([parquet(tmp_path / "c.parquet", [0, 1], None)], "t")
    assert digits.generator == ("real", "unknown")
    assert digits.image(1).size == (64, 64)
    with pytest.raises(UsageError, match="neither a class name"):
        hubsets.of_parquet([parquet(tmp_path / "d.parquet", [0, 7], None)], "t")
    with pytest.raises(UsageError, match="every label is synthetic"):
        hubsets.of_parquet([parquet(tmp_path / "e.parquet", ["fake"], None)], "t")
    pq.write_table(pa.table({"picture": [b""]}), tmp_path / "f.parquet")
    with pytest.raises(UsageError, match="has the columns picture"):
        hubsets.of_parquet([tmp_path / "f.parquet"], "t")


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("huggingface_hub")
    parquet(tmp_path / "faces" / "data" / "test-00000.parquet", [0, 1, 2], ["real", "sdxl", "flux"])
    parquet(tmp_path / "faces" / "data" / "train-00000.parquet", [0, 1, 2], ["real", "sdxl", "flux"])
    put(tmp_path / "pairs", "real/a.png", "fake/sdxl/b.png")
    hub = hub_server.Hub(large=re.compile(r"(?!)"))
    with hub_server.served(tmp_path, hub):
        hub_client.turn_to(hub, tmp_path / "home", monkeypatch)
        bench = hubsets.fetched("lab/faces")
        assert (bench.layout, bench.rows.generator) == ("Hub data set", ("real", "sdxl", "flux")), "the test split alone"
        pairs = prepare("lab/pairs")
        assert pairs.rows.generator == ("sdxl", "real")
        assert re.fullmatch(r"[0-9a-f]{40}", pairs.described()["revision"]), "which commit was judged on is recorded"
        assert bench.revision
        assert f"--on lab/faces@{bench.revision}" in caplog.text
        with pytest.raises(UsageError, match="no data set of that name came from the Hub"):
            prepare("lab/nothing")
    with pytest.raises(UsageError, match="no file or folder"):
        prepare(tmp_path / "nothing")


# --- contamination ------------------------------------------------------------------------------------------------------


@pytest.fixture
def other(tiny: Path, tmp_path: Path) -> Path:
    """A foreign set of twelve images, two of which are in the train split of `tiny`: one by its bytes, one recompressed."""
    from imaginet_build.baseline.data import splits

    train = splits(tiny)["train"]
    for label, name in ((0, "real"), (1, "fake/tool")):
        for k in range(5):
            put(tmp_path / "set", f"{name}/own-{k}.png")
        row = train.label.tolist().index(label)
        data = train.read(row)
        if label:
            held = io.BytesIO()
            Image.open(io.BytesIO(data)).save(held, "JPEG", quality=93)
            data = held.getvalue()
        (tmp_path / "set" / name / "held.jpg").write_bytes(data)
    return tmp_path / "set"


def test_images_of_the_training_set_are_named_and_left_out(
    tiny: Path, other: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    around = Around(home=tiny, kept=tmp_path / "kept", measure=sketch.measured)
    with caplog.at_level(logging.WARNING):
        test = prepare(other, around=around)
    held = {"real/held.jpg", "fake/tool/held.jpg"}
    assert held.isdisjoint(test.rows.ids)
    assert len(test.rows) == 10
    assert test.contamination is not None
    assert set(test.contamination["left_out"]) == held
    (one,) = test.contamination["checked"]
    assert (one["count"], one["equal"] + one["near"]) == (88, 2)
    assert "were in the data the detector learned from" in caplog.text
    assert test.frozen is not None
    assert test.frozen.startswith(f"calibration split of {tiny.name}")
    kept = prepare(other, around=Around(home=tiny, measure=sketch.measured, keep=True))
    assert len(kept.rows) == 12
    assert kept.contamination is not None
    assert "kept although training had them" in kept.contamination["reason"]


def test_a_set_that_is_all_training_is_refused(tiny: Path, other: Path) -> None:
    for path in other.rglob("own-*"):
        if "real" in path.parts:
            path.unlink()
    with pytest.raises(UsageError, match=r"without them one class is missing.*--keep-contaminated"):
        prepare(other, around=Around(home=tiny, measure=sketch.measured))


def test_a_release_is_not_searched_for_itself_and_no_sketch_is_said(tiny: Path, other: Path) -> None:
    assert prepare(tiny, around=Around(home=tiny, measure=sketch.measured)).contamination is None
    alone = prepare(other, around=Around(measure=sketch.measured))
    assert alone.contamination is not None
    assert alone.contamination["checked"] == []
    assert "--sketch FILE" in alone.contamination["reason"]


def test_the_sketch_of_a_release_is_kept_by_its_digest(tiny: Path, tmp_path: Path) -> None:
    import shutil

    home = tmp_path / "home"
    shutil.copytree(tiny, home)
    (home / "release.json").write_text(json.dumps({"digest": "d" * 64, "files": {}}))
    calls = []

    def measured(item: tuple[str, bytes]) -> object:
        calls.append(item[0])
        return sketch.measured(item)

    first = contaminated.sketch_of(home, measured, tmp_path / "kept")
    again = contaminated.sketch_of(home, measured, tmp_path / "kept")
    assert len(calls) == 88, "measured once"
    assert first.table.equals(again.table)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["trained-on-dddddddddddddddd-equalized.sketch.parquet"]


def test_a_calibration_list_fixes_the_threshold_and_is_no_part_of_the_test(tmp_path: Path) -> None:
    put(tmp_path, *(f"{half}/{k}.png" for half in ("real_x", "stylegan2_x") for k in range(8)))
    lines = [f"{half}/{k}.png,{y}" for half, y in (("real_x", 0), ("stylegan2_x", 1)) for k in range(8)]
    (tmp_path / "all.txt").write_text("\n".join(lines))
    (tmp_path / "calib.txt").write_text("\n".join(lines[:2] + lines[8:10]))
    test = prepare(tmp_path / "all.txt", around=Around(calibration=tmp_path / "calib.txt"))
    assert test.calibration is not None
    assert (len(test.calibration), len(test.rows)) == (4, 12)
    assert test.frozen is not None
    assert "4 images of the test are among them" in test.frozen
