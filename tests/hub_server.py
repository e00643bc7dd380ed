"""A minimal Hugging Face Hub on 127.0.0.1, to test the real client without the real Hub."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Repo(dict):
    """Files of each commit, keyed by commit hash; the last commit is `main`."""

    private = False

    def commit(self, changes):
        files = (self[self.head] if self else {}) | changes
        name = hashlib.sha1(f"{len(self)}".encode(), usedforsecurity=False).hexdigest()
        self[name] = files
        return name

    @property
    def head(self):
        return list(self)[-1]

    @property
    def files(self):
        return self[self.head]


class HubServer(ThreadingHTTPServer):
    """The server; `requests` has the method and path of every request, `last` the token and query of the last."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos = {}
        self.requests = []
        self.last = None

    def asked(self, method):
        return [path for verb, path in self.requests if verb == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        repos = self.server.repos
        if path != "/api/agent-harnesses":  # asked for by the client at most once a day
            self.server.requests.append((self.command, path))
            self.server.last = self.headers.get("Authorization"), urlsplit(self.path).query
        match path.strip("/").split("/"):
            case [owner, name, "resolve", revision, *file] if f"{owner}/{name}" in repos:
                self.resolve(repos[f"{owner}/{name}"], revision, "/".join(file))
            case ["api", "repos", "create"]:
                self.create(json.loads(body))
            case ["api", "validate-yaml"]:
                self.json({"errors": [], "warnings": []})
            case ["api", "models", owner, name, "preupload", _]:
                paths = [file["path"] for file in json.loads(body)["files"]]
                self.json({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})
            case ["api", "models", owner, name, "commit", _]:
                self.commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])
            case ["api", "models", owner, name, *_]:
                found = repos[f"{owner}/{name}"]
                about = {"private": found.private, "sha": found.head, "siblings": [], "tags": []}
                self.json({"id": f"{owner}/{name}", **about})
            case _:
                self.send(b"", {"X-Error-Code": "RepoNotFound"}, 404)

    do_GET = do_POST = do_HEAD  # noqa: N815

    def resolve(self, repo, revision, file):
        commit = repo.head if revision == "main" else revision
        if commit not in repo:
            self.send(b"", {"X-Error-Code": "RevisionNotFound"}, 404)
        elif file not in repo[commit]:
            self.send(b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, 404)
        else:
            tag = hashlib.sha256(repo[commit][file]).hexdigest()
            self.send(repo[commit][file], {"ETag": f'"{tag}"', "X-Repo-Commit": commit})

    def create(self, given):
        name = f"{given.get('organization') or 'user'}/{given['name']}"
        known = name in self.server.repos
        if not known:
            self.server.repos[name] = Repo()
            self.server.repos[name].private = given.get("visibility") == "private" or given.get("private", False)
            self.server.repos[name].commit({".gitattributes": b""})
        self.json({"url": f"{self.server.url}/{name}", "name": name, "id": name}, 409 if known else 200)

    def commit(self, repo, items):
        files = [item["value"] for item in items if item["key"] == "file"]
        name = self.server.repos[repo].commit({file["path"]: base64.b64decode(file["content"]) for file in files})
        at = f"{self.server.url}/{repo}"
        self.json({"commitOid": name, "commitUrl": f"{at}/commit/{name}", "pullRequestUrl": f"{at}/discussions/1"})

    def json(self, content, status=200):
        self.send(json.dumps(content).encode(), {"Content-Type": "application/json"}, status)

    def send(self, content, headers=None, status=200):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
