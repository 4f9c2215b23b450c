"""Which recipe and which work folder a command means, and that a folder never serves two recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import write

from imaginet_build import engine
from imaginet_build import recipe as recipes
from imaginet_build.engine import Pool
from imaginet_build.errors import UsageError
from imaginet_build.recipe import Recipe
from imaginet_build.running import pipeline
from imaginet_build.running.workspace import Session, begun, open_session, pool_of, session_of

RECIPE = """
name = "mine"
[variables]
root = "images"
[[collect]]
source = "folder"
options = { root = "{root}" }
[balance]
per_cell = 10
"""


def begin(session: Session) -> Session:
    """A folder that was begun and nothing more."""
    with begun(session):
        return session


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with one recipe and a folder for it."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.toml", RECIPE)
    (tmp_path / "images").mkdir()
    return tmp_path


def test_a_named_recipe_works_in_a_folder_of_its_name(place):
    session = open_session("mine.toml")
    assert session.recipe.name == "mine"
    assert session.store.root == Path("work/mine")


def test_opening_writes_nothing(place):
    before = sorted(place.rglob("*"))
    open_session("mine.toml")
    open_session()
    assert sorted(place.rglob("*")) == before


def test_in_an_empty_folder_the_shipped_default_is_meant(place):
    session = open_session()
    assert session.recipe.name == "imaginet"
    assert session.store.root == Path("work/imaginet")


def test_an_imaginet_recipe_of_the_working_directory_is_the_default(place):
    write(place / "pipelines" / "imaginet.toml", RECIPE)
    assert open_session().recipe.name == "mine"


def test_a_shipped_recipe_is_found_by_its_name(place):
    assert open_session("folders", overrides=["root=images"]).recipe.name == "folders"


def test_once_begun_a_folder_needs_no_recipe(place):
    begin(open_session("mine.toml", Path("elsewhere"), ["balance.per_cell=7"]))
    again = open_session(work=Path("elsewhere"))
    assert again.recipe.balance.per_cell == 7
    assert recipes.digest(again.recipe) == recipes.digest(recipes.load("elsewhere/recipe.toml"))


def test_the_default_folder_once_begun_needs_no_recipe_either(place):
    begin(open_session(overrides=["balance.per_cell=7"]))
    assert open_session().recipe.balance.per_cell == 7


def test_beginning_twice_keeps_the_first_file(place):
    session = begin(open_session("mine.toml"))
    before = session.store.recipe_path.stat()
    begin(session)
    assert session.store.recipe_path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_folder_begun_with_another_recipe_is_refused_and_the_difference_is_named(place):
    begin(open_session("mine.toml"))
    with pytest.raises(UsageError) as error:
        open_session("mine.toml", overrides=["balance.per_cell=99", "seed=5"])
    words = str(error.value)
    assert "work/mine was begun with another recipe; nothing was started" in words
    assert "balance.per_cell: 10 -> 99" in words
    assert "seed: 0 -> 5" in words
    assert "--work DIR" in words


def test_how_fast_is_no_difference(place):
    begin(open_session("mine.toml", overrides=["engine.workers=1"]))
    assert open_session("mine.toml", overrides=["engine.workers=3"]).pool.size == 3


def test_a_recipe_made_in_code_has_the_same_guard(place):
    made = Recipe(name="coded", seed=1)
    begin(session_of(made, None))
    assert session_of(made, None).store.root == Path("work/coded")
    with pytest.raises(UsageError, match="work/coded was begun with another recipe"):
        session_of(Recipe(name="coded", seed=2), None)


def test_every_fault_is_named_and_nothing_is_written(place):
    write(place / "bad.toml", 'name = "bad"\nsed = 3\n[[collect]]\nsource = "foldr"\n[balance]\nper_cel = 3\n')
    with pytest.raises(UsageError) as error:
        open_session("bad.toml")
    for fault in ("sed", "per_cel", "did you mean 'folder'?"):
        assert fault in str(error.value)
    assert not (place / "work").exists()


def test_a_damaged_recipe_in_a_work_folder_names_its_file(place):
    write(place / "work" / "mine" / "recipe.toml", "name = ")
    with pytest.raises(UsageError, match=r"work/mine/recipe\.toml cannot be read as TOML"):
        open_session("mine.toml")


def test_the_pool_is_what_the_recipe_says(place):
    assert pool_of(Recipe(name="a")) == Pool()
    settings = {"workers": 3, "threads_per_worker": 2, "attempts": 4, "timeout_seconds": 9}
    assert pool_of(Recipe.model_validate({"name": "a", "engine": settings})) == Pool(3, 2, 4, 9)
    with pytest.raises(UsageError, match=r"engine\.kind = 'ray' is not built yet: take 'spawn'"):
        pool_of(Recipe.model_validate({"name": "a", "engine": {"kind": "ray"}}))


def test_a_call_that_turns_out_wrong_leaves_nothing_behind(place):
    session = open_session("mine.toml")
    with pytest.raises(UsageError, match="no weights"), begun(session):
        raise UsageError("no weights")
    assert not session.store.root.exists()
    begin(session)
    with pytest.raises(UsageError), begun(session):
        raise UsageError("no weights")
    assert session.store.recipe_path.is_file(), "what an earlier call began stays"


def test_other_folders_on_a_begun_work_folder_are_refused(place):
    for name in ("a", "b"):
        for half in ("real", "fake"):
            (place / name / half).mkdir(parents=True)
            (place / name / half / "x.png").touch()

    def of(name: str) -> Session:
        return pipeline.of_folders(place / name / "real", place / name / "fake", place / "w", (), engine.silent)

    begin(of("a"))
    assert of("a").recipe.name == of("a").recipe.name
    with pytest.raises(UsageError, match="begun with another recipe"):
        of("b")


def test_an_empty_folder_is_refused_before_anything_starts(place):
    (place / "real").mkdir()
    (place / "fake").mkdir()
    (place / "fake" / "x.png").touch()
    with pytest.raises(UsageError, match=r"no image in .*real"):
        pipeline.of_folders(place / "real", place / "fake", None, (), engine.silent)
