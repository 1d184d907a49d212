"""A stand-in for the Hugging Face hub on this machine: as much of its HTTP API as the client asks.

with serve(refuse="license") as hub:    # hub.address; hub.repos: name to files; hub.requests
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

COMMIT = "c" * 40


@contextmanager
def serve() -> Iterator[SimpleNamespace]:
    """hub.refusal: what the check of a card's metadata answers, if anything."""
    hub = SimpleNamespace(repos={}, requests=[], refusal="", token="hf_stand_in")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, content: object = b"", status: int = 200, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            path = self.path.partition("?")[0]
            hub.requests.append(f"POST {path}")
            if path == "/api/validate-yaml":
                content = {"errors": [], "warnings": []}
                self.answer(hub.refusal.encode() or content, 400 if hub.refusal else 200)
            elif self.headers["Authorization"] != f"Bearer {hub.token}":
                self.answer({"error": "Invalid username or password."}, 401)
            elif path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                hub.repos.setdefault(name, {})
                self.answer({"url": f"{hub.address}/{name}", "name": name, "id": name})
            elif "/preupload/" in path:
                files = json.loads(body)["files"]
                regular = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                self.answer({"files": [{"path": file["path"], **regular} for file in files]})
            elif "/commit/" in path:
                name = "/".join(path.split("/")[3:5])
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        value = line["value"]
                        hub.repos[name][value["path"]] = base64.b64decode(value["content"])
                address = f"{hub.address}/{name}/commit/{COMMIT}"
                self.answer({"success": True, "commitOid": COMMIT, "commitUrl": address})
            else:
                self.answer({"error": f"no {path}"}, 404)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            parts = path.strip("/").split("/")
            name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
            files = hub.repos.get(name)
            if files is None:
                self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            elif "revision" in parts and parts[-1] not in ("main", COMMIT):
                self.answer({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
            elif "tree" in parts:
                self.answer(
                    [
                        {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
                        for path, content in files.items()
                    ]
                )
            elif parts[0] == "api":
                self.answer({"id": name, "sha": COMMIT, "siblings": [], "private": False})
            else:  # NAME/resolve/COMMIT/FILE
                content = files["/".join(parts[4:])]
                self.answer(content, ETag=f'"{_oid(content)}"', X_Repo_Commit=COMMIT)

        do_HEAD = do_GET

        def log_message(self, *words: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
