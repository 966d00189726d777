"""A Hub on loopback: as much of its protocol as creating a repository and committing small files to it takes."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """What was committed, by repository and path; a `status` other than 200 refuses every commit."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.summaries: list[str] = []
        self.tokens: set[str | None] = set()
        self.status = 200

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_POST(self) -> None:
        body = self._body()
        path, _, _ = self.path.partition("?")
        self.server.tokens.add(self.headers.get("Authorization"))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            kind = "datasets/" if asked.get("type") == "dataset" else ""
            self.server.files.setdefault(name, {})
            self._answer(200, {"url": f"{self.server.address}/{kind}{name}"})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [
                {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif path.endswith("/commit/main"):
            self._commit(path, body)
        else:
            self._answer(404, {"error": f"no {path}"})

    def do_GET(self) -> None:
        self._answer(200, {"sha": COMMIT, "siblings": [], "id": "me/toy", "private": False, "tags": []})

    def _commit(self, path: str, body: bytes) -> None:
        if self.server.status != 200:
            self._answer(self.server.status, {"error": "You may not write here"})
            return
        name = "/".join(path.split("/")[3:5])
        kind = "datasets/" if "/api/datasets/" in path else ""
        for line in body.splitlines():
            told = json.loads(line)
            if told["key"] == "header":
                self.server.summaries.append(told["value"]["summary"])
            elif told["key"] == "file":
                content = base64.b64decode(told["value"]["content"])
                self.server.files.setdefault(name, {})[told["value"]["path"]] = content
        address = f"{self.server.address}/{kind}{name}/commit/{COMMIT}"
        self._answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": address})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub() -> Iterator[Hub]:
    """A Hub for the time of a test."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
