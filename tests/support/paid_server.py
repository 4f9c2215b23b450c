"""Image services on this machine that speak OpenAI's and Google's protocols and do everything wrong that a real one can."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from imaginet_build.records import random_of

KEY = "sk-proj-THE-SECRET-0123456789"


def picture(prompt: str, size: str) -> bytes:
    """What the honest server draws: smooth noise that the prompt alone decides."""
    width, height = map(int, size.split("x"))
    coarse = random_of(prompt, "served").integers(0, 256, (5, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def answer(data: bytes | str) -> dict:
    text = data if isinstance(data, str) else base64.b64encode(data).decode()
    return {
        "created": 1,
        "data": [{"b64_json": text}],
        "usage": {"input_tokens": 10, "output_tokens": 100, "total_tokens": 110},
    }


def problem(code: str | None, message: str = "no", kind: str = "image_generation_user_error", param: str | None = None) -> dict:
    return {"error": {"code": code, "message": f"{message} (you sent {KEY})", "type": kind, "param": param}}


def gemini_answer(data: bytes, reason: str = "STOP") -> dict:
    part = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(data).decode()}}
    return {
        "candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": reason}],
        "usageMetadata": {
            "promptTokenCount": 10,
            "candidatesTokenCount": 1120,
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}],
            "thoughtsTokenCount": 30,
            "totalTokenCount": 1160,
        },
    }


class Server(ThreadingHTTPServer):
    """`script[prompt]`: what happens to the first, second, ... request for it; honest work after that and otherwise.

    `billed`: how often each prompt was drawn for money. `batches`, `files`: what was submitted; a batch is drawn when it is
    asked for the `slow`-th time, its rows as `rows(batch, requests)` says.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: dict[str, list] = {}
        self.asked: list[dict] = []
        self.times: list[float] = []
        self.keys: set[str] = set()
        self.billed: Counter[str] = Counter()
        self.running = self.most = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.polls: Counter[str] = Counter()
        self.slow = 2
        self.status = "completed"
        self.paths: list[str] = []
        self.on_path: dict[str, list] = {}
        self.rows = lambda requests: [self.row(request) for request in requests]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def row(self, request: dict) -> dict:
        """An honest row of a batch's answer."""
        body = request["body"]
        self.billed[body["prompt"]] += 1
        drawn = answer(picture(body["prompt"], body["size"]))
        return {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": drawn}, "error": None}

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the tests."""


@contextmanager
def serving():
    served = Server()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        served.closing.set()
        served.shutdown()
        thread.join()
        served.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_):
        pass

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        with self.server.lock:
            self.server.paths.append(path)
            self.server.keys.add(self.headers["Authorization"] or self.headers["x-goog-api-key"])
            acts = self.server.on_path.get(path, [])
            act = acts.pop(0) if acts else None
        if act is not None and act(self, data) != "go on":
            return
        if path == "/v1/images/generations":
            asked = json.loads(data)
            self.draw(asked, asked["prompt"], lambda: answer(picture(asked["prompt"], asked["size"])))
        elif path.endswith(":generateContent"):
            asked = json.loads(data)
            prompt = asked["contents"][0]["parts"][0]["text"]
            self.draw(asked, prompt, lambda: gemini_answer(picture(prompt, "64x48")))
        elif path == "/v1/files":
            name = f"file-{len(self.server.files)}"
            self.server.files[name] = data
            self.reply(200, {"id": name, "object": "file", "bytes": len(data), "created_at": 1, "filename": "x.jsonl",
                             "purpose": "batch", "status": "processed"})  # fmt: skip
        elif path == "/v1/batches":
            self.reply(200, self.begin(json.loads(data)))
        elif path.startswith("/upload/v1"):
            here = f"http://127.0.0.1:{self.server.server_address[1]}/upload/session"
            self.reply(200, {}, [("X-Goog-Upload-URL", here), ("X-Goog-Upload-Status", "active")])
        elif path == "/upload/session":
            name = f"files/{len(self.server.files)}"
            self.server.files[name] = data
            self.reply(200, {"file": {"name": name}}, [("X-Goog-Upload-Status", "final")])
        elif path.endswith(":batchGenerateContent"):
            asked = json.loads(data)["batch"]
            name = f"batches/{len(self.server.batches)}"
            state = {"displayName": asked["displayName"], "state": "BATCH_STATE_PENDING"}
            self.server.batches[name] = {"name": name, "metadata": state, "input": asked["inputConfig"]["fileName"]}
            self.reply(200, {"name": name, "metadata": state})
        else:
            self.reply(404, problem(None))

    def do_GET(self):
        path = self.path.partition("?")[0]
        with self.server.lock:
            self.server.paths.append(path)
            acts = self.server.on_path.get(path, [])
            act = acts.pop(0) if acts else None
        if act is not None and act(self, b"") != "go on":
            return
        if self.headers["x-goog-api-key"]:
            return self.google(path.partition("/v1")[2].partition("/")[2])
        kind, _, name = path.removeprefix("/v1/").partition("/")
        if path == "/v1/batches":
            self.reply(200, {"object": "list", "data": list(self.server.batches.values()), "has_more": False})
        elif kind == "batches" and name in self.server.batches:
            self.reply(200, self.look(self.server.batches[name]))
        elif kind == "files" and name.endswith("/content"):
            self.reply(200, self.server.files[name.removesuffix("/content")], kind="application/octet-stream")
        else:
            self.reply(404, problem(None))

    def google(self, name):
        if name == "batches":
            return self.reply(200, {"operations": list(self.server.batches.values())})
        if name.endswith(":download"):
            return self.reply(200, self.server.files[name.removesuffix(":download")], kind="application/octet-stream")
        batch = self.server.batches[name]
        self.server.polls[name] += 1
        if self.server.polls[name] == self.server.slow:
            rows = self.server.rows([json.loads(line) for line in self.server.files[batch["input"]].splitlines()])
            self.server.files["files/out"] = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
            batch["metadata"] |= {"state": self.server.status, "output": {"responsesFile": "files/out"}}
        return self.reply(200, batch)

    def draw(self, asked, prompt, honest):
        with self.server.lock:
            self.server.asked.append(asked)
            self.server.times.append(time.monotonic())
            self.server.running += 1
            self.server.most = max(self.server.most, self.server.running)
            plan = self.server.script.get(prompt, self.server.script.get("*", []))
            act = plan.pop(0) if plan else None
            if act is None or getattr(act, "bills", False):
                self.server.billed[prompt] += 1
        try:
            act(self, asked) if act else self.reply(200, honest())
        finally:
            with self.server.lock:
                self.server.running -= 1

    def begin(self, asked):
        name = f"batch_{len(self.server.batches)}"
        made = {"id": name, "object": "batch", "status": "validating", "created_at": int(time.time())}
        made |= {key: asked[key] for key in ("endpoint", "completion_window", "input_file_id", "metadata")}
        self.server.batches[name] = made
        return made

    def look(self, batch):
        self.server.polls[batch["id"]] += 1
        if self.server.polls[batch["id"]] == self.server.slow:
            upload = self.server.files[batch["input_file_id"]]
            requests = [json.loads(line) for line in upload.splitlines() if line.startswith(b'{"custom_id"')]
            batch["status"], rows = self.server.status, self.server.rows(requests)
            good = [row for row in rows if isinstance(row, bytes) or not row.get("error")]
            for key, some in (("output_file_id", good), ("error_file_id", [row for row in rows if row not in good])):
                if some:
                    batch[key] = f"{batch['id']}-{key}"
                    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in some]
                    self.server.files[batch[key]] = b"".join(line + b"\n" for line in lines)
        elif self.server.polls[batch["id"]] < self.server.slow:
            batch["status"] = "in_progress"
        return batch

    def reply(self, status, body, headers=(), kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def says(status, body, *headers, kind="application/json"):
    def act(handler, asked):
        handler.reply(status, body, headers, kind)

    act.bills = status == 200
    return act


def drops(handler, asked):
    handler.close_connection = True
    handler.connection.shutdown(2)


def drops_in_the_body(handler, asked):
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')
    drops(handler, asked)


def drips(handler, asked):
    """One byte now and then: no single read takes long, the whole does."""
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    for _ in range(100):
        if not handler.server.closing.wait(0.05):
            handler.wfile.write(b" ")


def waits(seconds):
    def act(handler, asked):
        handler.server.closing.wait(seconds)
        handler.reply(200, answer(picture(asked["prompt"], asked["size"])))

    act.bills = True
    return act


for _act in (drops, drops_in_the_body, drips):
    _act.bills = True
