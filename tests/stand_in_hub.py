"""A stand-in for the model hub: enough of its protocol for the stock client, on 127.0.0.1."""

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandInHub:
    """Serves folders as hub models and datasets, takes datasets in, and can misbehave.

    Attributes:
        url: for `HF_ENDPOINT`.
        mode: `ok`, `error` (answers 500), `hang` (accepts and stays silent), `gated` (wants a
            login), or `cut` (sends half of a weights file and closes the connection).
        datasets: like `repositories`, of datasets; those that are pushed go to `inbox`.
    """

    def __init__(
        self,
        repositories: dict[str, Path],
        datasets: dict[str, Path] | None = None,
        inbox: Path | None = None,
    ):
        self.repositories = repositories
        self.datasets = datasets or {}
        self.inbox = inbox
        self.large_files: dict[str, bytes] = {}
        self.mode = "ok"
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def do_POST(self):
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.requests.append(f"{self.command} {self.path}")
                path = self.path.split("?")[0]
                if hub.mode != "ok" or hub.inbox is None:
                    self.send(403, b'{"error": "you may not write here"}', {})
                elif path == "/api/repos/create":
                    wanted = json.loads(content)
                    name = f"{wanted['organization']}/{wanted['name']}"
                    hub.datasets[name] = hub.inbox
                    self.send_json({"url": f"{hub.url}/datasets/{name}", "name": name})
                elif "/preupload/" in path:
                    files = json.loads(content)["files"]
                    for file in files:
                        large = file["path"].endswith(".parquet")
                        file |= {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
                    self.send_json({"files": files})
                elif path.endswith("/info/lfs/objects/batch"):
                    objects = json.loads(content)["objects"]
                    for each in objects:
                        upload = {"href": f"{hub.url}/large/{each['oid']}", "header": {}}
                        each["actions"] = {"upload": upload}
                    self.send_json({"transfer": "basic", "objects": objects})
                elif "/commit/" in path:
                    for line in map(json.loads, content.splitlines()):
                        value = line["value"]
                        if line["key"] == "file":
                            self.keep(value["path"], base64.b64decode(value["content"]))
                        elif line["key"] == "lfsFile":
                            self.keep(value["path"], hub.large_files[value["oid"]])
                    place = path.removeprefix("/api").removesuffix("/main")
                    self.send_json({"commitOid": COMMIT, "commitUrl": f"{hub.url}{place}/{COMMIT}"})
                else:
                    self.send_json({"errors": [], "warnings": []})

            def do_PUT(self):
                content = self.rfile.read(int(self.headers["Content-Length"]))
                hub.large_files[self.path.split("/")[-1]] = content
                self.send(200, b"", {})

            def keep(self, path: str, content: bytes):
                file = hub.inbox / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)

            def answer(self, body: bool):
                hub.requests.append(f"{self.command} {self.path}")
                if hub.mode == "hang":
                    hub.released.wait(30)
                    self.close_connection = True
                elif hub.mode == "error":
                    self.send(500, b"{}", {})
                else:
                    self.route(body)

            def route(self, body: bool):
                path = self.path.split("?")[0].strip("/")
                models = [(f"api/models/{n}", n, f) for n, f in hub.repositories.items()]
                datasets = [
                    (f"api/datasets/{n}", f"datasets/{n}", f) for n, f in hub.datasets.items()
                ]
                for api, name, folder in models + datasets:
                    if not path.startswith((f"{api}/", f"{name}/resolve/")) and path != api:
                        continue
                    if hub.mode == "gated":
                        return self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
                    files = sorted(f for f in folder.rglob("*") if f.is_file())
                    if path.startswith(f"{api}/tree/"):
                        below = folder.joinpath(*path.removeprefix(f"{api}/tree/").split("/")[1:])
                        if not below.is_dir():
                            return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                        whole = "recursive=true" in self.path
                        wanted = below.rglob("*") if whole else below.iterdir()
                        return self.send_json([describe(f, folder) for f in sorted(wanted)])
                    if path.startswith(api):
                        siblings = [{"rfilename": describe(f, folder)["path"]} for f in files]
                        name = name.removeprefix("datasets/")
                        return self.send_json({"id": name, "sha": COMMIT, "siblings": siblings})
                    file = path.removeprefix(f"{name}/resolve/").split("/", 1)[1]
                    return self.send_file(folder / file, body)
                return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

            def send_file(self, file: Path, body: bool):
                if not file.is_file():
                    return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                content = file.read_bytes()
                headers = {"ETag": f'"{digest(file)}"', "X-Repo-Commit": COMMIT}
                start = 0
                if "Range" in self.headers:
                    start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
                    headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                cut = hub.mode == "cut" and file.suffix == ".safetensors"
                if cut and body:
                    start_of_it = content[start : start + (len(content) - start) // 2]
                    self.close_connection = True
                    return self.send(
                        200 if not start else 206, start_of_it, headers, length=len(content) - start
                    )
                return self.send(206 if start else 200, content[start:], headers)

            def send_json(self, value):
                self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

            def send(self, status: int, content: bytes, headers: dict, length: int | None = None):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content) if length is None else length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        time.sleep(0)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def describe(file: Path, folder: Path) -> dict:
    path = file.relative_to(folder).as_posix()
    if file.is_dir():
        return {"type": "directory", "path": path, "size": 0, "oid": COMMIT}
    return {"type": "file", "path": path, "size": file.stat().st_size, "oid": digest(file)}
