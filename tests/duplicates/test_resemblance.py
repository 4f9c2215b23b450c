"""What balancing knows of likeness, on real images in real parts: edited copies, models, lying facts, crowds."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image

from imaginet_build import dedup, images, perturb
from imaginet_build.balance import balance
from imaginet_build.duplicates import resemblance
from imaginet_build.errors import UsageError
from imaginet_build.recipe import Balance, Equalize
from imaginet_build.records import Record, make_id
from imaginet_build.store import Store, StoreError

LAW = Equalize(side=(64, 128), step=32)


def row(name: str, data: bytes, origin: str = "real", **changes: object) -> dict[str, object]:
    real = origin == "real"
    record = Record(
        id=make_id(name), origin=origin, category="photos", family=None if real else "sd",
        generator=None if real else "sdxl", source="camera" if real else None, source_key=name, licence="CC0-1.0", revision="1",
        prompt=None, negative=None, seed=None, params="{}", pair_id=None, group=name, extension="png",
        facts=images.measure(data),
    )  # fmt: skip
    return record.row() | changes


def stored(folder: Path, born: dict[str, tuple[bytes, str]]) -> Store:
    store = Store(folder)
    store.write_part("collect", "one", [row(n, *held) for n, held in born.items()], [data for data, _ in born.values()])
    return store


def fakes(count: int) -> dict[str, tuple[bytes, str]]:
    return {f"fake {i}": (encoded(picture(f"fake {i}", 200, 180)), "synthetic") for i in range(count)}


def photographs(root: Path, count: int) -> list[Image.Image]:
    """Of the corpus beside the repository where it is, else made up."""
    found = sorted((root.parent / "shared" / "data" / "real" / "photos" / "imagenet_sample").glob("*"))[:count]
    return [images.decode(path.read_bytes()) for path in found] or [picture(f"photo {i}", 500, 400) for i in range(count)]


def test_edited_copies_never_straddle_a_split(root: Path, tmp_path: Path) -> None:
    """Each edit of each photograph is a row of its own; nothing but its pixels says whose copy it is."""
    born = fakes(20)
    for i, photo in enumerate(photographs(root, 40)):
        born[f"{i}/original"] = (images.encode(photo, "jpeg", 92), "real")
        for edit in perturb.EDITS:
            copy = perturb.perturb(photo, edit, str(i))
            born[f"{i}/{edit}"] = (images.encode(copy, "jpeg", 85), "real")
    store = stored(tmp_path, born)
    balance(store, Balance(), LAW, seed=1)
    plan = {r["id"]: r for r in store.plan().to_pylist()}
    group = {name: plan[make_id(name)]["group"] for name in born}
    together: dict[str, list[bool]] = defaultdict(list)
    for name in born:
        number, _, edit = name.partition("/")
        if edit and edit != "original":
            together[edit].append(group[name] == group[f"{number}/original"])
    recall = {edit: float(np.mean(found)) for edit, found in together.items()}
    assert min(value for edit, value in recall.items() if "crop" not in edit) >= 0.9, recall
    splits = defaultdict(set)
    for kept in plan.values():
        if kept["keep"]:
            splits[kept["group"]].add(kept["split"])
    assert all(len(found) == 1 for found in splits.values())
    originals = [group[name] for name in born if name.endswith("/original")]
    assert len(set(originals)) == len(originals), "no two photographs are taken for one"


def test_what_a_model_finds_alike_is_one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stored(tmp_path, {f"real {i}": (encoded(picture(i, 200, 180)), "real") for i in range(12)} | fakes(12))
    vectors = np.eye(25, dtype=np.float32)
    asked = []

    def seen(store: Store, ids: list[str], model: str) -> np.ndarray:
        asked.append(model)
        place = {make_id(f"real {i}"): i for i in range(12)}
        return np.stack([vectors[24 if place.get(name, 9) < 3 else number] for number, name in enumerate(ids)])

    monkeypatch.setattr(resemblance.embedding, "vectors_of", seen)
    done = balance(store, Balance(embedding="some/model"), LAW, seed=0)
    assert asked == ["some/model"]
    assert (done.duplicates["embedding_groups"], done.duplicates["twins_removed"]) == (1, 0)
    plan = {r["id"]: r["group"] for r in store.plan().to_pylist()}
    assert len({plan[make_id(f"real {i}")] for i in range(3)}) == 1
    assert len(set(plan.values())) == 22
    assert "embedding_groups" not in balance(store, Balance(), LAW, seed=0).duplicates


@pytest.mark.parametrize("lie", ["sha256", "width", "phash", "pixel_hash", "contrast"])
def test_verify_names_the_part_and_the_fact_that_lies(lie: str, tmp_path: Path) -> None:
    born = {f"real {i}": (encoded(picture(i, 200, 180)), "real") for i in range(5)}
    rows = [row(name, *held) for name, held in born.items()]
    store = Store(tmp_path / "good")
    store.write_part("collect", "one", rows, [data for data, _ in born.values()])
    assert resemblance.verify(store) == 5
    false = {"sha256": "0" * 64, "width": 201, "phash": 7, "pixel_hash": "1" * 64, "contrast": 1.5}[lie]
    rows[3] |= {lie: false}
    store = Store(tmp_path / "bad")
    part = store.write_part("collect", "one", rows, [data for data, _ in born.values()])
    with pytest.raises(StoreError, match=rf"{rows[3]['id']} in .*one.parquet contradict its bytes \({lie}\).*Delete it"):
        resemblance.verify(store)
    assert part.is_file()


def test_verify_names_bytes_that_are_no_image(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = [row("a", encoded(picture(1))), row("b", encoded(picture(2)))]
    store.write_part("collect", "one", rows, [b"", b"text"])
    with pytest.raises(StoreError, match=r"it cannot be read: .*and of 1 more images"):
        resemblance.verify(store)


@pytest.mark.parametrize("hashes", ["the same", "zero"])
def test_a_crowd_of_identical_images_is_one_picture(hashes: str, tmp_path: Path) -> None:
    """Thousands of copies of one image, or hundreds of different ones whose hashes are zero: of these each is looked at."""
    count = 5000 if hashes == "the same" else 400
    one = row("one", encoded(picture(1, 200, 180)))
    rows = [
        one
        | {"id": make_id(i), "group": str(i)}
        | ({} if hashes == "the same" else {"phash": 0, "phash_mirror": 0, "pixel_hash": f"{i:064}"})
        for i in range(count)
    ]
    other = [row(f"fake {i}", encoded(picture(f"fake {i}", 200, 180)), "synthetic") for i in range(30)]
    store = Store(tmp_path)
    data = encoded(picture(1, 200, 180))
    store.write_part("collect", "one", rows, [data] * len(rows))
    store.write_part("generate", "one", other, [encoded(picture(f"fake {i}", 200, 180)) for i in range(30)])
    done = balance(store, Balance(), LAW, seed=0)
    assert done.rejected["twin"] == count - 1
    assert done.duplicates["twin_groups"] == 1


def test_the_radius_says_why() -> None:
    radius, why = resemblance.radius_of(5_000_000, Balance())
    assert (radius, dedup.default_radius(5_000_000)) == (5, 5)
    assert "chosen for 5,000,000 images" in why
    radius, why = resemblance.radius_of(100, Balance(radius=9))
    assert radius == 9
    assert "set by balance.radius; for 100 images the default is 6" in why
    assert dedup.by_chance(1_000_000, 8) == pytest.approx(139, rel=0.1)
    assert dedup.by_chance(1_000_000, 10) == pytest.approx(4990, rel=0.1)


def test_a_model_that_is_not_there_ends_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    store = stored(tmp_path, {f"real {i}": (encoded(picture(i, 200, 180)), "real") for i in range(2)} | fakes(2))
    with pytest.raises(UsageError, match=r"balance\.embedding = 'nowhere' is no vision model"):
        balance(store, Balance(embedding="nowhere"), LAW, seed=0)
    assert not store.plan_path.exists()
