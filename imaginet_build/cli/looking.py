"""Commands that look at what is there: report, rebuild, sketch, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imaginet_build.cli.options import JsonOption, RecipeOption, TrustOption, WorkOption, open_session, say

app = typer.Typer(rich_markup_mode=None)


@app.command()
def report(recipe: RecipeOption = None, work: WorkOption = None, as_json: JsonOption = False) -> None:
    """Everything the work folder holds as one HTML page that opens offline."""
    from imaginet_build.running import stages

    path = stages.report(open_session(recipe, work, None))
    say({"report": str(path)}, str(path), as_json)


@app.command()
def rebuild(
    release: Annotated[Path, typer.Argument(help="The folder of a release.")],
    out: Annotated[Path | None, typer.Option(help="Where the whole release is written (default: RELEASE-complete).")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Prove every hash: of files, of rows, of the whole.")] = False,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Where a card's images lie: a folder, an archive, a work folder; repeatable."),
    ] = None,
    as_json: JsonOption = False,
    trust: TrustOption = False,
) -> None:
    """Restore the pixels that a release may not hold, from where they came, and prove that they are the same.

    What was found is kept: the same command goes on from there. Exit code 1: something could not be had, or is wrong.
    """
    from imaginet_build.running import rebuilding, stages

    several = stages.several(open_session(None, None, None, trust))
    done = rebuilding.rebuild(release, out, verify=verify, given=source or (), trust=trust, map=several)
    say(done.to_json(), rebuilding.rebuilt_text(done.to_json()), as_json)
    raise typer.Exit(int(done.failed))


@app.command()
def sketch(
    target: Annotated[str, typer.Argument(help="A release, a work folder, a folder of images, a list or a Hub id.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    name: Annotated[str | None, typer.Option(help="What the data set is called (default: the target's own name).")] = None,
    edition: Annotated[str, typer.Option("--edition", help="Which edition of it this is: a version, a date.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Hashes of a data set in one small file, without a pixel: for `balance --sketch` and `audit --sketch`."""
    from imaginet_build.running import stages, summaries

    done = stages.sketch(target, out, name, edition, open_session(None, None, None))
    say(done.to_json(), summaries.sketch_text(done.to_json()), as_json)
    raise typer.Exit(int(bool(done.unreadable)))


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A release folder: the earlier one.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="A release folder: the later one.")],
    as_json: JsonOption = False,
) -> None:
    """What release B holds otherwise than release A: rows by cell, splits, class names, the gate, and the bytes of both."""
    from imaginet_build.releases import releasediff

    done = releasediff.compare(before, after)
    say(done.to_json(), releasediff.text(done), as_json)


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="What the makers of a GAN published: a .pkl, .pt or .pth file.")],
    out: Annotated[Path, typer.Option(help="The folder to write; its name becomes the card's.")],
    sha256: Annotated[str, typer.Option("--sha256", metavar="DIGEST", help="The file's SHA-256, as its makers publish it.")],
    trust_file: Annotated[bool, typer.Option("--trust", help="You trust where the file came from.")] = False,
    entry: Annotated[
        str, typer.Option(help="The network's name in the file (default: G_ema, netG, …, the first there is).")
    ] = "",
    classes: Annotated[int, typer.Option(min=0, help="How many inputs of a DCGAN or ProGAN are a class's.")] = 0,
    architecture: Annotated[
        str | None, typer.Option(help="dcgan, progan, stylegan2, stylegan3 or stylegan-xl (default: by its names).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """A GAN's upstream file to safetensors and config.json: checked by its digest, read shut in, nothing of it is run."""
    from imaginet_build import convert as converting

    done = converting.convert(file, out, sha256, trust=trust_file, entry=entry, classes=classes, architecture=architecture)
    say(done.to_json(), converting.text(done), as_json)


@app.command()
def doctor(
    work: WorkOption = None,
    online: Annotated[bool, typer.Option("--online", help="Also ask whether the Hub can be reached.")] = False,
    generator: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Draw with this card, yours included, through the cases that all must pass."),
    ] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """What works on this machine, and how to mend what does not. With --generator, exit code 1: it does not keep the rules."""
    from imaginet_build.running import stages, summaries

    found = stages.doctor(work, online, generator, trust)
    say(found, summaries.doctor_text(found), as_json)
    raise typer.Exit(int(generator is not None and not all(check["ok"] for check in found)))
