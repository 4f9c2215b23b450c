"""Cards are read strictly, bound before anything loads, and foreign code runs only where it was let in."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imaginet_build import catalog, recipe
from imaginet_build.cards import _announce
from imaginet_build.errors import MissingExtra, UsageError

GOOD = """
adapter = "imaginet_build.collectors.packages:Packages"
licence = "CC0-1.0"
revision = "installed"
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    _announce.cache_clear()
    return tmp_path


def put(kind: str, name: str, text: str) -> catalog.Card:
    path = Path("manifests") / kind / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return catalog.card(kind, name)  # type: ignore[arg-type]


def refused(kind: str, name: str, text: str) -> str:
    with pytest.raises(UsageError) as error:
        put(kind, name, text)
    return str(error.value)


def test_an_unknown_name_is_met_with_the_nearest_and_the_command_that_lists_them() -> None:
    with pytest.raises(UsageError) as error:
        catalog.card("generators", "sdlx")
    message = "no generator 'sdlx' in manifests/generators; did you mean 'sdxl'? See: build-imaginet generate --list"
    assert str(error.value) == message


def test_a_card_of_the_working_directory_is_added_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        card = put("sources", "mine", GOOD)
    assert card.licence == "CC0-1.0"
    assert "using manifests/sources/mine.toml of the working directory" in caplog.text
    assert {"mine", "folder", "packages"} <= set(catalog.cards("sources"))


def test_a_card_of_the_same_name_takes_the_shipped_ones_place_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        card = put("sources", "packages", GOOD + "side = 64\n")
    assert card.options == {"side": 64}
    assert "in place of the shipped one" in caplog.text
    assert catalog.card("sources", "folder").path.parent != card.path.parent


def test_an_overlay_that_changes_nothing_is_not_mentioned(caplog: pytest.LogCaptureFixture, elsewhere: Path) -> None:
    (elsewhere / "pipelines").mkdir()
    shutil.copy(catalog.pipeline("quickstart"), elsewhere / "pipelines")
    with caplog.at_level(logging.WARNING):
        catalog.files("pipelines")
    assert caplog.text == ""


def test_a_card_without_a_licence_is_refused() -> None:
    assert "licence: is missing" in refused("sources", "mine", 'adapter = "a.b:C"\n')
    assert "licence: text should have at least 1 character" in refused("sources", "mine", 'adapter = "a.b:C"\nlicence = ""\n')


@pytest.mark.parametrize("name", ["main", "master", "latest", "HEAD", "refs/heads/x"])
def test_a_moving_revision_is_refused(name: str) -> None:
    assert "is a moving name" in refused("sources", "mine", GOOD.replace("installed", name))


def test_all_faults_of_a_card_come_at_once() -> None:
    message = refused("generators", "mine", 'adapter = "nonsense"\nrevision = "main"\nfamily = 3\n')
    assert "4 fault(s)" in message
    assert all(key in message for key in ("adapter:", "licence:", "revision:", "family:"))


def test_a_family_and_a_category_must_be_in_the_taxonomy() -> None:
    message = refused("generators", "mine", GOOD + 'family = "gann"\ncategory = "photo"\norigin = "real"\n')
    assert "no 'gann' in manifests/taxonomy.toml; did you mean 'gan'?" in message
    assert "no 'photo' in manifests/taxonomy.toml; did you mean 'photos'?" in message
    assert "what a generator draws is synthetic" in message
    assert "belongs to images that no generator made" in refused("generators", "real", GOOD + 'family = "gan"\n')


def test_what_a_generator_draws_is_synthetic_and_a_synthetic_source_needs_a_family() -> None:
    assert put("generators", "mine", GOOD + 'family = "gan"\n').origin == "synthetic"
    assert "family: is missing" in refused("sources", "journeydb", GOOD + 'origin = "synthetic"\n')
    assert put("sources", "journeydb", GOOD + 'origin = "synthetic"\nfamily = "midjourney"\n').origin == "synthetic"


def test_keys_that_do_not_fit_the_adapter_are_named_together_before_anything_is_built() -> None:
    card = put("sources", "mine", GOOD + 'sid = 64\nper_photograph = "many"\n')
    with pytest.raises(UsageError) as error:
        catalog.build(card)
    assert "sid: no such key of a card or of Packages; did you mean 'side'?" in str(error.value)
    assert "per_photograph: should be a valid integer" in str(error.value)
    with pytest.raises(UsageError, match="root: is missing; Folder needs it"):
        catalog.build(catalog.card("sources", "folder"))


def test_a_misspelt_key_of_the_card_itself_is_found_too() -> None:
    card = put("sources", "mine", GOOD + 'licence_ulr = "x"\n')
    assert catalog.faults_of(card) == ["licence_ulr: no such key of a card or of Packages; did you mean 'licence_url'?"]


def test_a_built_adapter_has_the_cards_options_and_what_the_caller_adds() -> None:
    built = catalog.build(put("sources", "mine", GOOD + "side = 64\n"), per_photograph=2)
    assert (built.side, built.per_photograph) == (64, 2)


def test_a_missing_extra_is_named_with_the_command_that_installs_it() -> None:
    card = put("sources", "mine", GOOD + 'needs = "hub"\npackages = ["no-such-package"]\n')
    with pytest.raises(MissingExtra) as error:
        catalog.build(card)
    assert str(error.value) == "mine needs no-such-package: pip install 'imaginet-build[hub]'"


