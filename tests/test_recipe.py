"""A recipe says what is wanted; a wrong one is refused with every fault at once, and nothing starts."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build import recipe as recipes
from imaginet_build.errors import UsageError
from imaginet_build.recipe import Recipe, difference, digest, load, parse, to_toml

FOLDERS = """
name = "mine"
[variables]
root = "images"
[[collect]]
source = "folder"
options = { root = "{root}" }
[[generate]]
generator = "sdxl"
category = "photos"
count = 5
prompts = "{root}/prompts.jsonl"
"""


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(FOLDERS)
    return path


def faults(text: str, *overrides: str) -> str:
    with pytest.raises(UsageError) as error:
        parse(tomllib.loads(text), overrides)
    return str(error.value)


def test_a_name_is_all_a_recipe_needs() -> None:
    recipe = parse({"name": "empty"})
    assert recipe.engine.workers == 0
    assert recipe.balance.splits == {"train": 0.7, "calibration": 0.1, "test": 0.2}
    assert recipe.equalize.codec == {"jpeg": 1.0}
    assert recipe.audit.limit == 0.55
    assert recipe.publish.views == ["equalized", "native"]


def test_every_fault_is_named_at_once_with_the_nearest_key() -> None:
    message = faults("""
        name = "x"
        sed = 1
        [engine]
        worker = 4
        [[generate]]
        generator = "sdxl"
        category = "photos"
        [balance]
        per_cell = "mx"
        radius = 99
        splits = { train = 0.5, test = 0.2 }
        [equalize]
        codec = { jpg = 1.0 }
        quality = [95, 60]
    """)
    for fault in (
        "sed: no such key; did you mean 'seed'?",
        "engine.worker: no such key; did you mean 'workers'?",
        "generate.0.count: is missing",
        "balance.per_cell: should be an integer or should be 'max', not 'mx'",
        "balance.radius: should be less than or equal to 32 or should be 'auto', not 99",
        "balance.splits: the shares must sum to 1, not 0.7",
        "equalize.codec.jpg: should be 'jpeg', 'webp' or 'png', not 'jpg'",
        "equalize.quality: the smaller number comes first, not [95, 60]",
    ):
        assert fault in message
    assert "8 fault(s), nothing was started" in message


def test_faults_cost_less_than_a_second_and_load_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("name = 'x'\nsed = 1\n")
    code = (
        "import sys; from imaginet_build import catalog, errors, recipe\n"
        "try: recipe.load('bad.toml', (), catalog.check)\n"
        "except errors.UsageError: print(sorted({'torch', 'diffusers', 'pandas', 'datasets'} & set(sys.modules)))"
    )
    root = Path(recipes.__file__).parent.parent
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - start < 5  # a start of the interpreter on a busy machine included


def test_an_override_reaches_any_key_and_list_item(folders: Path) -> None:
    splits = "balance.splits={train=0.5, calibration=0.2, test=0.3}"
    plain = ["engine.workers=3", "generate.0.count=10", "seed = 7", "publish.title=A data set", "equalize.side=[64, 128]"]
    recipe = load(folders, [splits, *plain, "generate.0.options.steps=4"])
    assert recipe.engine.workers == 3
    assert recipe.generate[0].count == 10
    assert recipe.generate[0].options == {"steps": 4}
    assert recipe.balance.splits["train"] == 0.5
    assert recipe.seed == 7
    assert recipe.publish.title == "A data set"
    assert recipe.equalize.side == (64, 128)


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("rooot=x", "no such key or variable; did you mean 'root'?"),
        ("engine.worker=3", "engine.worker: no such key; did you mean 'workers'?"),
        ("generate.3.count=1", "'generate' has 1 item(s), numbered from 0; there is no '3'"),
        ("name.first=x", "'name' is a single value and has no 'first'"),
        ("engine.workers", "write it as KEY=VALUE"),
        ("engine.workers=many", "engine.workers: should be an integer, not 'many'"),
    ],
)
def test_an_override_that_fits_nowhere_is_a_fault(folders: Path, override: str, fault: str) -> None:
    with pytest.raises(UsageError) as error:
        load(folders, [override])
    assert fault in str(error.value)


def test_variables_name_places_in_options_and_prompts(folders: Path) -> None:
    recipe = load(folders, ["root=../shared/data"])
    assert recipe.collect[0].options == {"root": "../shared/data"}
    assert recipe.generate[0].prompts == "../shared/data/prompts.jsonl"


def test_a_variable_that_is_not_there_is_a_fault() -> None:
    assert "collect.0.options.root: no variable 'rot' under [variables]; did you mean 'root'?" in faults(
        FOLDERS.replace('"{root}" }', '"{rot}" }')
    )


def test_the_digest_knows_what_is_asked_but_not_where_or_how_fast(folders: Path) -> None:
    plain = load(folders)
    assert digest(plain) == digest(load(folders, ["root=/somewhere/else", "engine.workers=9"]))
    assert digest(plain) != digest(load(folders, ["seed=1"]))
    by_hand = {"name": "a", "collect": [{"source": "folder", "options": {"root": "/a", "origin": "real"}}]}
    moved = {"name": "a", "collect": [{"source": "folder", "options": {"root": "/b", "origin": "real"}}]}
    assert digest(parse(by_hand)) == digest(parse(moved))


def test_a_written_recipe_reads_back_as_the_same_recipe(folders: Path, tmp_path: Path) -> None:
    recipe = load(folders, ["root=x y", "balance.hold_out=['a']", "generate.0.options.deep={a = [1, {b = true}]}"])
    (tmp_path / "again.toml").write_text(to_toml(recipe))
    again = load(tmp_path / "again.toml")
    assert again == recipe
    assert digest(again) == digest(recipe)
    assert difference(again, recipe) == []
    assert load(tmp_path / "again.toml", ["root=z"]).collect[0].options == {"root": "z"}


def test_a_difference_reads_like_a_change(folders: Path) -> None:
    changes = difference(load(folders), load(folders, ["balance.per_cell=20", "root=other", "engine.workers=5"]))
    assert changes == ['variables.root: "images" -> "other"', 'balance.per_cell: "max" -> 20']


def test_a_recipe_is_frozen_and_travels_to_workers(folders: Path) -> None:
    recipe = load(folders)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(recipe))
    assert copy == recipe
    assert digest(copy) == digest(recipe)


def test_made_in_code_it_is_the_same_thing() -> None:
    recipe = Recipe.model_validate({"name": "x", "collect": [{"source": "folder", "options": {"root": "a"}}]})
    assert digest(recipe) == digest(parse(tomllib.loads(to_toml(recipe))))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("name = ", "cannot be read as TOML"), (None, "no recipe at"), ("name = 'a/b'", "name: text should match")],
)
def test_a_file_that_is_no_recipe_is_refused_with_its_reason(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "r.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=reason):
        load(path)


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "nonsense"]), JUNK), st.lists(st.text(max_size=12), max_size=2))
def test_no_document_however_odd_ends_in_anything_but_a_recipe_or_a_list_of_faults(
    document: dict[str, object], overrides: list[str]
) -> None:
    try:
        outcome: object = parse(document, overrides)
    except UsageError as error:
        outcome = str(error)
    assert isinstance(outcome, Recipe) or "fault(s)" in str(outcome)
