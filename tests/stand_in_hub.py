"""A stand-in for the model hub: enough of its protocol for the stock client, on 127.0.0.1."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandInHub:
    """Serves folders as hub models, and can misbehave.

    Attributes:
        url: for `HF_ENDPOINT`.
        mode: `ok`, `error` (answers 500), `hang` (accepts and stays silent), or `cut` (sends half
            of a weights file and closes the connection).
    """

    def __init__(self, repositories: dict[str, Path]):
        self.repositories = repositories
        self.mode = "ok"
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

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
                for name, folder in hub.repositories.items():
                    files = sorted(file.name for file in folder.iterdir())
                    if path.startswith(f"api/models/{name}/tree/"):
                        return self.send_json([describe(folder / file) for file in files])
                    if path.startswith(f"api/models/{name}"):
                        siblings = [{"rfilename": file} for file in files]
                        return self.send_json({"id": name, "sha": COMMIT, "siblings": siblings})
                    if path.startswith(f"{name}/resolve/"):
                        return self.send_file(folder / path.split("/")[-1], body)
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
                if self.command == "GET":
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


def describe(file: Path) -> dict:
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": digest(file)}
