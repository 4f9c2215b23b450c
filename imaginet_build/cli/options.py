"""The options that several commands share, and what commands say on the terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imaginet_build.errors import UsageError

if TYPE_CHECKING:
    from tqdm import tqdm

    from imaginet_build.running.workspace import Session

RecipeOption = Annotated[str | None, typer.Option("--recipe", "-r", help="A recipe file, or the name of a shipped one.")]
WorkOption = Annotated[Path | None, typer.Option("--work", "-w", help="The work folder (default: work/<recipe name>).")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
SketchOption = Annotated[
    list[Path] | None, typer.Option("--sketch", metavar="FILE", help="Hashes of another data set to look for; repeatable.")
]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
TrustOption = Annotated[bool, typer.Option("--trust-adapters", help="Load adapters that are not installed packages.")]
ListOption = Annotated[bool, typer.Option("--list", help="List the cards there are, and what each still needs.")]
DetectorOption = Annotated[str | None, typer.Option("--detector", help="A detector card; the recipe's without it.")]
CheckpointOption = Annotated[Path | None, typer.Option("--checkpoint", help="A trained checkpoint folder.")]


def say(document: Any, text: str, as_json: bool) -> None:
    """One document on stdout: as JSON, or as the words a person reads."""
    try:
        print(json.dumps(document, indent=1, ensure_ascii=False) if as_json else text.rstrip("\n"), flush=True)
    except BrokenPipeError:
        # The reader went away (`| head`); what was found, and so the exit code, is the same.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_session(
    recipe: str | None, work: Path | None, sets: Sequence[str] | None, trust: bool = False, what: str = ""
) -> Session:
    """The recipe and the work folder of a call; `what` names the unit on the progress bar."""
    from imaginet_build.running import workspace

    return workspace.open_session(recipe, work, sets or (), trust=trust, progress=Bar(what))


class Bar:
    """A progress bar on a terminal; nothing in a log or a pipe."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.bar: tqdm[Any] | None = None

    def __call__(self, done: int, failed: int, total: int | None) -> None:
        """Show that `done` of `total` are through, `failed` of them in vain."""
        if not sys.stderr.isatty():
            return
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(desc=self.what, unit=" images", leave=False, file=sys.stderr)
        self.bar.total, self.bar.n = total, done
        self.bar.set_postfix(failed=failed, refresh=True)


def shard_of(text: str) -> tuple[int, int]:
    """`I/N` as two numbers. Raises `UsageError`."""
    index, _, of = text.partition("/")
    if not (index.isdigit() and of.isdigit() and 1 <= int(index) <= int(of)):
        raise UsageError(f"--shard {text}: write it as I/N with I from 1 to N, for example --shard 2/8")
    return int(index), int(of)


def say_listing(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Cards, and what each still needs."""
    width = max((len(row["name"]) for row in rows), default=0)
    lines = [
        f"{row['name']:<{width}}  {'ready' if row['ready'] else 'not ready':<9}  {row['licence']}{_terms(row)}"
        + "".join(f"\n{'':<{width}}    {need}" for need in row["needs"])
        for row in rows
    ]
    say(rows, "\n".join(lines), as_json)


def _terms(row: dict[str, Any]) -> str:
    """What a source is, and whether its pixels may be passed on."""
    if "redistribute" not in row:
        return ""
    what = " ".join(word for word in (row["origin"], row["content_type"]) if word) or "as each image says"
    may = {True: "may be passed on", False: "may not be passed on", None: "may be passed on as each image's licence says"}
    return f"; {what}; pixels {may[row['redistribute']]}"


def finish(verb: str, done: Any, as_json: bool) -> None:
    """Say what a stage did, and exit with 1 where something could not be read or drawn."""
    from dataclasses import asdict

    text = f"{done.new} images {verb}, {done.total} in all"
    if done.rejected:
        text += "; rejected: " + ", ".join(f"{count} {reason}" for reason, count in done.rejected.items())
    say(asdict(done), text, as_json)
    raise typer.Exit(1 if done.failed else 0)
