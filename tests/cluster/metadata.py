"""The metadata service of a spot instance that is about to be taken back, as far as cluster/spot_notice.sh asks it."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT = 8169
_KEY = "session"


class _Metadata(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        self._answer(200 if self.path == "/latest/api/token" else 404, _KEY)

    def do_GET(self) -> None:
        known = self.headers["X-aws-ec2-metadata-token"] == _KEY
        notice = json.dumps({"action": "terminate", "time": "2030-01-01T00:00:00Z"})
        asked = self.path == "/latest/meta-data/spot/instance-action"
        self._answer(401 if not known else 200 if asked else 404, notice)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", PORT), _Metadata).serve_forever()
