"""`publish --repo`: a release goes to the Hub whole, is read back, and only then gets its name.

One commit replaces the release that was there by this one; a killed push goes on with the same call, and a push that is done
finds nothing to do. Nobody else's file is touched, and nobody else's commit is built over.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaginet_build.destinations import pushplan, readback
from imaginet_build.destinations.hubpush import Moved, Repository
from imaginet_build.destinations.pushplan import Mine, Plan, Theirs
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.releases import release

log = logging.getLogger(__name__)

Audit = Callable[[Path, bool], str]
"""Judges a sample of what was read back, given whether it is the whole view: '' if it is as it was here, else what is wrong."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """A release on the Hub at one commit. `sent`: files that travelled, with their bytes; `same`: files that were there
    already; `deleted`: files of the release before; `kept`: somebody else's. `read`: what was read back."""

    repo: str
    url: str
    commit: str
    branch: str
    tag: str | None
    private: bool
    sent: int
    nbytes: int
    same: int
    deleted: tuple[str, ...]
    kept: tuple[str, ...]
    read: readback.Read

    def to_json(self) -> dict[str, Any]:
        """What `publish --json` prints of it."""
        return {
            "repo": self.repo, "url": self.url, "commit": self.commit, "branch": self.branch, "tag": self.tag,
            "private": self.private, "sent": self.sent, "nbytes": self.nbytes, "same": self.same,
            "deleted": list(self.deleted), "kept": list(self.kept),
            "read_back": {"rows": self.read.rows, "images": self.read.images, "whole": self.read.whole},
        }  # fmt: skip


def push(
    folder: Path,
    repository: Repository,
    *,
    audit: Audit,
    private: bool | None = None,
    tag: str | None = None,
    overwrite: bool = False,
    public: bool = True,
) -> Pushed:
    """Send the release in `folder` to `repository`, where somebody is logged in already.

    `private`: as a new repository begins (None: private), and as one that is there becomes (None: as it is). `tag`: the name
    the commit gets at the end. `overwrite`: replace what is in the way of the release, whoever put it there. `public`: the
    release holds nothing that must not be seen by everybody.

    Raises `UsageError` before anything is sent where that name or a stranger's file is in the way, `BuildError` for a damaged
    release, somebody else's commit in the meantime, and whatever is not the same when it is read back.
    """
    manifest = release.read_manifest(folder)
    mine = pushplan.whole(folder)
    hidden = repository.create(private is not False)
    if private and not hidden:
        repository.show(True)  # before anything of it is there to be seen
        hidden = True
    if private is None and not hidden and not public:
        raise UsageError(
            f"{repository.name} has become public while the release was made, which holds pixels that not everybody may see; "
            "nothing was sent. Run the same command again, or say --private"
        )
    head = repository.head()
    theirs = repository.tree(head) if head else {}
    named = repository.commit_of(tag) if tag else None
    if named and (wrong := pushplan.differences(mine, repository.tree(named))):
        raise UsageError(
            f"{repository.name} has another release called {tag} ({wrong[0]}); nothing was sent. "
            f"A name stays with what it was given to: give this one a number of its own, under which its data files and what "
            f"its changelog says stay as they are (--from {folder} --version NUMBER), or choose another --tag"
        )
    plan = _plan(repository, head, mine, theirs, overwrite)
    for path in plan.kept:
        log.info("%s: %s is not of a release and stays as it is", repository.name, path)
    commit = head
    if plan.send or plan.delete:
        commit = _commit(folder, repository, plan, mine, head, tag, manifest)
    if commit is None:
        raise BuildError(f"{repository.name} has no commit although nothing was left to send: look at {repository.url}")
    if wrong := pushplan.differences(mine, repository.tree(commit), plan.delete):
        raise BuildError(
            f"{repository.name} at {commit[:12]} is not the release of {folder}: {'; '.join(wrong[:3])}. Nothing was tagged; "
            "the same command sends what is missing"
        )
    read = _read_back(folder, repository, commit, mine, manifest, audit)
    if tag and not named:
        repository.tag(tag, commit)
    if private is not None and private != hidden:
        repository.show(private)
        hidden = private
    elif private is None and not hidden:
        log.info("%s was public already and stays so", repository.name)
    nbytes = sum(mine[path].nbytes for path in plan.send)
    return Pushed(
        repository.name, repository.url, commit, repository.branch, tag, hidden, len(plan.send), nbytes, len(plan.same),
        plan.delete, plan.kept, read,
    )  # fmt: skip


def _plan(
    repository: Repository, head: str | None, mine: Mapping[str, Mine], theirs: Mapping[str, Theirs], overwrite: bool
) -> Plan:
    published = None
    if head and release.MANIFEST in theirs:
        published = pushplan.listed_in(repository.read(release.MANIFEST, head))
    plan = pushplan.compare(mine, theirs, published, lambda path: repository.read(path, str(head)), overwrite)
    if plan.blocked:
        raise UsageError(pushplan.in_the_way(repository.name, plan))
    return plan


def _commit(
    folder: Path,
    repository: Repository,
    plan: Plan,
    mine: Mapping[str, Mine],
    parent: str | None,
    tag: str | None,
    manifest: Mapping[str, Any],
) -> str:
    """The commit after which the branch is this release, made now or found to be made already."""
    if plan.delete:
        log.info("%s: %d files of the release before are deleted: %s", repository.name, len(plan.delete), _some(plan.delete))
    additions = repository.send(folder, mine, plan.send)
    title = " ".join(filter(None, ("Publish", manifest.get("title"), tag)))
    about = f"{manifest['rows']} images; data digest {manifest['digest']}"
    try:
        return repository.commit(additions, plan.delete, title, about, parent)
    except Moved as moved:
        wrong = pushplan.differences(mine, repository.tree(moved.head), plan.delete)
        if not wrong:
            return moved.head  # this very commit, whose answer got lost
        raise BuildError(
            f"somebody else committed to {repository.name} in the meantime ({moved.head[:12]}, after {str(parent)[:12]}); "
            f"nothing of it was overwritten and no tag was made. Look at {repository.url}/commits/{repository.branch}, then "
            "run the same command again: what was sent does not travel twice"
        ) from None


def _read_back(
    folder: Path,
    repository: Repository,
    commit: str,
    mine: Mapping[str, Mine],
    manifest: Mapping[str, Any],
    audit: Audit,
) -> readback.Read:
    """Rows streamed and hashed, every config loaded as users will, and a sample judged again."""
    views = manifest["views"]
    view = "equalized" if "equalized" in views else next(iter(views))  # what the gate looks at
    sample = folder.with_name(folder.name + ".read-back")
    shutil.rmtree(sample, ignore_errors=True)  # of a push that was killed
    try:
        read = readback.read_back(
            {path: file.nbytes for path, file in mine.items()}, lambda path: repository.open(path, commit),
            repository.ask, str(manifest["digest"]), sample, view, sum(views[view].values()),
        )  # fmt: skip
        loaded = repository.loads(commit)
        for name, splits in views.items():
            wanted = {split for split, rows in splits.items() if rows}
            if {split for split, row in loaded.get(name, {}).items() if row} != wanted:
                found = ", ".join(loaded.get(name, {})) or "nothing"
                raise BuildError(
                    f"{repository.name}: load_dataset finds {found} in '{name}' at {commit[:12]}, not "
                    f"{', '.join(sorted(wanted))}; nothing was tagged. Look at the card's front matter there"
                )
        if read.sampled and (fault := audit(sample, read.complete)):
            raise BuildError(f"{repository.name} at {commit[:12]}: {fault}; nothing was tagged")
    finally:
        shutil.rmtree(sample, ignore_errors=True)
    return read


def _some(paths: tuple[str, ...]) -> str:
    return ", ".join(paths[:3]) + (", …" if len(paths) > 3 else "")
