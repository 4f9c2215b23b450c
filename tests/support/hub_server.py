"""A Hub on 127.0.0.1, as much of it as data sets take: reading, writing, history, large files, and faults when asked for.

`with running() as hub` is an empty one that takes the token `hub.token`; `with served(root) as address` serves the folders
below `root` as the public data sets `lab/<folder>`. Everything is in memory. Written from the calls that the true clients
make; large files are handed out from another host name, as on the Hub, since clients look for headers on the redirect.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef" * 2 + "01234567"
"""The commit of every data set of `served`."""

LARGE = re.compile(r"\.(parquet|jpg|png|zip|bin)$")
"""What goes to the store of large files; everything else is a file of the repository's own."""

CALLS = (
    ("whoami", "GET", r"/api/whoami-v2"),
    ("create", "POST", r"/api/repos/create"),
    ("validate", "POST", r"/api/validate-yaml"),
    ("preupload", "POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/preupload/(?P<rev>[^/]+)"),
    ("commit", "POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/commit/(?P<rev>[^/]+)"),
    ("tag", "POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/tag/(?P<rev>[^/]+)"),
    ("branch", "POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/branch/(?P<rev>[^/]+)"),
    ("settings", "PUT", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/settings"),
    ("paths", "POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<rev>[^/]+)"),
    ("tree", "GET", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/tree/(?P<rev>[^/]+)/?(?P<path>.*)"),
    ("info", "GET", r"/api/datasets/(?P<repo>[^/]+/[^/]+)(/revision/(?P<rev>[^/]+))?"),
    ("resolve", "GET", r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)"),
    ("batch", "POST", r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch"),
    ("verify", "POST", r"/objects/verify"),
    ("put", "PUT", r"/objects/(?P<oid>[0-9a-f]{64})(/(?P<part>\d+))?"),
    ("complete", "POST", r"/objects/(?P<oid>[0-9a-f]{64})/complete"),
    ("get", "GET", r"/objects/(?P<oid>[0-9a-f]{64})"),
)
"""Name, method and path of everything that is answered; the names are those that faults are asked for by."""


@dataclass
class Commit:
    oid: str
    parent: str | None
    title: str
    files: dict[str, bytes]


@dataclass
class Repo:
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def add(self, title: str, files: Mapping[str, bytes], branch: str = "main", oid: str | None = None) -> Commit:
        """A commit on top of a branch."""
        parent = self.branches.get(branch)
        number = f"{self.name} {len(self.commits)} {title}"
        commit = Commit(oid or hashlib.sha1(number.encode()).hexdigest(), parent, title, dict(files))
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def history(self, branch: str = "main") -> list[Commit]:
        """The commits of a branch, the first one first."""
        found, oid = [], self.branches[branch]
        while oid:
            found.append(self.commits[oid])
            oid = found[-1].parent or ""
        return found[::-1]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The files of a revision that a person put there."""
        commit = self.find(revision)
        assert commit is not None
        return {path: data for path, data in commit.files.items() if path != ".gitattributes"}


@dataclass
class Fault:
    """What happens to calls of one name. `what`: a status code; `drop` (no answer, and nothing is done), `lost` (done, but
    no answer), `late` (done, and the answer is 504), `cut` (half the body), `unseen` (no such data set), `stale` (somebody
    else commits first)."""

    call: str
    what: str
    times: int
    after: int


@dataclass
class Hub:
    """What the server knows. `faults` are used up in order; `calls` counts what was asked, `sent` the large files received."""

    address: str = ""
    token: str = "hf_StandInTokenOfTheTests0123456789"
    user: str = "me"
    page: int = 1000
    retry_after: str = "0"
    chunk: int | None = None
    large: re.Pattern[str] = LARGE
    cut: str = ""
    """Files of this name are handed out with fewer bytes than announced."""
    ignored: str = ""
    """Files of this name are in the repository's .gitignore: clients leave them out without a word."""
    spoiled: bytes = b""
    """These bytes are handed out otherwise, wherever they stand."""
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, str], bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    open: int = 0
    """Connections that are served."""
    closed: threading.Condition = field(default_factory=threading.Condition)

    def quiet(self) -> None:
        """Wait until whatever clients sent that are gone is dealt with."""
        with self.closed:
            assert self.closed.wait_for(lambda: not self.open, timeout=120)

    def fault(self, call: str, what: str | int, times: int = 1, after: int = 0) -> None:
        """The next `times` calls of this name, once `after` have gone through, end so."""
        self.faults.append(Fault(call, str(what), times, after))

    def struck(self, call: str) -> str:
        """The fault that this call meets, or nothing."""
        with self.lock:
            self.calls.append(call)
            for fault in self.faults:
                if fault.call == call and fault.times:
                    if fault.after:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault.what
        return ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub
    fault = ""

    def handle(self) -> None:
        with self.hub.closed:
            self.hub.open += 1
        try:
            super().handle()
        finally:
            with self.hub.closed:
                self.hub.open -= 1
                self.hub.closed.notify_all()

    def handle_one(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        body = self.body()  # always read first: a reply before that would break the connection
        method = "GET" if self.command == "HEAD" else self.command
        known = ((name, re.fullmatch(pattern, parts.path)) for name, wanted, pattern in CALLS if wanted == method)
        call, found = next(((name, match) for name, match in known if match), ("", None))
        if found is None:
            return self.say(404, {"error": f"no such call: {self.command} {parts.path}"})
        self.fault = self.hub.struck(call)
        if self.fault == "drop":
            return self.hang_up()
        if self.fault.isdigit():
            extra = {"Retry-After": self.hub.retry_after} if self.fault == "429" else {}
            return self.say(int(self.fault), {"error": "as was asked"}, **extra)
        if self.fault == "unseen":
            return self.missing("RepoNotFound")
        given = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
        with self.hub.lock:
            if call not in ("put", "get", "complete", "verify") and not self.allowed(call, given):
                return None
            answer = getattr(self, f"on_{call}")
            return answer(body, **given)

    do_GET = do_POST = do_PUT = do_HEAD = handle_one

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def allowed(self, call: str, given: Mapping[str, str]) -> bool:
        """Whoever has the token may do everything; without one, public data sets may be read."""
        told = self.headers.get("Authorization", "")
        if told == f"Bearer {self.hub.token}":
            return True
        repo = self.hub.repos.get(given.get("repo", ""))
        if not told and repo and not repo.private and call in ("tree", "info", "resolve", "paths"):
            return True
        why = "Invalid credentials in Authorization header" if told else "Invalid username or password."
        self.say(401, {"error": why}, **{"X-Error-Message": why})
        return False

    # --- answers -------------------------------------------------------------------------------------------------------

    def say(self, code: int, document: object, **headers: str) -> None:
        self.reply(code, json.dumps(document).encode(), **({"Content-Type": "application/json"} | headers))

    def reply(self, code: int, body: bytes, **headers: str) -> None:
        if self.fault == "lost" and code < 400:
            return self.hang_up()
        if self.fault == "late" and code < 400:
            self.fault = ""
            return self.say(504, {"error": "the gateway grew tired of waiting"})
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return None
        short = self.fault == "cut" or (self.hub.cut and self.hub.cut in self.path and "/resolve/" in self.path)
        self.wfile.write(body[: len(body) // 2] if short else body)
        self.close_connection = self.close_connection or bool(short)
        return None

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def missing(self, code: str) -> None:
        self.say(404, {"error": code}, **{"X-Error-Code": code, "X-Error-Message": code})

    def found(self, repo: str, rev: str = "main") -> tuple[Repo, Commit] | None:
        place = self.hub.repos.get(repo)
        commit = place.find(rev) if place else None
        if place is None or commit is None:
            self.missing("RepoNotFound" if place is None else "RevisionNotFound")
            return None
        return place, commit

    # --- calls ---------------------------------------------------------------------------------------------------------

    def on_whoami(self, body: bytes) -> None:
        self.say(200, {"type": "user", "name": self.hub.user, "orgs": []})

    def on_create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        document = {"url": f"{self.hub.address}/datasets/{name}", "name": name}
        if name.partition("/")[0] != self.hub.user:
            return self.say(403, {"error": f"You don't have the rights to create a dataset under {name}"})
        if name in self.hub.repos:
            return self.say(409, document | {"error": "You already created this dataset repo"})
        private = asked.get("private", asked.get("visibility") == "private")
        self.hub.repos[name] = Repo(name, bool(private))
        self.hub.repos[name].add("initial commit", {".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"})
        self.say(200, document)

    def on_validate(self, body: bytes) -> None:
        self.say(200, {"errors": [], "warnings": []})

    def on_preupload(self, body: bytes, repo: str, rev: str) -> None:
        if place := self.found(repo, rev):
            rows = []
            for asked in json.loads(body)["files"]:
                path, old = asked["path"], place[1].files.get(asked["path"])
                mode = "lfs" if self.hub.large.search(path) else "regular"
                oid = None if old is None else sha256(old) if mode == "lfs" else blob(old)
                rows.append(
                    {
                        "path": path,
                        "uploadMode": mode,
                        "shouldIgnore": bool(self.hub.ignored) and self.hub.ignored in path,
                        **({"oid": oid} if oid else {}),
                    }
                )
            self.say(200, {"files": rows, "commitOid": place[1].oid})

    def on_batch(self, body: bytes, repo: str) -> None:
        rows = []
        for asked in json.loads(body)["objects"]:
            oid, row = asked["oid"], {"oid": asked["oid"], "size": asked["size"]}
            if oid not in self.hub.objects:
                upload: dict[str, Any] = {"href": f"{self.hub.address}/objects/{oid}"}
                if self.hub.chunk and asked["size"] > self.hub.chunk:
                    numbers = range(1, -(-asked["size"] // self.hub.chunk) + 1)
                    header = {str(n): f"{upload['href']}/{n}" for n in numbers}
                    upload = {"href": f"{upload['href']}/complete", "header": header | {"chunk_size": str(self.hub.chunk)}}
                row["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.address}/objects/verify"}}
            rows.append(row)
        self.say(200, {"transfer": "basic", "objects": rows}, **{"Content-Type": "application/vnd.git-lfs+json"})

    def on_put(self, body: bytes, oid: str, part: str | None = None) -> None:
        if part is not None:
            self.hub.parts[oid, part] = body
        elif sha256(body) != oid:
            return self.say(400, {"error": "the bytes are not those announced"})
        else:
            self.hub.objects[oid] = body
            self.hub.sent.append(oid)
        self.reply(200, b"", ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def on_complete(self, body: bytes, oid: str) -> None:
        data = b"".join(self.hub.parts.pop((oid, str(part["partNumber"]))) for part in json.loads(body)["parts"])
        self.on_put(data, oid)

    def on_verify(self, body: bytes) -> None:
        asked = json.loads(body)
        data = self.hub.objects.get(asked["oid"])
        self.say(200 if data is not None and len(data) == asked["size"] else 404, {})

    def on_commit(self, body: bytes, repo: str, rev: str) -> None:
        if not (place := self.found(repo, rev)):
            return None
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        head = lines[0]["value"]
        if self.fault == "stale":
            place[0].add("somebody else", place[1].files | {"notes.txt": b"not of the release"}, rev)
        tip = place[0].branches[rev]
        if head.get("parentCommit") not in (None, tip):
            return self.say(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(place[0].commits[tip].files)
        for line in lines[1:]:
            told = line["value"]
            if line["key"] == "file":
                data = told["content"].encode()
                files[told["path"]] = base64.b64decode(data) if told.get("encoding") == "base64" else data
            elif line["key"] == "lfsFile" and told["oid"] in self.hub.objects:
                files[told["path"]] = self.hub.objects[told["oid"]]
            elif line["key"] == "deletedFile" and told["path"] in files:
                del files[told["path"]]
            else:
                return self.say(400, {"error": f"cannot be done: {line['key']} {told.get('path')}"})
        commit = place[0].add(head["summary"], files, rev)
        url = f"{self.hub.address}/datasets/{repo}/commit/{commit.oid}"
        self.say(200, {"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def on_tag(self, body: bytes, repo: str, rev: str) -> None:
        if place := self.found(repo, rev):
            name = json.loads(body)["tag"]
            if name in place[0].tags:
                return self.say(409, {"error": "Tag reference exists already"})
            place[0].tags[name] = place[1].oid
            self.say(200, {})

    def on_branch(self, body: bytes, repo: str, rev: str) -> None:
        asked = json.loads(body or b"{}")
        if place := self.found(repo, asked.get("startingPoint") or "main"):
            if rev in place[0].branches:
                return self.say(409, {"error": "Reference already exists"})
            place[0].branches[rev] = place[1].oid
            self.say(200, {})

    def on_settings(self, body: bytes, repo: str) -> None:
        if place := self.found(repo):
            asked = json.loads(body)
            place[0].private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.say(200, asked)

    def on_info(self, body: bytes, repo: str, rev: str = "main") -> None:
        if place := self.found(repo, rev):
            siblings = [{"rfilename": path} for path in sorted(place[1].files)]
            said = {"_id": "1", "id": repo, "sha": place[1].oid, "private": place[0].private, "tags": [], "siblings": siblings}
            self.say(200, said | {"downloads": 0, "likes": 0, "disabled": False, "gated": False})

    def on_tree(self, body: bytes, repo: str, rev: str, path: str = "") -> None:
        if not (place := self.found(repo, rev)):
            return None
        rows = self.entries(place[1].files, path, self.query.get("recursive", ["false"])[0].lower() in ("true", "1"))
        if path and not rows:
            return self.missing("EntryNotFound")
        start = int(self.query.get("cursor", ["0"])[0])
        end = start + self.hub.page
        recursive = self.query.get("recursive", ["false"])[0]
        here = f"{self.hub.address}{urlsplit(self.path).path}?recursive={recursive}&cursor={end}"
        self.say(200, rows[start:end], **({"Link": f'<{here}>; rel="next"'} if end < len(rows) else {}))

    def on_paths(self, body: bytes, repo: str, rev: str) -> None:
        if place := self.found(repo, rev):
            told = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
            files = place[1].files
            folders = {str(parent) for path in files for parent in Path(path).parents}
            rows = [self.entry(p, files[p]) for p in told["paths"] if p in files]
            rows += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in told["paths"] if p in folders]
            self.say(200, rows)

    def entries(self, files: Mapping[str, bytes], below: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{below.rstrip('/')}/" if below else ""
        rows: dict[str, dict[str, Any]] = {}
        for path in sorted(path for path in files if path.startswith(prefix)):
            names = path[len(prefix) :].split("/")
            for depth in range(1, len(names) if recursive else min(2, len(names))):
                folder = prefix + "/".join(names[:depth])
                rows[folder] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder}
            if recursive or len(names) == 1:
                rows[path] = self.entry(path, files[path])
        return list(rows.values())

    def entry(self, path: str, data: bytes) -> dict[str, Any]:
        row = {"type": "file", "oid": blob(data), "size": len(data), "path": path}
        if self.hub.large.search(path):
            row["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 133}
        return row

    def on_resolve(self, body: bytes, repo: str, rev: str, path: str) -> None:
        if not (place := self.found(repo, rev)):
            return None
        data = place[1].files.get(path)
        if data is None:
            return self.missing("EntryNotFound")
        known = {"X-Repo-Commit": place[1].oid, "Accept-Ranges": "bytes"}
        if not self.hub.large.search(path):
            return self.hand_out(data, ETag=f'"{blob(data)}"', **known)
        oid = sha256(data)
        self.hub.objects[oid] = data
        elsewhere = self.hub.address.replace("127.0.0.1", "localhost")
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid}"', "Location": f"{elsewhere}/objects/{oid}"}
        return self.reply(302, b"", **known, **linked)

    def on_get(self, body: bytes, oid: str) -> None:
        self.hand_out(self.hub.objects[oid], ETag=f'"{oid}"')

    def hand_out(self, data: bytes, **headers: str) -> None:
        if self.hub.spoiled:
            data = data.replace(self.hub.spoiled, self.hub.spoiled[::-1])
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not span:
            return self.reply(200, data, **headers)
        start, end = int(span[1]), min(int(span[2] or len(data) - 1), len(data) - 1)
        if start >= len(data):
            return self.reply(416, b"", **{"Content-Range": f"bytes */{len(data)}"})
        where = {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
        return self.reply(206, data[start : end + 1], **headers, **where)

    def log_message(self, *words: object) -> None:
        """Quiet."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob(data: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, address: object) -> None:
        """Clients are killed in some tests: a connection that they left is no news."""
        import sys

        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, address)  # type: ignore[arg-type]


@contextmanager
def running(hub: Hub | None = None) -> Iterator[Hub]:
    hub = hub or Hub()
    handler = type("Here", (Handler,), {"hub": hub})
    with Server(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield hub
        server.shutdown()


@contextmanager
def served(root: Path, hub: Hub | None = None) -> Iterator[str]:
    hub = hub or Hub(large=re.compile(r"(?!)"))
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        name = f"lab/{folder.name}"
        hub.repos[name] = Repo(name, private=False)
        hub.repos[name].add("as it lies there", files, oid=COMMIT)
    with running(hub):
        yield hub.address
