"""The command line: arguments in, words and exit codes out. The only place that prints or exits.

Exit codes: 0 done; 1 done, but something could not be read, drawn or written; 2 the call or the recipe is wrong and nothing was
started; 3 the audit's gate refuses; 130 interrupted, go on with the same command. Nothing heavy is imported before a command
needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from imaginet_build import __version__
from imaginet_build.errors import BuildError, GateRefused, UsageError

if TYPE_CHECKING:
    from tqdm import tqdm

    from imaginet_build.workspace import Session

INTERRUPTED = 130

app = typer.Typer(
    name="build-imaginet",
    help="Build, clean, publish and benchmark data sets for telling synthetic images from real ones.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
baseline_app = typer.Typer(help="Train and judge the detector of the recipe on the release.", rich_markup_mode=None)
app.add_typer(baseline_app, name="baseline")

RecipeOption = Annotated[str | None, typer.Option("--recipe", "-r", help="A recipe file, or the name of a shipped one.")]
WorkOption = Annotated[Path | None, typer.Option("--work", "-w", help="The work folder (default: work/<recipe name>).")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
TrustOption = Annotated[bool, typer.Option("--trust-adapters", help="Load adapters that are not installed packages.")]
ListOption = Annotated[bool, typer.Option("--list", help="List the cards there are, and what each still needs.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("imaginet_build").setLevel(logging.INFO)
    try:
        app(arguments, prog_name="build-imaginet")
    except BuildError as error:
        sys.exit(_complain(str(error), error.exit_code))
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code != INTERRUPTED:
            raise
        # typer makes an exit of Ctrl-C itself, and says nothing.
        sys.exit(_complain("interrupted: what was finished is kept; the same command goes on from here", INTERRUPTED))
    except BrokenPipeError:
        # The reader went away (`| head`): nothing more to say, and nothing to flush into a closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _complain(text: str, code: int) -> int:
    print(f"build-imaginet: {text}", file=sys.stderr)
    return code


def _print(document: Any, text: str, as_json: bool) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=False) if as_json else text.rstrip("\n"))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"imaginet-build {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def _session(recipe: str | None, work: Path | None, sets: Sequence[str] | None, trust: bool = False, what: str = "") -> Session:
    from imaginet_build.workspace import open_session

    return open_session(recipe, work, sets or (), trust=trust, progress=_Bar(what))


class _Bar:
    """A progress bar on a terminal; nothing in a log or a pipe."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.bar: tqdm[Any] | None = None

    def __call__(self, done: int, failed: int, total: int | None) -> None:
        if not sys.stderr.isatty():
            return
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(desc=self.what, unit=" images", leave=False, file=sys.stderr)
        self.bar.total, self.bar.n = total, done
        self.bar.set_postfix(failed=failed, refresh=True)


# --- commands ----------------------------------------------------------------------------------------------------------


@app.command()
def run(
    recipe: Annotated[str | None, typer.Argument(help="A recipe file, or the name of a shipped one.")] = None,
    real: Annotated[Path | None, typer.Option(help="A folder of real images, instead of a recipe.")] = None,
    fake: Annotated[Path | None, typer.Option(help="A folder of synthetic ones; folder names are generators.")] = None,
    work: WorkOption = None,
    sets: SetOption = None,
    dry: DryOption = False,
    as_json: JsonOption = False,
    trust: TrustOption = False,
    show: Annotated[bool, typer.Option("--list", help="List the shipped recipes.")] = False,
) -> None:
    """The whole pipeline, each stage skipping what is done: collect, generate, balance, publish, baseline, report."""
    from imaginet_build import catalog, pipeline, summaries

    if show:
        known = catalog.files("pipelines")
        return _print([{"name": name, "path": str(path)} for name, path in known.items()], "\n".join(known), as_json)
    if (real is None) != (fake is None) or (real is not None and recipe is not None):
        raise UsageError("give a recipe, or both --real DIR and --fake DIR")
    if real is not None and fake is not None:
        session = pipeline.of_folders(real, fake, work, sets or (), _Bar("images"))
    else:
        session = _session(recipe, work, sets, trust, "images")
    if dry:
        document = pipeline.forecast(session)
        return _print(document, summaries.forecast_text(document), as_json)
    done = pipeline.run(session, say=lambda line: print(line, file=sys.stderr))
    _print(done.to_json(), done.text(), as_json)
    raise typer.Exit(done.exit_code)


