"""A server on loopback that speaks as much of the Hub's protocol as `datasets` needs to open a data set."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"

API = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree|paths-info)/(?P<rest>.+))?")
RESOLVE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")

CONFIGS = """configs:
- config_name: sample
  data_files:
  - split: train
    path: sample/train-*.parquet
  - split: test
    path: sample/test-*.parquet
- config_name: other
  data_files:
  - split: train
    path: sample/test-*.parquet
"""
"""Of a data set's card: two configurations, one of them with two splits."""


class Hub(ThreadingHTTPServer):
    """Serves folders as data sets, each at one commit.

    `repositories` maps a name ('someone/some-set') to its folder and `commits` to its commit where that is not
    COMMIT. Of the files of those in `gated` nothing but the card is given. `drops` maps a file's path to the bytes
    of it that are sent, in all answers together, before every connection breaks. When the file `stops_at` is asked
    for, the server is gone. `fails` maps the end of an address to statuses that it is answered with, one each.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Path] = {}
        self.commits: dict[str, str] = {}
        self.gated: set[str] = set()
        self.drops: dict[str, int] = {}
        self.stops_at = ""
        self.fails: dict[str, list[int]] = {}

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that left."""

    def stop(self) -> None:
        """Answer nothing more: whoever connects is refused."""
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection, which is closed after each answer, so that a server that stops has none open."""

    server: Hub

    def log_message(self, *message: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        """Answer with the headers alone."""
        self.answer()

    def do_GET(self) -> None:
        """Answer with the body too."""
        self.answer()

    def do_POST(self) -> None:
        """Answer what is asked of several paths."""
        self.answer()

    def answer(self) -> None:
        """Find what is asked for, and send it or say as the Hub does why not."""
        path = unquote(urlsplit(self.path).path)
        for end, statuses in self.server.fails.items():
            if path.endswith(end) and statuses:
                return self.refuse(statuses.pop(0), "", "")
        asked = API.fullmatch(path) or RESOLVE.fullmatch(path)
        if not asked or asked["repo"] not in self.server.repositories:
            return self.refuse(401, "RepoNotFound", "Repository not found")
        repo = asked["repo"]
        self.folder = self.server.repositories[repo]
        self.commit = self.server.commits.get(repo, COMMIT)
        if "path" in asked.groupdict():
            if asked["revision"] not in (self.commit, "main"):
                return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {asked['revision']}")
            return self.file(repo, asked["path"])
        revision, _, below = (asked["rest"] or "main").partition("/")
        if revision not in (self.commit, "main"):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if asked["what"] == "tree":
            return self.tree(below, "recursive=true" in self.path.lower())
        if asked["what"] == "paths-info":
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            names = [unquote(part.partition("=")[2]) for part in form.split("&") if part.startswith("paths=")]
            return self.json(
                [self.entry(self.folder / name) for name in names if (self.folder / name).exists()]
            )
        files = [{"rfilename": entry["path"]} for entry in self.entries(self.folder, True)]
        self.json({"id": repo, "sha": self.commit, "private": False, "tags": [], "siblings": files})

    def file(self, repo: str, name: str) -> None:
        """Send a file, or the part of it that `Range` asks for."""
        path = self.folder / name
        if repo in self.server.gated and name != "README.md":
            return self.refuse(401, "GatedRepo", f"Access to dataset {repo} is restricted")
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", "Entry not found")
        if name == self.server.stops_at and self.command == "GET":
            return self.server.stop()
        content = path.read_bytes()
        headers = {"ETag": f'"{digest(path)}"', "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not part:
            return self.send(200, content, headers, name)
        begin, end = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        if begin >= len(content):
            return self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
        self.send(206, content[begin : end + 1], headers, name)

    def tree(self, below: str, recursive: bool) -> None:
        """Send the files and folders below a folder."""
        folder = self.folder / below
        if not folder.is_dir():
            return self.refuse(404, "EntryNotFound", f"{below} does not exist on {self.commit}")
        self.json(self.entries(folder, recursive))

    def entries(self, folder: Path, recursive: bool) -> list[dict[str, Any]]:
        """The entries of a folder as the Hub lists them, by order of their names."""
        return [self.entry(path) for path in sorted(folder.rglob("*") if recursive else folder.iterdir())]

    def entry(self, path: Path) -> dict[str, Any]:
        """A file or folder as the Hub lists it."""
        name = path.relative_to(self.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": COMMIT, "size": 0, "path": name}
        return {"type": "file", "oid": digest(path), "size": path.stat().st_size, "path": name}

    def json(self, content: Any) -> None:
        """Send an object of the API."""
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str) -> None:
        """Say in the Hub's headers why not."""
        self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": message} if code else {})

    def send(self, status: int, content: bytes, headers: dict[str, str], name: str = "") -> None:
        """Send an answer, or what `drops` leaves of it."""
        self.send_response(status)
        # As the Hub says to whoever has no token.
        headers |= {
            "X-HF-Warning": "unauthenticated; You are sending unauthenticated requests to the HF Hub."
        }
        if "X-Error-Code" not in headers and status < 400:
            headers["X-Repo-Commit"] = self.commit
        for header, value in {**headers, "Content-Length": str(len(content)), "Connection": "close"}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.server.drops:
            content = content[: self.server.drops[name]]
            self.server.drops[name] -= len(content)
        self.wfile.write(content)


def digest(path: Path) -> str:
    """The digest of a file, as git tells it."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def hub(**repositories: Path) -> Iterator[Hub]:
    """A server of folders as 'someone/NAME' ('_' in NAME is '-') while the context is open."""
    server = Hub()
    server.repositories = {
        f"someone/{name.replace('_', '-')}": folder for name, folder in repositories.items()
    }
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
