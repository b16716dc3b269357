"""A model hub on the loopback: the requests of huggingface_hub that push and load make, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_right"


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class FakeHub:
    def __init__(self) -> None:
        self.models: dict[str, dict] = {}
        self.large: dict[str, bytes] = {}
        self.refusals: dict[str, int] = {}
        self.uploads: list[str] = []
        self.commits: list[dict] = []
        self.asked: list[str] = []

    def branch(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        branches = self.models.get(name, {}).get("branches", {})
        for branch, files in branches.items():
            state = repr(sorted((path, blob_id(content)) for path, content in files.items()))
            commit = hashlib.sha256(f"{name} {state}".encode()).hexdigest()[:40]
            if revision in (branch, commit):
                return commit, files
        return None

    def entries(self, files: dict[str, bytes]) -> list[dict]:
        found = []
        for path, content in files.items():
            entry = {"type": "file", "path": path, "rfilename": path, "size": len(content)}
            entry |= {"oid": blob_id(content), "blobId": blob_id(content)}
            if path.endswith(".safetensors"):
                oid = hashlib.sha256(content).hexdigest()
                lfs = {"oid": oid, "sha256": oid, "size": len(content), "pointerSize": 130}
                entry |= {"oid": "0" * 40, "blobId": "0" * 40, "lfs": lfs}
            found.append(entry)
        return found


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer("GET")

    def do_HEAD(self):
        self.answer("GET")

    def do_POST(self):
        self.answer("POST")

    def do_PUT(self):
        self.answer("PUT")

    def answer(self, method):
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(f"{self.command} {path}")
        for part, status in self.hub.refusals.items():
            if part in path:
                return self.say({"error": "refused by the test"}, status)
        routes = (
            ("POST", r"/api/repos/create", self.create),
            ("POST", r"/api/validate-yaml", lambda: self.say({"errors": [], "warnings": []})),
            ("POST", r"/api/models/(\S+/\S+)/branch/(\S+)", self.make_branch),
            ("POST", r"/api/models/(\S+/\S+)/preupload/(\S+)", self.preupload),
            ("POST", r"/api/models/(\S+/\S+)/commit/(\S+)", self.commit),
            ("POST", r"/(\S+/\S+)\.git/info/lfs/objects/batch", self.batch),
            ("PUT", r"/large/(\w+)", self.put),
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/(\S+)", self.tree),
            ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/(\S+))?", self.info),
            ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(\S+)", self.file),
        )
        for wanted, pattern, route in routes:
            found = re.fullmatch(pattern, path)
            if wanted == method and found:
                return route(*found.groups())
        return self.say({"error": "no such route"}, 404)

    def say(self, value, status=200, **headers):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def allowed(self):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.say({"error": "Invalid username or password."}, 401)
        return False

    def found(self, name, revision="main"):
        model = self.hub.models.get(name)
        hidden = model and model["private"] and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        if model is None or hidden:
            self.say({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return None
        branch = self.hub.branch(name, revision)
        if branch is None:
            self.say({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        return branch

    def create(self):
        if self.allowed():
            asked = json.loads(self.body)
            name = f"{asked.get('organization') or 'ann'}/{asked['name']}"
            url = f"http://{self.headers['Host']}/{name}"
            there = name in self.hub.models
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.hub.models.setdefault(name, {"private": private, "branches": {"main": {}}})
            self.say({"url": url, "name": name, "id": "1"}, 409 if there else 200)

    def make_branch(self, name, revision):
        branches = self.hub.models[name]["branches"]
        there = revision in branches
        branches.setdefault(revision, dict(branches["main"]))
        self.say({}, 409 if there else 200)

    def preupload(self, name, revision):
        if self.allowed():
            files = json.loads(self.body)["files"]
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in files
            ]
            self.say({"files": modes})

    def batch(self, name):
        objects = []
        for each in json.loads(self.body)["objects"]:
            href = f"http://{self.headers['Host']}/large/{each['oid']}"
            upload = {} if each["oid"] in self.hub.large else {"actions": {"upload": {"href": href}}}
            objects.append({"oid": each["oid"], "size": each["size"], **upload})
        self.say({"transfer": "basic", "objects": objects})

    def put(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.large[oid] = self.body
        self.say({})

    def commit(self, name, revision):
        if not self.allowed():
            return
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        files = self.hub.models[name]["branches"][revision]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            if line["key"] == "header":
                self.hub.commits.append({"name": name, "revision": revision, **value})
            else:
                self.hub.uploads.append(value["path"])
        commit, _ = self.hub.branch(name, revision)
        url = f"http://{self.headers['Host']}/{name}/commit/{commit}"
        self.say({"success": True, "commitOid": commit, "commitUrl": url})

    def info(self, name, revision):
        branch = self.found(name, revision or "main")
        if branch:
            commit, files = branch
            private = self.hub.models[name]["private"]
            self.say({"id": name, "sha": commit, "private": private, "siblings": self.hub.entries(files)})

    def tree(self, name, revision):
        branch = self.found(name, revision)
        if branch:
            self.say(self.hub.entries(branch[1]))

    def file(self, name, revision, path):
        branch = self.found(name, revision)
        if branch and path in branch[1]:
            commit, content = branch[0], branch[1][path]
            large = path.endswith(".safetensors")
            etag = hashlib.sha256(content).hexdigest() if large else blob_id(content)
            self.say(content, ETag=f'"{etag}"', X_Repo_Commit=commit)
        elif branch:
            self.say({"error": "no such entry"}, 404, X_Error_Code="EntryNotFound")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    found = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"hub": found}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", found.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    # Large files by git's own protocol: that of Xet is a service of its own.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    def stop():
        if thread.is_alive():
            server.shutdown()
            server.server_close()
            thread.join()

    found.stop = stop
    yield found
    stop()
