"""An S3 server on this machine, and a door in front of it that fails when told to."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "shards"


class Door(ThreadingHTTPServer):
    """Passes GET and HEAD requests on to a server; the next ones fail as `failures` says, one after the other."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port, self.failures, self.requests = port, list[str](), list[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}")
        failure = self.server.failures.pop(0) if self.server.failures else ""
        if failure == "reset":
            self.close_connection = True
            return
        if failure:
            code = {"503": "SlowDown", "500": "InternalError", "403": "AccessDenied"}.get(failure, "Other")
            body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
            self._answer(int(failure), {"Content-Type": "application/xml"}, body)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, headers=dict(self.headers))
            response = connection.getresponse()
            headers = {k: v for k, v in response.getheaders() if k.lower() not in ("date", "server", "connection")}
            self._answer(response.status, headers, response.read())

    do_HEAD = do_GET

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@contextlib.contextmanager
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """A server with an empty bucket, reached through a door; the environment names the door."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    door = Door(server.get_host_and_port()[1])
    thread = threading.Thread(target=door.serve_forever, daemon=True)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": door.url,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "something-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        _client(door).create_bucket(Bucket=BUCKET)
        yield door
    finally:
        door.shutdown()
        door.server_close()
        server.stop()


def upload(door: Door, folder: Path, prefix: str, bucket: str = BUCKET) -> str:
    """Copies the tars of a folder into the bucket, or into a new one of another name; the location."""
    client = _client(door)
    if bucket != BUCKET:
        client.create_bucket(Bucket=bucket)
    for path in sorted(folder.rglob("*.tar")):
        client.put_object(Bucket=bucket, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())
    return f"s3://{bucket}/{prefix}"


def _client(door: Door) -> Any:
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{door.port}")
