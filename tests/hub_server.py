"""A small Hugging Face Hub on 127.0.0.1, so that the real client can be tested without the real Hub.

It keeps repositories in memory, serves their files, takes commits, asks for tokens, and fails on request.
"""

import base64
import dataclasses
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclasses.dataclass
class Repo:
    """A repository: commits, oldest first, and the branch main, which is the last one."""

    commits: dict[str, Files] = dataclasses.field(default_factory=dict)
    private: bool = False
    gated: bool = False
    messages: list[str] = dataclasses.field(default_factory=list)

    def commit(self, changes: Files, message: str = "") -> str:
        """Add a commit; return its name."""
        files = (list(self.commits.values())[-1] if self.commits else {}) | changes
        name = hashlib.sha1(f"{len(self.commits)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[name] = files
        self.messages.append(message)
        return name

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> Files:
        return self.commits[self.head]


class HubServer(ThreadingHTTPServer):
    """The server; `requests` has method, path and headers of all that it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.tokens = {"hf_reader": "read", "hf_writer": "write"}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.uploads: Files = {}  # large files by SHA-256, before the commit that names them
        self.cut: list[int] = []  # connections to cut while sending weights: after how many bytes
        self.damage = False  # send weights of the right length with a wrong byte

    def asked(self, method: str) -> list[str]:
        """Return the paths that were asked for by a method."""
        return [path for verb, path, _ in self.requests if verb == method]


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    do_GET = do_POST = do_PUT = do_HEAD  # noqa: N815

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, path, dict(self.headers)))
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, path):
                getattr(self, method)(**match.groupdict())
                return
        self._send(404, b"")

    def resolve(self, repo: str, revision: str, file: str) -> None:
        if not (found := self._repo(repo)):
            return
        commit = found.head if revision == "main" else revision
        if commit not in found.commits:
            self._fail(404, "RevisionNotFound")
        elif file not in found.commits[commit]:
            self._fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
        else:
            self._file(file, found.commits[commit][file], commit)

    def _file(self, name: str, content: bytes, commit: str) -> None:
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        status, sent = 200, content
        if given := self.headers.get("Range"):
            start = int(given.removeprefix("bytes=").partition("-")[0])
            status, sent = 206, content[start:]
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET" and name == "model.safetensors":
            if self.server.damage:
                sent = sent[:-1] + bytes([sent[-1] ^ 1])
            if self.server.cut:
                self._headers(status, len(sent), headers)
                self.wfile.write(sent[: self.server.cut.pop(0)])
                self.close_connection = True
                return
        self._send(status, sent, headers)

    def create(self) -> None:
        if not self._may_write():
            return
        given = json.loads(self.body)
        name = f"{given.get('organization') or 'user'}/{given['name']}"
        if name in self.server.repos:
            self._json(409, {"url": f"{self.server.url}/{name}", "error": "exists"})
            return
        private = given.get("visibility") == "private" or given.get("private", False)  # by version of the client
        self.server.repos[name] = Repo(private=private)
        self.server.repos[name].commit({".gitattributes": b""}, "initial commit")
        self._json(200, {"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def info(self, repo: str) -> None:
        if found := self._repo(repo):
            self._json(200, {"id": repo, "private": found.private, "sha": found.head, "siblings": [], "tags": []})

    def preupload(self, repo: str) -> None:
        if self._may_write() and self._repo(repo):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(self.body)["files"]
            ]
            self._json(200, {"files": files})

    def batch(self, repo: str) -> None:
        if self._may_write() and self._repo(repo):
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.server.url}/upload/{item['oid']}"}}}
                for item in json.loads(self.body)["objects"]
            ]
            self._json(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        self.server.uploads[oid] = self.body
        self._send(200, b"")

    def commit(self, repo: str) -> None:
        found = self._repo(repo)
        if not (self._may_write() and found):
            return
        changes, message = {}, ""
        for line in self.body.splitlines():
            item = json.loads(line)
            if item["key"] == "header":
                message = item["value"]["summary"]
            elif item["key"] == "file":
                changes[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            elif item["key"] == "lfsFile":
                changes[item["value"]["path"]] = self.server.uploads[item["value"]["oid"]]
        name = found.commit(changes, message)
        url = f"{self.server.url}/{repo}"
        answer = {"commitOid": name, "commitUrl": f"{url}/commit/{name}"}
        self._json(200, answer | ({"pullRequestUrl": f"{url}/discussions/1"} if "create_pr=1" in self.path else {}))

    def validate(self) -> None:
        self._json(200, {"errors": [], "warnings": []})

    def _repo(self, name: str) -> Repo | None:
        """Return a repository, or answer as the Hub does to those who may not know that it is there."""
        found = self.server.repos.get(name)
        allowed = self._right() is not None
        if found is None or (found.private and not allowed):
            self._fail(404 if allowed else 401, "RepoNotFound")
        elif found.gated and not allowed:
            self._fail(403, "GatedRepo")
        else:
            return found
        return None

    def _right(self) -> str | None:
        return self.server.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _may_write(self) -> bool:
        if self._right() == "write":
            return True
        self._fail(401 if self._right() is None else 403, "")
        return False

    def _fail(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"", {"X-Error-Code": code, **(headers or {})})

    def _json(self, status: int, content: Any) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _headers(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self._headers(status, len(content), headers or {})
        if self.command != "HEAD":
            self.wfile.write(content)


REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES = [
    (rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", "resolve"),
    (r"/api/repos/create", "create"),
    (r"/api/validate-yaml", "validate"),
    (rf"/api/models/{REPO}/preupload/[^/]+", "preupload"),
    (rf"/api/models/{REPO}/commit/[^/]+", "commit"),
    (rf"/api/models/{REPO}(?:/revision/[^/]+)?", "info"),
    (rf"/{REPO}\.git/info/lfs/objects/batch", "batch"),
    (r"/upload/(?P<oid>[0-9a-f]+)", "upload"),
]
