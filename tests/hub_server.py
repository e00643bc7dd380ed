"""A minimal Hugging Face Hub on 127.0.0.1, to test the real client without the real Hub."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPO = r"(?P<repo>[^/]+/[^/]+)"


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
    """The server; `requests` records the method and path of every request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos = {}
        self.requests = []

    def asked(self, method):
        return [path for verb, path in self.requests if verb == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, path))
        for pattern, answer in ROUTES.items():
            if match := re.fullmatch(pattern, path):
                answer(self, **match.groupdict())
                return
        self.send(b"", status=404)

    do_GET = do_POST = do_HEAD  # noqa: N815

    def resolve(self, repo, revision, file):
        found = self.server.repos[repo]
        commit = found.head if revision == "main" else revision
        if commit not in found:
            self.send(b"", {"X-Error-Code": "RevisionNotFound"}, 404)
        elif file not in found[commit]:
            self.send(b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, 404)
        else:
            tag = hashlib.sha256(found[commit][file]).hexdigest()
            self.send(found[commit][file], {"ETag": f'"{tag}"', "X-Repo-Commit": commit})

    def create(self):
        given = json.loads(self.body)
        name = f"{given.get('organization') or 'user'}/{given['name']}"
        known = name in self.server.repos
        if not known:
            self.server.repos[name] = Repo()
            self.server.repos[name].private = given.get("visibility") == "private" or given.get("private", False)
            self.server.repos[name].commit({".gitattributes": b""})
        self.json({"url": f"{self.server.url}/{name}", "name": name, "id": name}, 409 if known else 200)

    def info(self, repo):
        found = self.server.repos[repo]
        self.json({"id": repo, "private": found.private, "sha": found.head, "siblings": [], "tags": []})

    def preupload(self, repo):
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        self.json({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})

    def commit(self, repo):
        items = [json.loads(line) for line in self.body.splitlines()]
        files = [item["value"] for item in items if item["key"] == "file"]
        name = self.server.repos[repo].commit({file["path"]: base64.b64decode(file["content"]) for file in files})
        self.json({"commitOid": name, "commitUrl": f"{self.server.url}/{repo}/commit/{name}"})

    def validate(self):
        self.json({"errors": [], "warnings": []})

    def json(self, content, status=200):
        self.send(json.dumps(content).encode(), {"Content-Type": "application/json"}, status)

    def send(self, content, headers=None, status=200):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


ROUTES = {
    rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)": _Handler.resolve,
    r"/api/repos/create": _Handler.create,
    r"/api/validate-yaml": _Handler.validate,
    rf"/api/models/{REPO}/preupload/[^/]+": _Handler.preupload,
    rf"/api/models/{REPO}/commit/[^/]+": _Handler.commit,
    rf"/api/models/{REPO}(?:/revision/[^/]+)?": _Handler.info,
}
