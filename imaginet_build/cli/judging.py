"""Commands that train and judge detectors: baseline, detect."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from imaginet_build.cli.options import (
    Bar,
    CheckpointOption,
    DetectorOption,
    JsonOption,
    RecipeOption,
    SetOption,
    SketchOption,
    WorkOption,
    open_session,
    say,
)
from imaginet_build.errors import UsageError

app = typer.Typer(rich_markup_mode=None)
baseline_app = typer.Typer(help="Train and judge the detector of the recipe on the release.", rich_markup_mode=None)
app.add_typer(baseline_app, name="baseline")


DetectorsOption = Annotated[
    list[str] | None,
    typer.Option("--detector", help="A card or a checkpoint folder; the recipe's without it. Several: a leaderboard."),
]
OnOption = Annotated[
    str | None, typer.Option("--on", metavar="TEST", help="A release, a folder, a list of images, or a Hub data set.")
]
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
    from imaginet_build.running import evaluationtext, stages

    if context.invoked_subcommand is None:
        document = stages.baseline(open_session(recipe, work, sets), detector)
        say(document, evaluationtext.text(document, track), as_json)


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
    if os.environ.get("RANK", "0") == "0":  # of the processes that `accelerate launch` starts, one speaks
        say({"checkpoints": folders}, "\n".join(folders), as_json)


@baseline_app.command("import")
def take(
    file: Annotated[Path, typer.Argument(help="imaginet_weights.pt, as the paper's authors publish it.")],
    out: Annotated[Path, typer.Option("--out", help="The checkpoint folder to write.")] = Path("checkpoint"),
    as_json: JsonOption = False,
) -> None:
    """The paper's published weights as a checkpoint for --checkpoint; every key must fit, no code in the file is run."""
    from imaginet_build.baseline.published import take as read

    folder = str(read(file, out))
    say({"checkpoint": folder}, f"{folder}\nuse it: build-imaginet detect --checkpoint {folder} PATH", as_json)


@baseline_app.command("evaluate")
def evaluate(
    detector: DetectorsOption = None,
    checkpoint: CheckpointOption = None,
    on: OnOption = None,
    real: Annotated[Path | None, typer.Option("--real", help="The real images of a set that brings none.")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="The folder that the names of a list start in.")] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="A list or folder that fixes the threshold; the release's without it.")
    ] = None,
    sketch: SketchOption = None,
    keep: Annotated[bool, typer.Option("--keep-contaminated", help="Judge images that training held, too.")] = False,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Train one more detector for each generator, without it; resumable.")
    ] = False,
    condition: Annotated[
        str | None, typer.Option("--condition", help="Every test image goes through it first: social, jpeg-60, blur-1 …")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the results go (default: <work>/baseline; nowhere with --on).")
    ] = None,
    track: TrackOption = "both",
    recipe: RecipeOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a detector on both tracks, its threshold fixed on the calibration split, beside its controls.

    Images that the detector was trained on are looked for by sketch and left out of a test of somebody else.
    """
    from imaginet_build.running import evaluation, evaluationtext

    asked = evaluation.Asked(
        detector or (), checkpoint, on, real, images, calibration, sketch or (), keep, leave_one_out, condition, out
    )
    document = evaluation.evaluate(open_session(recipe, work, sets), asked)
    say(document, evaluationtext.text(document, track), as_json)


@baseline_app.command("export")
def export(
    out: Annotated[Path | None, typer.Option("--out", help="Where to (default: <work>/baseline/<detector>/exported).")] = None,
    checkpoint: CheckpointOption = None,
    on: Annotated[Path | None, typer.Option("--on", help="A release whose calibration split int8 is calibrated on.")] = None,
    precision: Annotated[Literal["fp32", "int8"] | None, typer.Option("--precision", help="Only this one.")] = None,
    runtime: Annotated[Literal["onnxruntime", "openvino"] | None, typer.Option("--runtime", help="Only this one.")] = None,
    detector: DetectorOption = None,
    recipe: RecipeOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a trained detector for ONNX Runtime or OpenVINO: the fastest form that keeps its promises beside torch."""
    from imaginet_build.baseline.export import table_text
    from imaginet_build.running import detection

    done = detection.export(open_session(recipe, work, sets), out, checkpoint, on, precision, runtime, detector)
    said = f"\n{done.chosen.name} is in {done.folder}: build-imaginet detect --checkpoint {done.folder} PATH"
    say(done.as_json(), table_text(done.table, done.untried, done.chosen) + said, as_json)


@app.command()
def detect(
    paths: Annotated[list[str] | None, typer.Argument(help="Images, folders of them, or http(s) addresses.")] = None,
    checkpoint: CheckpointOption = None,
    work: WorkOption = None,
    as_json: JsonOption = False,
    serve: Annotated[bool, typer.Option("--serve", help="A page and an HTTP endpoint on this machine, until Ctrl-C.")] = False,
    bind: Annotated[str, typer.Option("--bind", metavar="ADDRESS", help="Where --serve listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Of --serve; 0 takes a free one.")] = 8631,
    hosts: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="NAME", help="A name others reach --serve by; repeatable.")
    ] = None,
) -> None:
    """How likely each image is synthetic, and which generator it looks like. Works without torch.

    Looks with --checkpoint, else with the one trained in --work, else with the small detector that ships.
    """
    from imaginet_build.running import detection, summaries

    if serve == bool(paths):
        raise UsageError(
            "detect --serve shows a page and takes no paths" if serve else "name images, folders or addresses, or add --serve"
        )
    if serve:
        with detection.served(checkpoint, work, bind, port, hosts or ()) as page:
            text = f"{page.url} looks with {page.keeper.name}; Ctrl-C ends it"
            say({"url": page.url, "checkpoint": page.keeper.name}, text, as_json)
            with suppress(KeyboardInterrupt):
                page.serve_forever()
        return
    assert paths
    verdicts = detection.detect(paths, checkpoint, work, Bar("detect"))
    say(verdicts, summaries.verdicts_text(verdicts), as_json)
    raise typer.Exit(int(any("error" in verdict for verdict in verdicts)))
