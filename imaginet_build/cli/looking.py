"""Commands that show: report, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from imaginet_build.cli.options import JsonOption, RecipeOption, WorkOption, open_session, say

app = typer.Typer(rich_markup_mode=None)


@app.command()
def report(recipe: RecipeOption = None, work: WorkOption = None, as_json: JsonOption = False) -> None:
    """Everything the work folder holds as one HTML page that opens offline."""
    from imaginet_build import stages

    path = stages.report(open_session(recipe, work, None))
    say({"report": str(path)}, str(path), as_json)


@app.command()
def doctor(
    work: WorkOption = None,
    online: Annotated[bool, typer.Option("--online", help="Also ask whether the Hub can be reached.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What works on this machine, and how to mend what does not."""
    from imaginet_build import stages, summaries

    found = stages.doctor(work, online)
    say(found, summaries.doctor_text(found), as_json)
