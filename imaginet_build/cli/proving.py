"""Commands that prove a data set and let it out: audit, publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imaginet_build.cli.options import JsonOption, RecipeOption, SetOption, SketchOption, WorkOption, open_session, say
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
    from imaginet_build import stages, summaries

    if (real is None) != (fake is None) or (target is not None and real is not None):
        raise UsageError("give one target, or both --real DIR and --fake DIR")
    session = open_session(None, work, sets)
    foreign = stages.contamination([place for place in (real, fake, target) if place is not None], sketch or (), session)
    result = stages.audit_pair(real, fake, session, pixels) if real and fake else stages.audit(target, session, pixels)
    document = result.to_json() | {"contamination": foreign}
    say(document, summaries.audit_text(document), as_json)
    raise typer.Exit(GateRefused.exit_code if result.refused else int(bool(result.unreadable)))


@app.command()
def publish(
    out: Annotated[Path | None, typer.Option(help="The release folder (default: <work>/release).")] = None,
    force: Annotated[bool, typer.Option(help="Publish although the gate refuses; the card says so.")] = False,
    recipe: RecipeOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the release: Parquet, card and manifest, audited before it counts."""
    from imaginet_build import stages, summaries

    session = open_session(recipe, work, sets)
    published, said = stages.publish(session, out, force=force)
    document = stages.published_json(published, said)
    say(document, summaries.published_text(document), as_json)
    raise typer.Exit(GateRefused.exit_code if said["gate"]["verdict"] == "refused" and not force else 0)
