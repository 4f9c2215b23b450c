"""Which recipe and which work folder a command means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from imaginet_build import catalog, engine
from imaginet_build import recipe as recipes
from imaginet_build.errors import UsageError
from imaginet_build.recipe import Recipe
from imaginet_build.store import Store, write_text

DEFAULT = "imaginet"
"""The recipe of a command that names none, in a folder that has none."""


@dataclass(frozen=True, slots=True)
class Session:
    """A recipe at work in a folder: what every stage is handed by the command line."""

    recipe: Recipe
    store: Store
    pool: engine.Pool
    trust: bool = False
    progress: engine.Progress = engine.silent


def open_session(
    recipe: str | None = None,
    work: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    trust: bool = False,
    progress: engine.Progress = engine.silent,
) -> Session:
    """The recipe and folder a command means; nothing is written.

    Without `recipe`: the one in the work folder if there is one, else `imaginet.toml` here, else the shipped one. Without
    `work`: `work/<recipe name>`. Raises `UsageError` for a faulty recipe, and for one that differs from what the folder was
    begun with.
    """

    def read(path: Path | str, sets: Sequence[str] = ()) -> Recipe:
        return recipes.load(path, sets, lambda document: catalog.check(document, trust=trust))

    def held(folder: Path) -> Path | None:
        return found if (found := folder / "recipe.toml").is_file() else None

    if recipe is not None:
        wanted = read(catalog.pipeline(recipe), overrides)
    elif work is not None and (old := held(work)):
        wanted = read(old, overrides)
    else:
        default = read(catalog.pipeline(f"{DEFAULT}.toml"), ())
        old = held(Path("work") / default.name) if work is None else None
        wanted = read(old or catalog.pipeline(f"{DEFAULT}.toml"), overrides)
    folder = work or Path("work") / wanted.name
    return session_of(wanted, folder, trust=trust, progress=progress)


@contextmanager
def begun(session: Session) -> Iterator[None]:
    """Write the recipe into the work folder, so that later commands need not name it.

    A call that turns out to be wrong before anything was made takes it back: nothing was started, and nothing is left.
    """
    path, fresh = session.store.recipe_path, not session.store.recipe_path.is_file()
    if fresh:
        write_text(path, recipes.to_toml(session.recipe))
    try:
        yield
    except UsageError:
        if fresh and not session.store.parts():
            path.unlink()
            with suppress(OSError):  # something else lies there already
                path.parent.rmdir()
        raise


def session_of(recipe: Recipe, work: Path | None, *, trust: bool = False, progress: engine.Progress = engine.silent) -> Session:
    """A session for a recipe and a folder, which must not have been begun with another one (`UsageError`)."""
    folder = work or Path("work") / recipe.name
    old = folder / "recipe.toml"
    if old.is_file() and (changes := recipes.difference(recipes.load(old), recipe)):
        raise UsageError(
            f"{folder} was begun with another recipe; nothing was started. The difference:\n  "
            + "\n  ".join(changes)
            + f"\nTake another folder (--work DIR), or leave --recipe and --set out to go on with {old}"
        )
    return Session(recipe, Store(folder), pool_of(recipe), trust, progress)


def pool_of(recipe: Recipe) -> engine.Pool:
    """The recipe's `[engine]` as processes on this machine."""
    settings = recipe.engine
    if settings.kind != "spawn":
        raise UsageError(f"engine.kind = '{settings.kind}' is not built yet: take 'spawn'")
    return engine.Pool(
        workers=settings.workers,
        threads_per_worker=settings.threads_per_worker,
        attempts=settings.attempts,
        timeout=settings.timeout_seconds or engine.Pool().timeout,
    )
