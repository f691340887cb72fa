"""An S3 server on this machine, and a door in front of it that fails, or closes for a while, when told to."""

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

from pipeline.storage.object_path import connected

BUCKET = "shards"


class Door(ThreadingHTTPServer):
    """Passes requests on to a server; the next ones fail as `failures` says, one after the other.

    `denied` says which methods are denied, `closed` that nobody is served.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port, self.failures, self.requests = port, list[str](), list[str]()
        self.denied: tuple[str, ...] = ()
        self.closed = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def do_GET(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}")
        failure = self.server.failures.pop(0) if self.server.failures else ""
        if self.command in self.server.denied:
            failure = "403"
        if failure == "reset" or self.server.closed:
            self.close_connection = True
            return
        if failure:
            code = {"503": "SlowDown", "500": "InternalError", "403": "AccessDenied"}.get(failure, "Other")
            body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
            self._answer(int(failure), {"Content-Type": "application/xml"}, body)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, sent or None, headers=dict(self.headers))
            response = connection.getresponse()
            headers = {k: v for k, v in response.getheaders() if k.lower() not in ("date", "server", "connection")}
            self._answer(response.status, headers, response.read())

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

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
    connected.cache_clear()
    for name, value in {
        "AWS_ENDPOINT_URL": door.url,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "something-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        # All servers of this process share one memory.
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", door.port, timeout=20)) as connection:
            connection.request("POST", "/moto-api/reset")
            connection.getresponse().read()
        client(door).create_bucket(Bucket=BUCKET)
        yield door
    finally:
        door.shutdown()
        door.server_close()
        server.stop()


def upload(door: Door, folder: Path, prefix: str, bucket: str = BUCKET, suffix: str = ".tar") -> str:
    """Copies the tars of a folder, or files of any suffix (""), into the bucket or into a new one of another name; the
    location."""
    store = client(door)
    if bucket != BUCKET:
        store.create_bucket(Bucket=bucket)
    for path in sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file()):
        store.put_object(Bucket=bucket, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())
    return f"s3://{bucket}/{prefix}"


def keys(door: Door, prefix: str = "") -> list[str]:
    """Of all objects whose keys begin so."""
    pages = client(door).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def client(door: Door) -> Any:
    """Of the server behind the door."""
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{door.port}")