@app.command()
def prompts(
    source: Annotated[str, typer.Argument(help="A prompt set (photos, paintings, faces, …) or a file of templates.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many prompts.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same prompts.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A .jsonl or .parquet file; without it a sample is printed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Expand a set of templates into a prompt manifest."""
    from dataclasses import asdict

    from imaginet_build import prompts as texts
    from imaginet_build import summaries

    made = texts.expand(source, count, seed)
    if out is not None:
        texts.write(made, out)
    document = asdict(texts.summary(made, source))
    _print(document, summaries.prompts_text(document), as_json)


@app.command()
def generate(
    generator: Annotated[str | None, typer.Option(help="One generator card; all of the recipe's without it.")] = None,
    prompts: Annotated[str | None, typer.Option(help="A prompt set or file in place of the recipe's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images now.")] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="The I-th of N equal shares, for several processes.")] = "1/1",
    recipe: RecipeOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    dry: DryOption = False,
    as_json: JsonOption = False,
    trust: TrustOption = False,
    show: ListOption = False,
) -> None:
    """Draw what the recipe orders, going on where an earlier run stopped."""
    from imaginet_build import catalog, pipeline, stages, summaries

    if show:
        return _listing(catalog.listing("generators"), as_json)
    session = _session(recipe, work, sets, trust, "drawn")
    if dry:
        document = pipeline.forecast(session, ("generate",), generator)
        return _print(document, summaries.forecast_text(document), as_json)
    done = stages.generate(session, generator, limit, _shard(shard), prompts)
    _finish("drawn", done, as_json)


@app.command()
def collect(
    source: Annotated[str | None, typer.Option(help="One source card; all of the recipe's without it.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images of each entry.")] = None,
    recipe: RecipeOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    dry: DryOption = False,
    as_json: JsonOption = False,
    trust: TrustOption = False,
    show: ListOption = False,
) -> None:
    """Fetch the images the recipe names, bytes as delivered, and measure them."""
    from imaginet_build import catalog, pipeline, stages, summaries

    if show:
        return _listing(catalog.listing("sources"), as_json)
    session = _session(recipe, work, sets, trust, "collected")
    if dry:
        document = pipeline.forecast(session, ("collect",))
        return _print(document, summaries.forecast_text(document), as_json)
    done = stages.collect(session, source, limit)
    _finish("collected", done, as_json)


@app.command()
def balance(recipe: RecipeOption = None, work: WorkOption = None, sets: SetOption = None, as_json: JsonOption = False) -> None:
    """Decide which images stay: no twin, cells of equal size, groups whole, one law for both classes."""
    from imaginet_build import stages, summaries

    done = stages.balance(_session(recipe, work, sets))
    _print(done.to_json(), summaries.balance_text(done.to_json()), as_json)


@app.command()
def audit(
    target: Annotated[
        str | None, typer.Argument(help="A release, a work folder, a folder with index.csv, an annotation list or a Hub id.")
    ] = None,
    real: Annotated[Path | None, typer.Option(help="A folder of real images.")] = None,
    fake: Annotated[Path | None, typer.Option(help="A folder of synthetic images.")] = None,
    work: WorkOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove, or disprove, that no label can be guessed without looking at the picture. Exit code 3: it can."""
    from imaginet_build import stages, summaries

    if (real is None) != (fake is None) or (target is not None and real is not None):
        raise UsageError("give one target, or both --real DIR and --fake DIR")
    session = _session(None, work, sets)
    result = stages.audit_pair(real, fake, session) if real and fake else stages.audit(target, session)
    _print(result.to_json(), summaries.audit_text(result.to_json()), as_json)
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

    session = _session(recipe, work, sets)
    published, said = stages.publish(session, out, force=force)
    document = stages.published_json(published, said)
    _print(document, summaries.published_text(document), as_json)
    raise typer.Exit(GateRefused.exit_code if said["gate"]["verdict"] == "refused" and not force else 0)


DetectorOption = Annotated[str | None, typer.Option("--detector", help="A detector card; the recipe's without it.")]
CheckpointOption = Annotated[Path | None, typer.Option("--checkpoint", help="A trained checkpoint folder.")]
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
    from imaginet_build import stages, summaries

    if context.invoked_subcommand is None:
        document = stages.baseline(_session(recipe, work, sets), detector)
        _print(document, summaries.results_text(document, track), as_json)


@baseline_app.command("train")
def train(
    detector: DetectorOption = None,
    recipe: RecipeOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the detector on the release, one checkpoint a seed; a killed training goes on where it was."""
    from imaginet_build import stages

    folders = [str(folder) for folder in stages.train(_session(recipe, work, sets), detector)]
    _print({"checkpoints": folders}, "\n".join(folders), as_json)


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
    from imaginet_build import stages, summaries

    document = stages.evaluate(_session(recipe, work, sets), detector, checkpoint, on)
    _print(document, summaries.results_text(document, track), as_json)


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
    from imaginet_build import stages, summaries

    verdicts = stages.detect(paths, checkpoint, work)
    _print(verdicts, summaries.verdicts_text(verdicts), as_json)
    raise typer.Exit(int(any("error" in verdict for verdict in verdicts)))


@app.command()
def report(recipe: RecipeOption = None, work: WorkOption = None, as_json: JsonOption = False) -> None:
    """Everything the work folder holds as one HTML page that opens offline."""
    from imaginet_build import stages

    path = stages.report(_session(recipe, work, None))
    _print({"report": str(path)}, str(path), as_json)


@app.command()
def doctor(
    work: WorkOption = None,
    online: Annotated[bool, typer.Option("--online", help="Also ask whether the Hub can be reached.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What works on this machine, and how to mend what does not."""
    from imaginet_build import stages, summaries

    found = stages.doctor(work, online)
    _print(found, summaries.doctor_text(found), as_json)


def _shard(text: str) -> tuple[int, int]:
    index, _, of = text.partition("/")
    if not (index.isdigit() and of.isdigit() and 1 <= int(index) <= int(of)):
        raise UsageError(f"--shard {text}: write it as I/N with I from 1 to N, for example --shard 2/8")
    return int(index), int(of)


def _listing(rows: list[dict[str, Any]], as_json: bool) -> None:
    width = max((len(row["name"]) for row in rows), default=0)
    lines = [
        f"{row['name']:<{width}}  {'ready' if row['ready'] else 'not ready':<9}  {row['licence']}"
        + "".join(f"\n{'':<{width}}    {need}" for need in row["needs"])
        for row in rows
    ]
    _print(rows, "\n".join(lines), as_json)


def _finish(verb: str, done: Any, as_json: bool) -> None:
    """Say what a stage did, and exit with 1 where something could not be read or drawn."""
    from dataclasses import asdict

    text = f"{done.new} images {verb}, {done.total} in all"
    if done.rejected:
        text += "; rejected: " + ", ".join(f"{count} {reason}" for reason, count in done.rejected.items())
    _print(asdict(done), text, as_json)
    raise typer.Exit(1 if done.failed else 0)
