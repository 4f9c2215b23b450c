"""Prompt sets expand by seed alone, richly and without repeating themselves; lists read and write back the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build import prompts
from imaginet_build.errors import UsageError
from imaginet_build.prompts import expand, load, read, summary, tidy, write
from imaginet_build.records import make_id

SETS = ["photos", "paintings", "anime", "faces", "uncategorized"]

SMALL = """
category = "photos"
balanced = ["size"]
[[template]]
text = "a {size} {thing} on {place}"
[words]
size = ["small", "large"]
thing = ["{colour} cat", "owl", "{colour} umbrella"]
colour = ["orange", "blue"]
place = ["grass", "sand", "stone"]
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("name", SETS)
def test_every_shipped_set_yields_25_000_distinct_prompts(name: str) -> None:
    found = expand(name, 25_000, 0)
    assert len({prompt.id for prompt in found}) == 25_000
    assert len({prompt.text.lower() for prompt in found}) == 25_000
    assert all(prompt.negative for prompt in found)
    assert not any(re.search(r"[{}]| ,|,,|  |\b[Aa] [aeio]|\b(\w+) \1\b", prompt.text) for prompt in found)
    phrases = [[phrase.strip() for phrase in prompt.text.split(",")] for prompt in found]
    assert [one for one in phrases if len(set(one)) < len(one)] == [], "a phrase stands twice in one prompt"


@pytest.mark.parametrize("name", SETS)
def test_a_sample_of_every_set_keeps_both_rules(name: str) -> None:
    found = expand(name, 2_000, 3)
    assert summary(found).duplicates == 0
    assert summary(found).named == 0


def test_the_first_prompts_are_the_same_however_many_are_asked_for() -> None:
    assert expand("faces", 2_500, 5)[:1_100] == expand("faces", 1_100, 5)


def test_another_seed_gives_other_prompts_and_the_same_seed_the_same() -> None:
    one, again, other = (expand("photos", 200, seed) for seed in (1, 1, 2))
    assert one == again
    assert not {prompt.id for prompt in one} & {prompt.id for prompt in other}


def test_another_process_with_other_hash_seeds_expands_the_same() -> None:
    code = "from imaginet_build import prompts; print([p.id for p in prompts.expand('photos', 50, 9)])"
    root = Path(prompts.__file__).parent.parent
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(root), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert seen == {str([prompt.id for prompt in expand("photos", 50, 9)])}


def test_an_id_is_a_hash_of_the_rest() -> None:
    [prompt] = expand("photos", 1, 0)
    assert prompt.id == make_id(prompt.text, prompt.negative, prompt.category)


def test_the_negative_prompt_is_the_familys() -> None:
    [plain], [sd], [unknown] = (expand("photos", 1, 0, family) for family in (None, "sd", "gemini"))
    assert plain.text == sd.text == unknown.text
    assert sd.negative != plain.negative == unknown.negative


