"""A small hub on the loopback address: the API endpoints that huggingface_hub's `snapshot_download` uses, over folders.

    with Hub({"owner/name": folder}) as hub:
        env = hub.env(tmp_path / "home")        # HF_ENDPOINT and a cache of its own, for a subprocess

HF_ENDPOINT is read when huggingface_hub is imported, so what is tested runs in a subprocess. A repo's commit is a hash of
its files, so a changed file is a new commit, unless `commits` names it. `hub.asked` lists every request.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub:
    def __init__(self, repos: dict[str, Path], commits: dict[str, str] | None = None) -> None:
        self.repos = repos
        self.commits = commits or {}
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def env(self, home: Path, **more: str) -> dict[str, str]:
        """The environment of a process that knows this hub only and caches under `home`."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()}
        return kept | {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"} | more

    def files(self, repo: str) -> dict[str, Path]:
        root = self.repos[repo]
        return {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_file()}

    def commit(self, repo: str) -> str:
        if repo in self.commits:
            return self.commits[repo]
        h = hashlib.sha1()
        for name, path in self.files(repo).items():
            h.update(name.encode() + b"\0" + path.read_bytes())
        return h.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"] and len(parts) >= 4:
            self.api("/".join(parts[2:4]), parts[4:])
        elif parts[0] == "datasets" and len(parts) > 5 and parts[3] == "resolve":
            self.file("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        else:
            self.refuse("EntryNotFound")

    def api(self, repo: str, rest: list[str]) -> None:
        if repo not in self.hub.repos:
            self.refuse("RepoNotFound")
            return
        commit = self.hub.commit(repo)
        if rest and rest[1] not in ("main", commit):
            self.refuse("RevisionNotFound")
        elif rest and rest[0] == "tree":
            entries = [
                {"type": "file", "path": name, "size": p.stat().st_size, "oid": hashlib.sha1(p.read_bytes()).hexdigest()}
                for name, p in self.hub.files(repo).items()
            ]
            self.say(json.dumps(entries).encode())
        else:
            siblings = [{"rfilename": name} for name in self.hub.files(repo)]
            about = {"id": repo, "sha": commit, "private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
            self.say(json.dumps(about | {"tags": [], "siblings": siblings}).encode())

    def file(self, repo: str, revision: str, name: str) -> None:
        if repo not in self.hub.repos or name not in self.hub.files(repo):
            self.refuse("RepoNotFound" if repo not in self.hub.repos else "EntryNotFound")
            return
        data = self.hub.files(repo)[name].read_bytes()
        self.say(data, {"X-Repo-Commit": self.hub.commit(repo), "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def refuse(self, code: str) -> None:
        self.say(b'{"error": "not found"}', {"X-Error-Code": code, "X-Error-Message": code}, status=404)

    def say(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
