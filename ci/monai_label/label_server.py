# SPDX-License-Identifier: Apache-2.0

"""Client that starts MONAI Label's server as a user does and calls its REST interface as 3D Slicer does."""

from __future__ import annotations

import email
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

START = Path(__file__).resolve().parent / "start.sh"


class LabelServerError(RuntimeError):
    """Error with the server's answer and the end of its log."""


class LabelServer:
    """A server that ``ci/monai_label/start.sh`` runs in its own process group, on a free port of this computer.

    Args:
        log: file that the server's output goes to.
        arguments: arguments of start.sh.
        python_path: PYTHONPATH of the server.
    """

    def __init__(self, log: Path, *arguments: str, python_path: Path | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        if python_path:
            environment["PYTHONPATH"] = str(python_path)
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [str(START), *arguments, "--port", str(port)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def text(self, lines: int = 100) -> str:
        """Return the end of the log, without the hundreds of types that an error of itk lists."""
        all_lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in all_lines if not line.startswith("itk.")][-lines:])

    def stop(self) -> None:
        """End the server and whatever it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait(20)

    def wait_until_up(self, seconds: float = 180) -> None:
        """Return when the server answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/info/")
                return
            except (ConnectionError, urllib.error.URLError):
                time.sleep(0.5)
        raise LabelServerError(f"the server did not come up:\n{self.text()}")

    def get(self, path: str) -> Any:
        """Return the JSON answer to a GET request."""
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return json.loads(response.read())

    def send(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[str, bytes]:
        """Return content type and body of the answer. An error is raised with the end of the server's log."""
        request = urllib.request.Request(self.url + path, data=body, method=method, headers={"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                return response.headers["Content-Type"], response.read()
        except urllib.error.HTTPError as error:
            answer = f"{method} {path}: {error.code} {error.read().decode()}"
        time.sleep(1)  # the traceback is logged after the answer
        raise LabelServerError(f"{answer}\n{self.text()}")

    def infer(
        self, model: str, target: Path, image: str = "", upload: Path | None = None, **params: object
    ) -> dict[str, Any]:
        """Write the mask to ``target``, in the file format of the image, and return the parameters of the result."""
        body, kind = _multipart({"params": json.dumps(params)}, {"file": upload} if upload else {})
        answer = self.send("POST", f"/infer/{model}?image={urllib.parse.quote(image)}", body, kind)
        parts = {part.get_param("name", header="Content-Disposition"): part for part in _parts(*answer)}
        if set(parts) != {"params", "image"}:
            raise LabelServerError(
                f"the answer to an inference must hold params and image, got {set(parts)}: {self.text()}"
            )
        target.write_bytes(parts["image"].get_payload(decode=True))
        return json.loads(parts["params"].get_payload(decode=True))

    def save_label(self, image: str, label: Path) -> None:
        """Save a label of an image as final."""
        body, kind = _multipart({"params": "{}"}, {"label": label})
        self.send("PUT", f"/datastore/label?image={urllib.parse.quote(image)}&tag=final", body, kind)

    def remove_label(self, image: str) -> None:
        """Remove the final label of an image."""
        self.send("DELETE", f"/datastore/label?id={urllib.parse.quote(image)}&tag=final")

    def train(self, model: str, seconds: float = 300, **params: object) -> dict[str, Any]:
        """Train a model, and return the task when it has ended."""
        self.send("POST", f"/train/{model}", json.dumps(params).encode())
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            task = self.get("/train/")
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                return task
            time.sleep(0.5)
        raise LabelServerError(f"training {model} took more than {seconds} s:\n{self.text()}")


def _multipart(fields: dict[str, str], files: dict[str, Path]) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts += [(f'name="{name}"; filename="{path.name}"', path.read_bytes()) for name, path in files.items()]
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"
        for head, value in parts
    )
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _parts(kind: str, body: bytes) -> Sequence[Any]:
    return list(email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body).walk())[1:]
