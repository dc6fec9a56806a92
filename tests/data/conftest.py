# SPDX-License-Identifier: Apache-2.0

"""A server on this machine that can misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Server(ThreadingHTTPServer):
    """Serves ``content``; what it does wrong is set by the test."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.name = ""  # of the file, in its address
        self.ranges = True
        self.shift = 0  # added to the start of each range
        self.lengths = True  # False: neither Content-Length nor the length of the file where nothing is left
        self.cuts: list[int] = []  # for each answer to come: after how many bytes the connection is cut
        self.resets = False  # cut without a goodbye
        self.statuses: list[int] = []  # for each answer to come: an error instead, 0 for none
        self.location = ""  # redirects to it
        self.asked: list[str | None] = []  # the Range of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.location:
            return self.answer(302, {"Location": server.location})
        if server.statuses and (status := server.statuses.pop(0)):
            return self.answer(status, {"Content-Length": "0"})
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        end = len(server.content)
        if start >= end:
            return self.answer(416, {"Content-Range": f"bytes */{end}"} if server.lengths else {})
        start += server.shift if start else 0
        headers = {"Content-Length": str(end - start)} if server.lengths else {}
        if start:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{end}"
        self.answer(206 if start else 200, headers)
        self.wfile.write(server.content[start:][: server.cuts.pop(0) if server.cuts else None])
        if server.resets:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()

    def answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def http_server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
