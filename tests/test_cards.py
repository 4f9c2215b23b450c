"""Every card that ships: it reads, it has a licence, its adapter fits, and it states nothing it does not cite."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packing import tar
from pictures import jpeg

from imaginet_build import catalog, prompts, recipe
from imaginet_build.catalog import KINDS, UNRESOLVED, Card, Kind, _parameters
from imaginet_build.errors import UsageError
from imaginet_build.records import Want

SHIPPED = [pytest.param(kind, name, id=f"{kind}/{name}") for kind in KINDS for name in catalog.files(f"manifests/{kind}")]
BY_HAND = "celeba-hq danbooru ffhq imaginet-gan journeydb lsun megalith-10m open-images pd12m photozilla progan"
PLACES = {name: {"root": "."} for name in ["archive", "folder", "urls", *BY_HAND.split()]} | {"hub": {"dataset": "."}}
"""What only a recipe can say."""


@pytest.fixture
def shipped(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    monkeypatch.chdir(root)
    kind, name = request.param
    return catalog.card(kind, name)


each = pytest.mark.parametrize("shipped", [pytest.param(p.values, id=p.id) for p in SHIPPED], indirect=True)


@each
def test_it_reads_and_has_a_licence(shipped: Card) -> None:
    assert shipped.licence.strip()
    assert shipped.about.title


@each
def test_its_adapter_is_here_and_takes_its_keys(shipped: Card) -> None:
    assert catalog.faults_of(shipped, **PLACES.get(shipped.name, {})) == []


@each
def test_its_revision_is_a_commit_or_says_what_it_is(shipped: Card) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}|unresolved|bundled|installed|local|listed|trained", shipped.revision)
    if shipped.bundled:
        assert shipped.revision != UNRESOLVED


@each
def test_its_family_is_in_the_taxonomy(shipped: Card) -> None:
    if shipped.kind == "generators":
        assert shipped.family in catalog.taxonomy().families


@each
def test_a_hub_models_licence_names_the_page_and_the_day_it_was_read(shipped: Card) -> None:
    if shipped.model and "/" in shipped.model:
        assert shipped.about.licence_url
        assert shipped.about.licence_url.startswith("https://")
        assert shipped.about.licence_read is not None
    else:
        assert shipped.bundled or shipped.kind == "detectors" or shipped.about.licence_url or shipped.revision == "listed"


@each
def test_a_source_says_on_what_terms_and_how_to_get_it(shipped: Card) -> None:
    """Its licence and the page and day it was read; its terms; whether pixels may be passed on; the way by hand."""
    about = shipped.about
    if shipped.kind != "sources" or shipped.name in ("archive", "folder", "hub", "packages", "urls"):
        return
    assert about.licence_url
    assert about.licence_url.startswith("https://")
    assert about.licence_read is not None
    assert about.redistribute is not None
    assert about.url.startswith("https://")
    assert about.by_hand
    assert shipped.origin in ("real", "synthetic")
    assert about.category in catalog.taxonomy().categories or shipped.name == "imaginet-gan"
    assert "true source has not been tried" in about.notes
    if about.redistribute is False or shipped.licence.startswith("LicenseRef"):
        assert about.terms, "a licence of no common name is told in words"


@each
def test_what_a_card_says_of_rights_names_the_page_and_the_day_it_was_read(shipped: Card) -> None:
    about = shipped.about
    if about.redistribute is not None or about.commercial is not None:
        page, day = (about.rights_url, about.rights_read) if about.rights_url else (about.licence_url, about.licence_read)
        assert page
        assert page.startswith("https://")
        assert day is not None
    if about.commercial is False:
        assert "non-commercial" in about.terms.lower()


@pytest.mark.parametrize("name", ["journeydb", "dalle3-images", "dalle3-opendatasets", "progan", "imaginet-gan"])
def test_what_is_collected_may_be_synthetic_and_names_its_family(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    card = catalog.card("sources", name)
    family = {"journeydb": "midjourney", "progan": "gan", "imaginet-gan": "gan"}.get(name, "dalle3")
    assert (card.origin, card.family) == ("synthetic", family)


def test_both_dalle_sets_are_of_one_generator(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert {catalog.card("sources", n).options["generator"] for n in ("dalle3-images", "dalle3-opendatasets")} == {"dalle3"}


@each
def test_a_bundled_model_is_in_the_package(shipped: Card) -> None:
    if (shipped.model or "").startswith("bundled:"):
        assert catalog.bundled(str(shipped.model)).exists()
        assert shipped.bundled


@each
def test_its_size_is_one_its_network_can_draw(shipped: Card) -> None:
    for side in ("width", "height"):
        assert shipped.options.get(side, 8) % 8 == 0


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "generators",
            "sd15 sd21 sdxl animagine-xl-3.1 sdxl-turbo sd35 flux1-dev flux1-schnell pixart-sigma qwen-image z-image-turbo",
        ),
        ("generators", "tiny-vae tiny-gan tiny-diffusion"),
        ("sources", "archive folder hub packages urls"),
        ("sources", "imagenet coco lsun wikiart danbooru ffhq photozilla"),  # the paper's seven
        ("sources", "journeydb dalle3-images dalle3-opendatasets pd12m megalith-10m open-images celeba-hq"),
        ("detectors", "small imaginet"),
    ],
)
def test_what_was_promised_is_there(kind: Kind, names: str) -> None:
    assert set(names.split()) <= set(catalog.files(f"manifests/{kind}"))


def built(name: str, **options: object) -> object:
    """As `collect` builds a source that a recipe's entry names."""
    card = catalog.card("sources", name)
    return catalog.build(card, revision=catalog.resolve(card, Path("cards.lock")), **options)