def test_faces_are_dealt_evenly_over_age_gender_and_skin() -> None:
    hands = 8 * 3 * 8
    counts = summary(expand("faces", 2 * hands, 4), "faces").balance
    assert set(counts["age"].values()) == {2 * hands // 8}
    assert set(counts["gender"].values()) == {2 * hands // 3}
    assert set(counts["skin"].values()) == {2 * hands // 8}


def test_faces_are_dealt_evenly_over_hair_expression_pose_light_and_background() -> None:
    found = load("faces")
    assert [*found.balanced, *found.even] == ["age", "gender", "skin", "hair", "expression", "pose", "light", "background"]
    for count in (1_200, 1_777):
        for slot, counts in summary(expand("faces", count, 4), "faces").balance.items():
            assert sum(counts.values()) == count, f"a word of {slot} was not recognised"
            if slot in found.even:
                assert max(counts.values()) - min(counts.values()) <= 1, slot


def test_what_is_dealt_evenly_comes_in_no_fixed_company() -> None:
    """Two attributes dealt each for itself must not come in step."""
    texts = [prompt.text for prompt in expand("faces", 4_000, 4)]
    found = load("faces")
    pairs = {(light, pose) for text in texts for light in found.words["light"] for pose in found.words["pose"]
             if f", {light}" in text and f", {pose}," in text}  # fmt: skip
    assert len(pairs) == len(found.words["light"]) * len(found.words["pose"])


def test_every_combination_of_balanced_words_comes_once_before_any_comes_twice(small: Path) -> None:
    found = expand(small, 8, 0)
    for pair in range(0, 8, 2):
        assert {prompt.text.split()[1] for prompt in found[pair : pair + 2]} == {"small", "large"}


def test_a_set_that_runs_dry_says_how_far_it_got(small: Path) -> None:
    with pytest.raises(UsageError, match=r"yields only about \d+ distinct prompts, not 500"):
        expand(small, 500, 0)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("{size}", "{sise}"), "template.0: no list 'sise' under [words]; did you mean 'size'?"),
        (("blue", "{thing} blue"), "leads back to itself"),
        (('balanced = ["size"]', 'balanced = ["sizes"]'), "balanced: no list 'sizes'"),
        (('balanced = ["size"]', 'balanced = ["size"]\neven = ["size"]'), "size: dealt twice"),
        (('balanced = ["size"]', 'even = ["colour"]'), "template.0: has no {colour}, whose words are to come equally often"),
        (("category", "catgory"), "catgory: no such key; did you mean 'category'?"),
        (('place = ["grass", "sand", "stone"]', "place = []"), "words.place: List should have at least 1 item"),
    ],
)
def test_a_faulty_set_is_refused_with_its_faults(small: Path, change: tuple[str, str], fault: str) -> None:
    small.write_text(SMALL.replace(*change))
    with pytest.raises(UsageError) as error:
        expand(small, 1, 0)
    assert fault in str(error.value)


def test_an_unknown_set_is_met_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no prompt set 'photoz' in prompts/; did you mean 'photos'\?"):
        expand("photoz", 1, 0)


def test_100_000_prompts_take_seconds() -> None:
    start = time.process_time()
    assert len(expand("photos", 30_000, 1)) == 30_000
    assert time.process_time() - start < 5 * 0.3 * 2  # 5 s for 100,000, and twice that where many tests share the machine


@pytest.mark.parametrize(
    ("rough", "fine"),
    [
        ("a orange , , cat", "an orange, cat"),
        ("a photo of a  owl", "a photo of an owl"),
        ("a uniform and a used car, a umbrella", "a uniform and a used car, an umbrella"),
        ("A hour of a one eyed European", "An hour of a one eyed European"),
        (", tidy,", "tidy"),
    ],
)
def test_tidy_mends_articles_commas_and_spaces(rough: str, fine: str) -> None:
    assert tidy(rough) == fine


