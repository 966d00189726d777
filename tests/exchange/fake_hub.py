"""A Hub on loopback: as much of its protocol as creating a repository and committing small files to it takes."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager

from loopback import Answering, Server

COMMIT = "c" * 40


class Hub(Server):
    """What was committed, by repository and path; a `status` other than 200 refuses every commit."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.summaries: list[str] = []
        self.tokens: set[str | None] = set()
        self.status = 200


class _Handler(Answering):
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
            self.answer(200, {"url": f"{self.server.address}/{kind}{name}"})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [
                {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif path.endswith("/commit/main"):
            self._commit(path, body)
        else:
            self.answer(404, {"error": f"no {path}"})

    def do_GET(self) -> None:
        self.answer(200, {"sha": COMMIT, "siblings": [], "id": "me/toy", "private": False, "tags": []})

    def _commit(self, path: str, body: bytes) -> None:
        if self.server.status != 200:
            self.answer(self.server.status, {"error": "You may not write here"})
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
        self.answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": address})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


@contextmanager
def hub() -> Iterator[Hub]:
    """A Hub for the time of a test."""
    server = Hub()
    with server.running():
        yield server