def test_the_archive_card_takes_what_the_readme_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    data = jpeg("a photo", 48, 40)
    tar(tmp_path / "shards" / "photos-00.tar", {"a.jpg": data})
    source = built("archive", root="shards/photos-*.tar", origin="real")
    (found,) = source.find(Want("archive", "photos", 0, count=1))
    assert (found.source_key, found.data, found.origin) == ("photos-00.tar/a.jpg", data, "real")


COMMIT = "0123456789" * 4


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/convert/parquet", COMMIT[:7], None])
def test_the_hub_card_reads_a_commit_alone(revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = f"lab/photos@{revision}" if revision else "lab/photos"
    said = r'lab/photos: no commit is named.*options = \{ dataset = "lab/photos@COMMIT" \}'
    with pytest.raises(UsageError, match=said) as error:
        built("hub", dataset=dataset, origin="real")
    assert (f"'{revision}' may move" in str(error.value)) == (revision is not None)
    assert built("hub", dataset=f"lab/photos@{COMMIT}", origin="real").revision == COMMIT
    assert not (tmp_path / "cards.lock").exists()


def test_the_hub_card_reads_a_copy_here_without_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = jpeg("a photo", 48, 40)
    (tmp_path / "copy").mkdir()
    pq.write_table(pa.table({"image": [{"bytes": data, "path": "a.jpg"}]}), tmp_path / "copy" / "train.parquet")
    for options in ({"dataset": "copy"}, {"dataset": "lab/photos", "root": "copy"}):
        (found,) = built("hub", origin="real", **options).find(Want("hub", "photos", 0))
        assert (found.source_key, found.data) == ("default/train/0.jpg", data)


def test_the_papers_words_are_in_the_taxonomy() -> None:
    words = catalog.taxonomy()
    assert list(words.categories) == ["photos", "paintings", "faces", "uncategorized"]
    assert {"gan", "sd", "midjourney", "dalle3", "vae", "diffusion", "gpt_image", "gemini", "other"} <= set(words.families)
    assert set(words.matches) <= set(words.families)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("StyleGAN2 (thispersondoesnotexist.com)", "gan"),
        ("SD 1.5 fine-tune: Deliberate 2.0", "sd"),
        ("stable_diffusion_xl", "sd"),
        ("Midjourney (version not stated)", "midjourney"),
        ("DALL·E 3", "dalle3"),
        ("Gemini 2.5 Flash Image (nano-banana)", "gemini"),
        ("GPT-4o", "gpt_image"),
        ("FLUX.1-dev", "diffusion"),
        ("never heard of it", "other"),
    ],
)
def test_a_generator_known_by_its_sources_words_alone_finds_its_family(name: str, family: str) -> None:
    assert catalog.taxonomy().family_of(name) == family


@pytest.mark.parametrize("name", sorted(catalog.files("pipelines")))
def test_every_shipped_recipe_names_only_what_exists(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    loaded = recipe.load(catalog.pipeline(name), check=catalog.check)
    assert loaded.name == name
    assert catalog.check(loaded) == []


@pytest.mark.parametrize("name", sorted(catalog.files("prompts")))
def test_every_prompt_set_belongs_to_a_category_and_its_negatives_to_families(name: str) -> None:
    found = prompts.load(name)
    words = catalog.taxonomy()
    assert found.category in words.categories
    assert set(found.negative) - {"default"} <= set(words.families)
    assert "default" in found.negative


def test_a_base_classs_keywords_count_where_a_class_hands_them_on() -> None:
    class Base:
        def __init__(self, model: str, steps: int = 1) -> None: ...

    class Derived(Base):
        def __init__(self, model: str, *, strength: float = 0.5, **keywords: object) -> None: ...

    assert list(_parameters(Derived)) == ["model", "strength", "steps"]