LAB = """
class Maker:
    def __init__(self, model: str, revision: str | None = None, name: str = "", side: int = 8) -> None:
        self.given = (model, revision, name, side)
"""


def lab(elsewhere: Path, monkeypatch: pytest.MonkeyPatch, module: str, **keys: str) -> catalog.Card:
    """A card whose adapter is a module of the working directory, as somebody's plug-in would be."""
    (elsewhere / f"{module}.py").write_text(LAB)
    monkeypatch.setattr(sys, "path", [str(elsewhere), *sys.path])
    text = f'adapter = "{module}:Maker"\nlicence = "MIT"\nfamily = "gan"\nmodel = "me/mine"\n'
    return put("generators", "mine", text + "".join(f'{k} = "{v}"\n' for k, v in keys.items()))


def test_code_that_is_not_installed_loads_only_when_trusted(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = lab(elsewhere, monkeypatch, "lab_one")
    with pytest.raises(UsageError, match="--trust-adapters"):
        catalog.build(card)
    assert "lab_one" not in sys.modules
    assert catalog.build(card, trust=True).given == ("me/mine", None, "mine", 8)


def test_an_installed_package_needs_no_trust() -> None:
    card = put("sources", "mine", 'adapter = "decimal_not_there:X"\nlicence = "MIT"\n')
    assert "neither part of imaginet-build nor installed" in catalog.faults_of(card)[0]
    assert catalog._is_installed("numpy")
    assert not catalog._is_installed("tests")


def test_the_revision_is_passed_on_where_the_adapter_takes_one(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = lab(elsewhere, monkeypatch, "lab_two", revision="a" * 40)
    assert catalog.build(card, trust=True).given[1] == "a" * 40
    assert catalog.build(card, trust=True, revision="b" * 40).given[1] == "b" * 40


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        ("imaginet_build.collectors.packages:Package", "no class 'Package' in .*; did you mean 'Packages'?"),
        ("imaginet_build.collectors.nowhere:X", "cannot be imported"),
    ],
)
def test_an_adapter_that_is_not_there_is_a_fault(adapter: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        catalog.build(put("sources", "mine", GOOD.replace("imaginet_build.collectors.packages:Packages", adapter)))


def test_a_bundled_model_is_a_folder_of_the_package_and_nothing_else(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = lab(elsewhere, monkeypatch, "lab_three")
    assert catalog.bundled("bundled:tiny-gan").is_dir()
    assert catalog.build(card, trust=True, model="bundled:tiny-gan").given[0] == str(catalog.bundled("bundled:tiny-gan"))
    with pytest.raises(UsageError, match="no bundled model 'tiny-gam'; did you mean 'tiny-gan'"):
        catalog.build(card, trust=True, model="bundled:tiny-gam")
    for reference in ("bundled:../secrets", "bundled:", "bundled:a/b", "bundled:.."):
        with pytest.raises(UsageError, match="named by one word"):
            catalog.bundled(reference)


def test_a_recipes_cards_are_checked_with_its_other_faults() -> None:
    document: dict[str, Any] = {
        "name": "x",
        "sed": 1,
        "collect": [{"source": "foldr"}, {"source": "packages", "category": "photo", "options": {"sid": 3}}],
        "generate": [{"generator": "sdlx", "category": "photos", "count": 1, "prompts": "photoz"}],
        "baseline": {"detector": "smal"},
    }
    with pytest.raises(UsageError) as error:
        recipe.parse(document, (), catalog.check)
    message = str(error.value)
    for fault in (
        "sed: no such key; did you mean 'seed'?",
        "collect.0.source: no source 'foldr' in manifests/sources; did you mean 'folder'?",
        "collect.1.category: no 'photo' in manifests/taxonomy.toml; did you mean 'photos'?",
        "collect.1.source (packages): sid: no such key of a card or of Packages; did you mean 'side'?",
        "generate.0.generator: no generator 'sdlx' in manifests/generators; did you mean 'sdxl'?",
        "generate.0.prompts: neither a set in prompts/ nor a file: 'photoz'; did you mean 'photos'?",
        "baseline.detector: no detector 'smal' in manifests/detectors; did you mean 'small'?",
    ):
        assert fault in message


def test_in_a_wheel_the_shipped_files_lie_inside_the_package(root: Path, elsewhere: Path) -> None:
    package = elsewhere / "site" / "imaginet_build"
    (package / "_shipped").mkdir(parents=True)
    for path in (root / "imaginet_build").glob("*.py"):
        (package / path.name).symlink_to(path)
    for folder in ("manifests", "prompts", "pipelines"):
        (package / "_shipped" / folder).symlink_to(root / folder)
    code = "from imaginet_build import catalog; print(*catalog.files('pipelines').values(), *catalog.cards('generators'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={"PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(package / "_shipped" / "pipelines" / "quickstart.toml") in done.stdout
    assert "sdxl" in done.stdout
    assert done.stderr == ""  # the checkout's own files are the same: nothing takes another's place


def test_a_recipe_is_found_by_name_or_path(elsewhere: Path) -> None:
    assert catalog.pipeline("quickstart").name == "quickstart.toml"
    assert catalog.pipeline("pipelines/quickstart.toml").name == "quickstart.toml"
    (elsewhere / "own.toml").write_text("name = 'own'")
    assert catalog.pipeline("own.toml") == Path("own.toml")
    with pytest.raises(UsageError, match="did you mean 'quickstart'"):
        catalog.pipeline("quickstrat")
