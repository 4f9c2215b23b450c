"""`publish` to somewhere else: the release as it lies in the work folder, past the gate, to the Hub or to an address."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from imaginet_build import pushing
from imaginet_build.destinations import urlpush
from imaginet_build.errors import UsageError
from imaginet_build.recipe import Recipe
from imaginet_build.running import stages
from imaginet_build.running.clearance import Asked
from imaginet_build.running.workspace import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Where:
    """Where a release goes. `out`: a folder or an address; `repo`: a data set of the Hub, with `private` (None: as it is, a
    new one private), `tag`, `branch`. `overwrite`: whatever is in the way there."""

    out: str | None = None
    repo: str | None = None
    private: bool | None = None
    tag: str | None = None
    branch: str = "main"
    overwrite: bool = False

    def check(self) -> None:
        """Raises `UsageError` for what does not go together."""
        if self.out is not None and self.repo is not None:
            raise UsageError("--out and --repo are two places: give one of them, then call again with the other")
        if self.repo is None and (self.tag is not None or self.private is not None or self.branch != "main"):
            raise UsageError("--tag, --revision, --public and --private belong to the Hub: say where with --repo OWNER/NAME")
        if self.tag is not None and not re.fullmatch(r"[A-Za-z0-9](?:[\w+-]|\.(?!\.|$|lock$))*", self.tag):
            raise UsageError(f"--tag {self.tag!r}: write a version such as v1.0.0, of letters, digits and . _ + -")
        if self.tag is not None and self.tag == self.branch:
            raise UsageError(f"--tag {self.tag} is the name of the branch: choose another")


def tag_of(where: Where, version: str) -> str | None:
    """The name that a version gets on the Hub: the one asked for, else its own number; none on a branch beside the main one."""
    return where.tag or (f"v{version}" if where.branch == "main" else None)


def named(recipe: Recipe, repo: str | None, push: bool) -> str | None:
    """The data set of the Hub that a call means: `repo`, or with `push` the one that the recipe names, if it does."""
    if push and not (repo or recipe.publish.repo):
        raise UsageError('--push: where to? Write [publish] repo = "OWNER/NAME" into the recipe, or give --repo')
    return repo or (recipe.publish.repo if push else None)


def publish(
    session: Session,
    where: Where,
    force: bool = False,
    asked: Asked = Asked(),  # noqa: B008 - frozen
    grow: Path | None = None,
    version: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write and audit the release, and bring it where it is wanted: the document that `publish --json` prints, and the audit's.

    Raises `GateRefused` where it should leave the work folder and the gate refuses, unless `force`; `UsageError` where the
    call is wrong or nobody is logged in, before anything is built.
    """
    where.check()
    if where.repo is not None:
        from imaginet_build.destinations.hubpush import Repository

        repository = Repository(where.repo, where.branch)
        repository.login()
        public = repository.private() is False if where.private is None else not where.private
        if public and where.private is None and not (asked.withhold or session.recipe.publish.withhold):
            log.warning(
                "%s is public: pixels of which nobody says that they may be passed on stay here, as with --public",
                repository.name,
            )
        asked = replace(asked, public=public)
        published, said = stages.publish(
            session, None, force=force, to=repository.name, asked=asked, grow=grow, version=version
        )
        pushed = pushing.push(
            published.path, repository, audit=partial(_judge, session, said, published.withheld),
            private=where.private, tag=tag_of(where, published.version), overwrite=where.overwrite, public=public,
        )  # fmt: skip
        return stages.published_json(published, said) | {"pushed": pushed.to_json()}, said
    folder = urlpush.local(where.out) if where.out is not None else None
    if where.out is None or folder is not None:
        published, said = stages.publish(session, folder, force=force, asked=asked, grow=grow, version=version)
        return stages.published_json(published, said), said
    place = urlpush.Place(where.out)
    published, said = stages.publish(session, None, force=force, to=place.shown, asked=asked, grow=grow, version=version)
    placed = place.put(published.path, where.overwrite)
    return stages.published_json(published, said) | {"placed": placed.to_json()}, said


def _judge(session: Session, said: dict[str, Any], withheld: int, sample: Path, complete: bool) -> str:
    """What an audit of rows that were read back says otherwise than the audit of the release; '' where they agree.

    A whole view must give the very same value. A part of one has fewer rows to tell from: it may only not be refused where
    the whole was not. Where rows are `withheld`, that is a part too. A part may hold pixels of one class alone.
    """
    try:
        result = stages.audit(str(sample), session, pixels=False)
    except UsageError as error:
        if complete and not withheld:
            raise
        log.warning("what was read back is not audited again: %s", error)
        return ""
    again, gate = result.to_json()["gate"], said["gate"]
    if broken := [one for one in result.unreadable if one.reason != "withheld"]:
        return f"{len(broken)} images that were read back cannot be read, such as {broken[0].path} ({broken[0].reason})"
    if complete and not withheld and again["value"] != gate["value"]:
        return f"audited again, the labels are guessed with {again['value']} and not with {gate['value']}"
    if again["verdict"] == "refused" and gate["verdict"] != "refused":
        return f"the audit refuses what was read back: {again['reason']}"
    return ""
