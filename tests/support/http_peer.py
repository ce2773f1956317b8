"""A server in a thread: a list to be asked for page by page, and a place to post to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PAGE = 3


class HttpPeer:
    """``items`` are given out, three to a page; ``posted`` are headers and body of what was taken.

    ``statuses``: answers instead, next first; one of them is what each question gets before anything else.
    ``refuses``: a text; what is posted with it in its body gets 422.
    """

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.posted: list[tuple[dict[str, str], list[dict[str, Any]]]] = []
        self.statuses: list[int] = []
        self.refuses = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its own name
                """Nobody reads it."""

            def do_GET(self) -> None:  # its own name
                peer.asked.append((self.path, dict(self.headers)))
                if peer.statuses:
                    self.answer(peer.statuses.pop(0), {"error": "as told"})
                    return
                query = parse_qs(urlsplit(self.path).query)
                after = int(query.get("after", ["0"])[0])
                page = peer.items[after : after + PAGE]
                self.answer(200, {"items": page, "next": after + len(page)})

            def do_POST(self) -> None:  # its own name
                body = self.rfile.read(int(self.headers["content-length"]))
                if peer.statuses:
                    self.answer(peer.statuses.pop(0), {"error": "as told"})
                elif peer.refuses and peer.refuses.encode() in body:
                    self.answer(422, {"error": "no such thing"})
                else:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    peer.posted.append((headers | {"body": body.decode()}, json.loads(body)))
                    self.answer(200, {})

            def answer(self, status: int, body: object) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/list"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
