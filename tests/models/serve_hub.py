"""Serve a transformers folder as a model hub on this machine, load a base from it, then again with the hub gone.

A process of its own: the hub's address is read once, when the hub's client is imported. Prints what happened as JSON.
"""

import hashlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY, REVISION, COMMIT = "owner/pico", "v1.0", "0123456789abcdef0123456789abcdef01234567"


def answers(folder: Path) -> dict[str, bytes]:
    """Return what the hub says under which path: the revision, its files' names, the files."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    tree = [
        {"type": "file", "path": name, "size": len(content), "oid": digest(content)} for name, content in files.items()
    ]
    told = {"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
    found = {f"/api/models/{REPOSITORY}/tree/{COMMIT}": json.dumps(tree).encode()}
    found |= {f"/api/models/{REPOSITORY}/revision/{at}": json.dumps(told).encode() for at in (REVISION, COMMIT)}
    return found | {f"/{REPOSITORY}/resolve/{COMMIT}/{name}": content for name, content in files.items()}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def serve(folder: Path) -> ThreadingHTTPServer:
    said = answers(folder)

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, *, with_body):
            content = said.get(self.path.split("?")[0])
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            for name, value in (
                ("Content-Length", str(len(content))),
                ("X-Repo-Commit", COMMIT),
                ("ETag", f'"{digest(content)}"'),
            ):
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main(folder: Path) -> None:
    server = serve(folder)
    os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HUB_OFFLINE": "0"}
    from collegium.models import load_base

    said: list[str] = []
    fetched = load_base(f"hf:{REPOSITORY}@{REVISION}", progress=said.append)
    server.shutdown()
    server.server_close()
    again = load_base(f"hf:{REPOSITORY}@{REVISION}", progress=said.append)
    local = load_base(folder)
    marks = [each.fingerprint for each in (fetched, again, local)]
    sys.stdout.write(
        json.dumps({"said": said, "source": fetched.source, "equal": marks[0] == marks[1] == marks[2]}) + "\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
