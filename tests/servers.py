"""Real servers on loopback for the tests of the API backend: `transformers serve`, and one that fails on request."""

from __future__ import annotations

import functools
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from harness.models import TINY


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class TransformersServe:
    """`transformers serve` of a folder, which takes a quarter of a minute to start: `base` waits for it."""

    def __init__(self, log: Path, model: Path = TINY) -> None:
        self.log, self.port = log, free_port()
        program = str(Path(sys.executable).with_name("transformers"))
        command = [program, "serve", str(model), "--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu"]
        env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with open(log, "wb") as out:
            self.process = subprocess.Popen([*command, "--dtype", "float32"], stdout=out, stderr=out, env=env)

    @functools.cached_property
    def base(self) -> str:
        """The address, once the server answers."""
        for _ in range(480):
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                    return f"http://127.0.0.1:{self.port}/v1"
            except OSError:
                time.sleep(0.25)
        raise AssertionError(f"transformers serve did not start:\n{self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def completion(content: str | None, *, finish: str = "stop", tokens: int = 3, **message: object) -> dict[str, object]:
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "served-model",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens},
    }  # fmt: skip


class Says(NamedTuple):
    """A status with a body of one's own: how a vendor words its errors."""

    status: int
    body: dict[str, object]


class Handler(BaseHTTPRequestHandler):
    """Does what the server's plan says: a status, "drop", "hang", seconds to take, a reply, or what a function of the request
    gives; "fine" when it is used up."""

    protocol_version = "HTTP/1.1"
    server: FaultServer

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            self.server.hits.append(json.loads(body))
            self.server.times.append(time.monotonic())
            self.server.open += 1
            self.server.peak = max(self.server.peak, self.server.open)
            step = self.server.plan.pop(0) if self.server.plan else self.server.otherwise
        try:
            if callable(step):
                with self.server.thinking:  # not under `lock`: who arrives meanwhile is counted
                    step = step(json.loads(body))
            self.answer(step)
        except OSError:
            self.close_connection = True  # the client has gone
        finally:
            with self.server.lock:
                self.server.open -= 1

    def answer(self, step: object) -> None:
        headers: dict[str, str] = {}
        status = 200
        if isinstance(step, Says):
            status, step = step
        elif isinstance(step, tuple):
            step, headers = step
        if step == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if step == "hang":
            self.server.released.wait(30)
            self.close_connection = True
            return
        if isinstance(step, float):
            time.sleep(step)
            step = completion("fine")
        if isinstance(step, int):
            status = step
            # vendors do quote the key back
            step = {"error": {"message": f"status {step}, you sent {self.headers['authorization']}", "type": "t", "code": "c"}}
        data = json.dumps(step).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class FaultServer(ThreadingHTTPServer):
    """An OpenAI-compatible server on loopback that fails as planned."""

    daemon_threads = True

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        """`certificate`: files of a certificate and its key, for a server that speaks TLS."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.lock = threading.Lock()
        self.thinking = threading.Lock()  # functions of a request are asked one at a time
        self.released = threading.Event()
        self.plan: list[object] = []
        self.otherwise: object = completion("fine")
        self.hits: list[dict[str, object]] = []
        self.times: list[float] = []
        self.open = self.peak = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def base(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/v1"

    def stop(self) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()