@pytest.mark.parametrize("name", ["list.jsonl", "list.parquet"])
def test_a_manifest_reads_back_as_it_was_written_byte_for_byte(tmp_path: Path, name: str) -> None:
    found = expand("paintings", 40, 0)
    first = write(found, tmp_path / name).read_bytes()
    assert read(tmp_path / name) == found
    assert write(found, tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_lists_of_other_makes_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('caption,content_type\n"a dog, barking",photos\nNone,faces\n', encoding="utf-8")
    (tmp_path / "b.txt").write_text("first\n\nsecond\n", encoding="utf-8")
    (tmp_path / "c.jsonl").write_text('{"prompt": "x", "negative_prompt": "y"}\n', encoding="utf-8")
    pq.write_table(pa.table({"caption": ["z"], "other": [1]}), tmp_path / "d.parquet")
    assert [(p.text, p.category) for p in read(tmp_path / "a.csv")] == [("a dog, barking", "photos"), ("None", "faces")]
    assert [p.text for p in read(tmp_path / "b.txt", "photos")] == ["first", "second"]
    [prompt] = read(tmp_path / "c.jsonl", "photos")
    assert (prompt.text, prompt.negative, prompt.category) == ("x", "y", "photos")
    assert read(tmp_path / "d.parquet", "photos")[0].text == "z"


def test_captions_of_real_images_are_read_one_for_each_image(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(
        '{"images": [{"id": 7}], "annotations": [{"image_id": 7, "caption": "A cat on a mat. "}, '
        '{"image_id": 7, "caption": "The same cat."}, {"image_id": 3, "caption": "Two dogs."}, {"caption": "no image"}]}'
    )
    assert [p.text for p in read(tmp_path / "captions.json", "photos")] == ["A cat on a mat.", "Two dogs.", "no image"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.jsonl", b'{"text": ', "cannot be read as a list of prompts"),
        ("a.jsonl", b"[1]\n", "each line must be one JSON object"),
        ("a.jsonl", b'{"txt": "x"}\n', "row 1 has no column text, prompt or caption; it has txt"),
        ("a.jsonl", b'{"text": "x"}\n', "row 1 names no category"),
        ("a.txt", b"\xff\xfe\xfa", "cannot be read as a list of prompts"),
        ("a.csv", b"text\n\xff\n", "cannot be read as a list of prompts"),
        ("a.csv", b"", "cannot be read as a list of prompts"),
        ("a.parquet", b"PAR1", "cannot be read as a list of prompts"),
        ("a.json", b'{"images": []}', "it is no file of captions"),
        ("a.jsonl", b'{"text": null}\n', "row 1 holds no text"),
        ("a.docx", b"", "is none of .jsonl, .csv, .parquet, .txt"),
    ],
)
def test_a_broken_list_is_refused_with_its_reason(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=reason):
        read(tmp_path / name)


def test_a_manifest_is_only_written_where_its_kind_is_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"written as \.jsonl or \.parquet"):
        write([], tmp_path / "x.csv")


def test_a_summary_counts_and_shows_a_sample_that_does_not_depend_on_order() -> None:
    found = expand("photos", 60, 0)
    one, two = summary(found + found[:5], show=4), summary(list(reversed(found + found[:5])), show=4)
    assert (one.count, one.categories, one.duplicates) == (65, {"photos": 65}, 5)
    assert one.sample == two.sample
    assert len(one.sample) == 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=20), st.text(max_size=8)), max_size=4))
def test_any_text_survives_a_manifest(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("p") / "x.jsonl"
    made = [prompts.make(text.strip(), negative, "photos") for text, negative in rows]
    write(made, path)
    assert read(path) == made
    assert all(json.loads(line)["category"] == "photos" for line in path.read_bytes().decode().split("\n") if line)


# --- the command ------------------------------------------------------------------------------------------------------


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", "imaginet_build", "prompts", *map(str, arguments)]
    return subprocess.run(run, capture_output=True, text=True, check=False)


def test_the_command_prints_counts_duplicates_how_even_it_is_and_a_sample() -> None:
    done = command("faces", "--count", 192)
    assert done.returncode == 0
    assert "192 prompts (192 faces), 0 near-identical, 0 naming a person" in done.stdout
    assert "age: 8 words, 24 each" in done.stdout
    assert "hair: 20 words, 9 to 10 each" in done.stdout
    assert done.stdout.count("years old") == 8


def test_the_command_judges_a_list_and_writes_what_may_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("caption\na red car\nthe red cars\ntaylor swift on a horse\n")
    done = command(tmp_path / "list.csv", "--category", "photos", "--out", tmp_path / "kept.jsonl")
    assert "3 prompts (3 photos), 1 near-identical, 1 naming a person" in done.stdout
    assert [prompt.text for prompt in read(tmp_path / "kept.jsonl")] == ["a red car"]
    assert command(tmp_path / "lost.csv").returncode == 2
