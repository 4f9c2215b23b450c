"""Commands that build a data set: run, prompts, generate, collect, balance."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from imaginet_build.cli.options import (
    Bar,
    DryOption,
    JsonOption,
    ListOption,
    RecipeOption,
    SetOption,
    SketchOption,
    TrustOption,
    WorkOption,
    finish,
    open_session,
    say,
    say_listing,
    shard_of,
)
from imaginet_build.errors import UsageError

app = typer.Typer(rich_markup_mode=None)


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
    from imaginet_build import catalog
    from imaginet_build.running import pipeline, summaries

    if show:
        known = catalog.files("pipelines")
        return say([{"name": name, "path": str(path)} for name, path in known.items()], "\n".join(known), as_json)
    if (real is None) != (fake is None) or (real is not None and recipe is not None):
        raise UsageError("give a recipe, or both --real DIR and --fake DIR")
    if real is not None and fake is not None:
        session = pipeline.of_folders(real, fake, work, sets or (), Bar("images"))
    else:
        session = open_session(recipe, work, sets, trust, "images")
    if dry:
        document = pipeline.forecast(session)
        return say(document, summaries.forecast_text(document), as_json)
    done = pipeline.run(session, say=lambda line: print(line, file=sys.stderr))
    say(done.to_json(), done.text(), as_json)
    raise typer.Exit(done.exit_code)


@app.command()
def prompts(
    source: Annotated[str, typer.Argument(help="A prompt set (photos, paintings, faces, …), a file of templates, or a list.")],
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="How many: 100 of a set, all of a list.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same prompts.")] = 0,
    family: Annotated[str | None, typer.Option(help="Whose negative prompts: sd, diffusion, …")] = None,
    category: Annotated[str | None, typer.Option(help="The category of a list that names none.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .jsonl or .parquet file; without it a sample is printed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Expand a set of templates into a prompt manifest, or count what a list holds."""
    from dataclasses import asdict

    from imaginet_build import prompt_rules
    from imaginet_build import prompts as texts
    from imaginet_build.running import summaries

    if texts.is_list(source) and Path(source).suffix:
        made = texts.read(source, category)[:count]
        kept = prompt_rules.screen(made).kept
        document = asdict(texts.summary(made))
    else:
        made = kept = texts.expand(source, count or 100, seed, family)
        document = asdict(texts.summary(made, source))
    if out is not None:
        texts.write(kept, out)
    say(document, summaries.prompts_text(document), as_json)


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
    from imaginet_build import catalog

    if show:
        return say_listing(catalog.listing("generators"), as_json)
    session = open_session(recipe, work, sets, trust, "drawn")
    if dry:
        from imaginet_build.running import pipeline, summaries

        document = pipeline.forecast(session, ("generate",), generator, most=limit)
        return say(document, summaries.forecast_text(document), as_json)
    from imaginet_build.running import stages

    done = stages.generate(session, generator, limit, shard_of(shard), prompts)
    finish("drawn", done, as_json)


@app.command()
def collect(
    source: Annotated[str | None, typer.Option(help="One source card; all of the recipe's without it.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images of each entry.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Ask again for what failed and may come back.")] = False,
    recipe: RecipeOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    dry: DryOption = False,
    as_json: JsonOption = False,
    trust: TrustOption = False,
    show: ListOption = False,
) -> None:
    """Fetch the images the recipe names, bytes as delivered, and measure them."""
    from imaginet_build import catalog
    from imaginet_build.running import pipeline, stages, summaries

    if show:
        return say_listing(catalog.listing("sources"), as_json)
    session = open_session(recipe, work, sets, trust, "collected")
    if dry:
        document = pipeline.forecast(session, ("collect",), source=source, limit=limit)
        return say(document, summaries.forecast_text(document), as_json)
    done = stages.collect(session, source, limit, retry)
    document = done.to_json()
    say(document, summaries.collected_text(document), as_json)
    raise typer.Exit(1 if done.failed else 0)


@app.command()
def balance(
    recipe: RecipeOption = None,
    work: WorkOption = None,
    sets: SetOption = None,
    sketch: SketchOption = None,
    reject: Annotated[bool, typer.Option("--reject-contaminated", help="Leave out what a sketch holds too.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Measure every image again: do its facts say the truth?")] = False,
    grow: Annotated[
        Path | None, typer.Option("--from", metavar="PREVIOUS", help="A release whose images, splits and crops stay.")
    ] = None,
    diff: Annotated[
        Path | None, typer.Option("--diff", metavar="OTHER", help="Compare with another plan.parquet, work folder or release.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Decide which images stay: no twin, cells of equal size, groups whole, one law for both classes."""
    from imaginet_build.balancing import plandiff
    from imaginet_build.running import stages, summaries

    session = open_session(recipe, work, sets)
    # Read first, so that a work folder can be compared with what it held before.
    other = plandiff.read(diff) if diff is not None else None
    done = stages.balance(session, sketch or (), reject, verify, grow)
    if other is not None:
        difference = plandiff.compare(plandiff.read(session.store.plan_path), other).to_json()
        return say(difference, summaries.plan_difference_text(difference), as_json)
    say(done.to_json(), summaries.balance_text(done.to_json()), as_json)
