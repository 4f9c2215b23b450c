"""The command line: arguments in, words and exit codes out. The only place that prints or exits.

Exit codes: 0 done; 1 done, but something could not be read, drawn or written; 2 the call or the recipe is wrong and nothing was
started; 3 the audit's gate refuses; 130 interrupted, go on with the same command. Nothing heavy is imported before a command
needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from imaginet_build import __version__
from imaginet_build.cli import building, judging, looking, proving
from imaginet_build.errors import BuildError

INTERRUPTED = 130
MEND = {
    errno.ENOSPC: "make room, or choose another disk with --work",
    errno.EDQUOT: "make room within your quota, or choose another disk with --work",
    errno.EROFS: "choose a place that can be written with --work",
    errno.EACCES: "make it readable and writable for you, or choose another place with --work",
    errno.EIO: "look after the disk",
}
"""Faults of the disk rather than of this program, and what to do about each."""

app = typer.Typer(
    name="build-imaginet",
    help="Build, clean, publish and benchmark data sets for telling synthetic images from real ones.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (building, proving, judging, looking):
    app.add_typer(part.app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # Of the processes that a launcher starts (torchrun, accelerate), one speaks; the others only complain.
    speaks = os.environ.get("RANK", "0") == "0"
    logging.getLogger("imaginet_build").setLevel(logging.INFO if speaks else logging.ERROR)
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
    except OSError as error:
        if error.errno not in MEND:
            raise
        place = f"{error.filename}: " if error.filename else ""
        why = os.strerror(error.errno)
        sys.exit(_complain(f"{place}{why}. What was finished is kept: {MEND[error.errno]}, and the same command goes on", 1))


def _complain(text: str, code: int) -> int:
    print(f"build-imaginet: {text}", file=sys.stderr)
    return code


def _version(wanted: bool) -> None:
    if wanted:
        print(f"imaginet-build {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass
