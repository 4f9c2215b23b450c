"""One data set repository of the Hugging Face Hub, written to with patience and never blindly.

The token is found by the Hub's own client, in the environment or where `hf auth login` left it; nothing here sees it. Large
files travel ahead of the commit, group by group, so that the commit is one, small, and all or nothing: readers see the old
release or the new one. A commit whose answer got lost is looked for before it is tried again.
"""

from __future__ import annotations

import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from imaginet_build import __version__
from imaginet_build.destinations.pushplan import Mine, Theirs, groups
from imaginet_build.errors import BuildError, MissingExtra, UsageError

log = logging.getLogger(__name__)
T = TypeVar("T")

GROUP_BYTES = 4_000_000_000
GROUP_FILES = 25
MOST_FILES = 20_000
"""The Hub takes 25,000 large files in one commit."""

_LONGEST_PAUSE = 300.0
_LOGIN = "run hf auth login, or set HF_TOKEN to a token that may write"
_KIND = "dataset"


class Moved(Exception):
    """The branch is no longer where it was: `head` is its commit now."""

    def __init__(self, head: str) -> None:
        super().__init__(head)
        self.head = head


class Repository:
    """`name` is owner/name, or a bare name for one of the user's own, and `branch` what is written to.

    `attempts`, `pause`: how often a call that failed in passing is made, and the seconds before the second time; each pause
    is twice the one before unless the Hub asks for another. Every method raises `BuildError` (`UsageError` as long as
    nothing was sent) in one sentence when the Hub says no, or nothing.
    """

    def __init__(
        self, name: str, branch: str = "main", *, attempts: int = 8, pause: float = 1.0, endpoint: str | None = None
    ) -> None:
        try:
            import datasets  # noqa: F401 - reads the release back
            from huggingface_hub import HfApi
        except ImportError as error:
            raise MissingExtra("publishing to the Hub", str(error.name or "huggingface_hub"), "hub") from None
        if not re.fullmatch(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", name):
            raise UsageError(f"--repo {name}: write it as owner/name")
        self.name, self.branch = name, branch
        self.attempts, self.pause = attempts, pause
        self.started = False
        self._there = False
        self._files: Any = None
        self._api = HfApi(endpoint=endpoint, library_name="imaginet-build", library_version=__version__)

    @property
    def url(self) -> str:
        """Its page."""
        return f"{self._api.endpoint}/datasets/{self.name}"

    def login(self) -> str:
        """The user's name, after the Hub has seen a valid token."""
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            raise UsageError("HF_HUB_OFFLINE is set, so nothing can be published to the Hub: unset it")
        user = str(self.ask("asking who we are", self._api.whoami, attempts=min(self.attempts, 3))["name"])
        if "/" not in self.name:
            self.name = f"{user}/{self.name}"
        return user

    def private(self) -> bool | None:
        """Whether it is private; None where it is not there yet."""
        from huggingface_hub.errors import RepositoryNotFoundError

        def look() -> bool | None:
            try:
                return bool(self._api.dataset_info(self.name).private)
            except RepositoryNotFoundError:
                return None

        return self.ask("looking at it", look)

    def create(self, private: bool) -> bool:
        """Make the repository, and the branch, where they are not there; whether it is private now."""
        api = self._api
        self.ask("creating it", lambda: api.create_repo(self.name, repo_type=_KIND, private=private, exist_ok=True))
        if self.branch != "main" and self.commit_of(self.branch) is None:
            self.ask(
                f"creating the branch {self.branch}",
                lambda: api.create_branch(self.name, branch=self.branch, repo_type=_KIND, exist_ok=True),
            )
        self._there = True
        return bool(self.ask("looking at it", lambda: api.dataset_info(self.name)).private)

    def show(self, private: bool) -> None:
        """Make it public, or private."""
        self.ask(
            "changing who sees it",
            lambda: self._api.update_repo_settings(self.name, repo_type=_KIND, private=private),
        )

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or a tag names; None where there is no such name."""
        from huggingface_hub.errors import RevisionNotFoundError

        def look() -> str | None:
            try:
                return cast(str, self._api.dataset_info(self.name, revision=revision).sha)
            except RevisionNotFoundError:
                return None

        return self.ask(f"looking for {revision}", look)

    def head(self) -> str | None:
        """The commit of the branch."""
        return self.commit_of(self.branch)

    def tree(self, commit: str) -> dict[str, Theirs]:
        """Every file of a commit."""

        def look() -> dict[str, Theirs]:
            rows = self._api.list_repo_tree(self.name, recursive=True, revision=commit, repo_type=_KIND)
            files = [row for row in rows if hasattr(row, "blob_id")]
            return {f.path: Theirs(int(f.size), f.lfs.sha256 if f.lfs else None, f.blob_id) for f in files}

        return self.ask("listing its files", look)

    def read(self, path: str, commit: str) -> bytes:
        """One small file of a commit."""

        def fetch() -> bytes:
            with tempfile.TemporaryDirectory() as place:
                got = self._api.hf_hub_download(self.name, path, revision=commit, repo_type=_KIND, local_dir=place)
                return Path(got).read_bytes()

        return self.ask(f"reading {path}", fetch)

    def open(self, path: str, commit: str) -> IO[bytes]:
        """One file of a commit, read piece by piece as it is asked for."""
        from huggingface_hub import HfFileSystem

        # The file system's own store of instances would keep this listing for the next one who asks.
        self._files = self._files or HfFileSystem(endpoint=self._api.endpoint, skip_instance_cache=True)
        return cast(IO[bytes], self._files.open(f"datasets/{self.name}@{commit}/{path}", "rb", block_size=4 << 20))

    def send(self, folder: Path, mine: Mapping[str, Mine], paths: tuple[str, ...]) -> list[Any]:
        """Bring the content of the large files among `paths` to the Hub, in groups; nothing is visible yet.

        What its store holds already, from a run that was killed or from any other file, does not travel again. Returns the
        additions that `commit` takes.
        """
        from huggingface_hub import CommitOperationAdd

        if len(paths) > MOST_FILES:
            raise UsageError(f"{len(paths)} files are more than a commit can take ({MOST_FILES}): raise publish.rows_per_file")
        additions: list[Any] = []
        total, sent, began = sum(mine[path].nbytes for path in paths), 0, time.monotonic()
        for run in groups(mine, paths, GROUP_BYTES, GROUP_FILES):
            group = [CommitOperationAdd(path, str(folder / path)) for path in run]
            for addition, path in zip(group, run, strict=True):
                addition.upload_info.sha256 = bytes.fromhex(mine[path].sha256)  # hashed a moment ago, from the same file
            self.started = True
            self.ask(f"sending {run[0]}", partial(self._preupload, group))
            additions += group
            sent += sum(mine[path].nbytes for path in run)
            spent = time.monotonic() - began
            log.info(
                "%s: %d of %d files, %.3g of %.3g MB, about %.0f s left",
                self.name, len(additions), len(paths), sent / 1e6, total / 1e6, spent * (total - sent) / max(sent, 1),
            )  # fmt: skip
        return additions

    def _preupload(self, group: list[Any]) -> None:
        self._api.preupload_lfs_files(self.name, group, repo_type=_KIND, revision=self.branch, free_memory=False)

    def commit(self, additions: Sequence[Any], deletions: Sequence[str], message: str, about: str, parent: str | None) -> str:
        """One commit on top of `parent`. Raises `Moved` when the branch is elsewhere: by this commit, whose answer got lost,
        or by somebody else's."""
        from huggingface_hub import CommitOperationDelete

        for attempt in range(self.attempts):
            self.started = True
            operations = [*additions, *(CommitOperationDelete(path, is_folder=False) for path in deletions)]
            try:
                with _quiet():
                    done = self._api.create_commit(
                        self.name, operations, commit_message=message, commit_description=about,
                        repo_type=_KIND, revision=self.branch, parent_commit=parent,
                    )  # fmt: skip
                return str(done.oid)
            except Exception as error:  # whatever its transport raises; the client's errors share no base
                # The Hub may have done it all the same: where the branch stands is what counts.
                if (head := self.head()) is not None and head != parent:
                    raise Moved(head) from None
                self._wait("committing", error, attempt, self.attempts)
        raise AssertionError("the last attempt returns or raises")

    def tag(self, name: str, commit: str) -> None:
        """Give a commit a name; nothing happens when it has it already."""
        from huggingface_hub.errors import HfHubHTTPError

        def name_it() -> None:
            try:
                self._api.create_tag(self.name, tag=name, revision=commit, repo_type=_KIND)
            except HfHubHTTPError as error:
                there = self.commit_of(name) if error.response.status_code == 409 else None
                if there is None:
                    raise
                if there != commit:
                    raise BuildError(
                        f"{self.name}: somebody else gave the name {name} to {there[:12]} in the meantime. The release is "
                        f"there as {commit[:12]}, without a name: look at {self.url}, then choose another --tag"
                    ) from None

        self.ask(f"tagging {name}", name_it)

    def loads(self, commit: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Configuration -> split -> its first row, images as stored: what `load_dataset` makes of a commit."""
        import datasets

        def load() -> dict[str, dict[str, dict[str, Any]]]:
            found: dict[str, dict[str, dict[str, Any]]] = {}
            for config in datasets.get_dataset_config_names(self.name, revision=commit):
                splits = datasets.load_dataset(self.name, config, revision=commit, streaming=True)
                found[config] = {split: next(iter(rows.decode(False)), {}) for split, rows in splits.items()}
            return found

        return self.ask("loading it with the datasets library", load)

    def ask(self, what: str, call: Callable[[], T], attempts: int | None = None) -> T:
        """`call`, again and again as long as it fails in passing. `what` is it doing, for the message."""
        attempts = attempts or self.attempts
        for attempt in range(attempts):
            try:
                with _quiet():
                    return call()
            except BuildError:
                raise
            except Exception as error:  # whatever its transport raises; the client's errors share no base
                self._wait(what, error, attempt, attempts)
        raise AssertionError("the last attempt returns or raises")

    def _wait(self, what: str, error: Exception, attempt: int, attempts: int) -> None:
        """Wait for the next attempt, or say in one sentence why there is none."""
        reason, again = self._reason(error)
        if not again or attempt + 1 >= attempts:
            kept = "; what was sent is kept, and the same command goes on" if self.started else ""
            raise (BuildError if self.started else UsageError)(f"{self.name}: {what}: {reason}{kept}") from None
        pause = min(_asked_pause(error) or self.pause * 2**attempt, _LONGEST_PAUSE)
        log.info("%s: %s: %s; trying again in %.0f s", self.name, what, reason, pause)
        time.sleep(pause)

    def _reason(self, error: BaseException) -> tuple[str, bool]:
        """What went wrong, in words without secrets, and whether another attempt may do better."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError

        while isinstance(error, RuntimeError) and error.__cause__ is not None:  # the client wraps what its threads met
            error = error.__cause__
        if isinstance(error, LocalTokenNotFoundError):
            return f"nobody is logged in at the Hub: {_LOGIN}", False
        if isinstance(error, UnicodeEncodeError):  # of the header that the token goes in; its words would show letters of it
            return f"the token is malformed: a letter in it is none that tokens have; {_LOGIN}", False
        if isinstance(error, HFValidationError):
            return f"the Hub takes no such name ({first_line(error)}): choose another --repo", False
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            if status == 401 and not isinstance(error, RepositoryNotFoundError):
                return f"the Hub refuses the token, which may have expired: {_LOGIN}", False
            if status in (401, 404) and isinstance(error, RepositoryNotFoundError):
                return "the Hub shows no such data set to this token: look at its name and the token's rights", (
                    status == 404 and self._there  # a new one is not seen everywhere at once
                )
            if status == 403:
                return "this token may not write there: take one that may, or another --repo", False
            said = first_line(error.server_message or error)
            return f"the Hub answers {status} ({said})", status in (408, 409, 412, 425, 429) or status >= 500
        if isinstance(error, AssertionError | TypeError | AttributeError | NameError) or getattr(error, "filename", None):
            raise error  # a fault of this program, or of its disk, is no fault of the network
        at = self._api.endpoint
        return f"{at} cannot be reached, or broke off ({type(error).__name__}: {first_line(error)}); is there a network?", True


def _asked_pause(error: BaseException) -> float | None:
    """The seconds that the Hub asks us to wait, if it does."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    said = str(headers.get("Retry-After", ""))
    return float(said) if said.isdigit() else None


def first_line(error: object) -> str:
    """The first line of a message, without what must not be seen: tokens, and the signatures at the end of addresses."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"hf_\w+", "hf_…", re.sub(r"(https?://[^\s'\"?]+)\?[^\s'\"]*", r"\1", lines[0]))[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """The client draws no bars and writes no addresses with signatures; what matters is said here."""
    import datasets
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import logging as said

    level, bars = said.get_verbosity(), not are_progress_bars_disabled()
    more = datasets.utils.logging.get_verbosity(), datasets.utils.are_progress_bars_disabled()
    said.set_verbosity(said.CRITICAL)
    datasets.utils.logging.set_verbosity(said.CRITICAL)
    disable_progress_bars()
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        said.set_verbosity(level)
        datasets.utils.logging.set_verbosity(more[0])
        if bars:
            enable_progress_bars()
        if not more[1]:
            datasets.utils.enable_progress_bars()
