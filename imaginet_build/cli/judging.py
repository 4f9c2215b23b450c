"""Commands that train and judge detectors: baseline, detect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from imaginet_build.cli.options import (
    CheckpointOption,
    DetectorOption,
    JsonOption,
    RecipeOption,
    SetOption,
    WorkOption,
    open_session,
    say,
)

app = typer.Typer(rich_markup_mode=None)
baseline_app = typer.Typer(help="Train and judge the detector of the recipe on the release.", rich_markup_mode=None)
app.add_typer(baseline_app, name="baseline")


OnOption = Annotated[Path | None, typer.Option("--on", help="A release, or a folder with real and synthetic in it.")]
Track = Literal["origin", "generator", "both"]
TrackOption = Annotated[Track, typer.Option("--track", help="Which of the two tracks to show.")]


@baseline_app.callback(invoke_without_command=True)
def _baseline(
    context: typer.Context,
    detector: DetectorOption = None,
    track: TrackOption = "both",
    recipe: RecipeOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    from imaginet_build.running import stages, summaries

    if context.invoked_subcommand is None:
        document = stages.baseline(open_session(recipe, work, sets), detector)
        say(document, summaries.results_text(document, track), as_json)


@baseline_app.command("train")
def train(
    detector: DetectorOption = None,
    recipe: RecipeOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the detector on the release, one checkpoint a seed; a killed training goes on where it was."""
    from imaginet_build.running import stages

    folders = [str(folder) for folder in stages.train(open_session(recipe, work, sets), detector)]
    say({"checkpoints": folders}, "\n".join(folders), as_json)


@baseline_app.command("evaluate")
def evaluate(
    detector: DetectorOption = None,
    checkpoint: CheckpointOption = None,
    on: OnOption = None,
    track: TrackOption = "both",
    recipe: RecipeOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a detector on both tracks, its threshold fixed on the calibration split, beside its controls."""
    from imaginet_build.running import stages, summaries

    document = stages.evaluate(open_session(recipe, work, sets), detector, checkpoint, on)
    say(document, summaries.results_text(document, track), as_json)


@app.command()
def detect(
    paths: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    checkpoint: CheckpointOption = None,
    work: WorkOption = None,
    as_json: JsonOption = False,
) -> None:
    """How likely each image is synthetic, and which generator it looks like. Works without torch.

    Looks with --checkpoint, else with the one trained in --work, else with the small detector that ships.
    """
    from imaginet_build.running import stages, summaries

    verdicts = stages.detect(paths, checkpoint, work)
    say(verdicts, summaries.verdicts_text(verdicts), as_json)
    raise typer.Exit(int(any("error" in verdict for verdict in verdicts)))
