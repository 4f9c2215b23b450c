"""Commands that prove a data set and let it out: audit, publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from imaginet_build.cli.options import (
    DryOption,
    JsonOption,
    RecipeOption,
    SetOption,
    SketchOption,
    WorkOption,
    open_session,
    say,
)
from imaginet_build.errors import GateRefused, UsageError

app = typer.Typer(rich_markup_mode=None)


@app.command()
def audit(
    target: Annotated[
        str | None, typer.Argument(help="A release, a work folder, a folder with index.csv, an annotation list or a Hub id.")
    ] = None,
    real: Annotated[Path | None, typer.Option(help="A folder of real images.")] = None,
    fake: Annotated[Path | None, typer.Option(help="A folder of synthetic images.")] = None,
    pixels: Annotated[
        bool | None,
        typer.Option("--pixels/--no-pixels", help="Report pixel probes beside the gate (default: yes, on a sample)."),
    ] = None,
    sketch: SketchOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove, or disprove, that no label can be guessed without looking at the picture. Exit code 3: it can."""
    from imaginet_build.running import stages, summaries

    if (real is None) != (fake is None) or (target is not None and real is not None):
        raise UsageError("give one target, or both --real DIR and --fake DIR")
    session = open_session(None, work, sets)
    foreign = stages.contamination([place for place in (real, fake, target) if place is not None], sketch or (), session)
    result = stages.audit_pair(real, fake, session, pixels) if real and fake else stages.audit(target, session, pixels)
    document = result.to_json() | {"contamination": foreign}
    say(document, summaries.audit_text(document), as_json)
    raise typer.Exit(GateRefused.exit_code if result.refused else int(bool(result.unreadable)))


@app.command()
def pairing(
    target: Annotated[
        Path | None,
        typer.Argument(help="A release, a work folder, or a folder of images with an index (default: the work folder)."),
    ] = None,
    *,
    model: Annotated[str, typer.Option(help="A folder, or a Hub id, of any transformers model with a text and an image side.")],
    work: WorkOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that prompts and images belong together, by generator. Exit code 3: some do not, or stand a row apart."""
    from imaginet_build.auditing import pairing as tests
    from imaginet_build.auditing.dualencoder import DualEncoder

    place = open_session(None, work, None).store.root if target is None else target
    done = tests.pairing(place, DualEncoder(model))
    say(done.to_json(), tests.text(done), as_json)
    raise typer.Exit(GateRefused.exit_code if done.refused else int(bool(done.unreadable)))


@app.command()
def publish(
    out: Annotated[
        str | None, typer.Option(help="A folder, or an address such as s3://bucket/name (default: <work>/release).")
    ] = None,
    repo: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Push to this data set of the Hub.")] = None,
    push: Annotated[bool, typer.Option("--push", help="Push to the data set that the recipe names.")] = False,
    public: Annotated[
        bool | None, typer.Option("--public/--private", help="Who sees it there (a new data set is private).")
    ] = None,
    tag: Annotated[
        str | None, typer.Option(help="The name of the version there, given once it was read back (default: v<version>).")
    ] = None,
    revision: Annotated[str, typer.Option(help="The branch there.")] = "main",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what somebody else put there.")] = False,
    only: Annotated[
        Literal["redistributable", "commercial"] | None,
        typer.Option(help="Hold nothing but what may be passed on, or what may be used commercially as well."),
    ] = None,
    withhold: Annotated[
        Literal["nothing", "forbidden", "unknown"] | None,
        typer.Option(
            help="Whose pixels stay here (default: nobody's in <work>, the forbidden elsewhere, unknown with --public)."
        ),
    ] = None,
    grow: Annotated[
        Path | None, typer.Option("--from", metavar="PREVIOUS", help="Grow from this release: its rows and files stay.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Of the release (default: 1.0.0; with --from the next one).")] = None,
    force: Annotated[bool, typer.Option(help="Publish although the gate refuses; the card says so.")] = False,
    check: Annotated[
        Path | None, typer.Option("--check", metavar="DIR", help="Write nothing: prove the release that lies in DIR.")
    ] = None,
    recipe: RecipeOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    dry: DryOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the release: Parquet, card and manifest, audited before it counts; with --repo, push it and read it back.

    The Hub's token is the one of hf auth login, or HF_TOKEN. A push that was interrupted goes on with the same command.
    """
    from imaginet_build.running import delivery, outlook, stages, summaries
    from imaginet_build.running.clearance import Asked

    if check is not None:
        told = {
            "--out": out, "--repo": repo, "--push": push, "--public/--private": public is not None, "--tag": tag,
            "--revision": revision != "main", "--overwrite": overwrite, "--only": only, "--withhold": withhold, "--from": grow,
            "--version": version, "--force": force, "--recipe": recipe, "--dry-run": dry,
        }  # fmt: skip
        if useless := [name for name, value in told.items() if value]:
            raise UsageError(f"--check writes nothing, it proves the release in {check}: leave out {', '.join(useless)}")
        document = stages.check(open_session(None, work, sets), check)
        say(document, summaries.checked_text(document), as_json)
        raise typer.Exit(int(bool(document["faults"])))
    session = open_session(recipe, work, sets)
    private = None if public is None else not public
    where = delivery.Where(out, delivery.named(session.recipe, repo, push), private, tag, revision, overwrite)
    asked = Asked(only, withhold, public is True)
    if dry:
        document = outlook.outlook(session, where, force, asked, grow, version)
        return say(document, outlook.text(document), as_json)
    document, said = delivery.publish(session, where, force=force, asked=asked, grow=grow, version=version)
    say(document, summaries.published_text(document), as_json)
    raise typer.Exit(GateRefused.exit_code if said["gate"]["verdict"] == "refused" and not force else 0)
