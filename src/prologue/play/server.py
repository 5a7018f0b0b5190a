"""The playground's server: one page and three questions, by the standard library, on the loopback by default.

It serves no files but its page and writes none; uploads stay in memory. A page of another site cannot ask it anything:
the address in `Host` must be one of its own, and that in `Origin`, where there is one, the same.
"""

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from prologue.core.errors import PrologueError
from prologue.play.answers import Answers, DrawRequest

MOST_BYTES = 20 * 2**20  # of an upload
MOST_JSON = 2**16
MOST_DROPPED = 2**28  # read of a larger one before it is refused
PAGE = files("prologue.play") / "page.html"
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)


def serve(answers: Answers, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens; `serve_forever` answers. Raises PrologueError where it cannot listen."""
    kind = _IPv6Server if ":" in host else ThreadingHTTPServer
    try:
        return kind((host, port), partial(_Handler, answers, host))
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise PrologueError(f"cannot listen on {host}:{port}: {why}; give another --host or --port") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_own_name(name: str, host: str) -> bool:
    """Whether a server at `host` goes by a name in `Host`: an address, or what it or its machine is called.

    Any other name that leads here may be one that another site has pointed at it.
    """
    if is_loopback(host):
        return is_loopback(name)
    try:
        return bool(ip_address(name))
    except ValueError:
        return name in {host, "localhost", socket.gethostname().lower(), socket.getfqdn().lower()}


class _IPv6Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6


class _Refused(Exception):
    """A request that is not answered, with its status and reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "prologue", ""
    timeout = 60  # seconds without a byte

    def __init__(self, answers: Answers, own_address: str, *arguments: Any) -> None:
        self.answers, self.own_address = answers, own_address
        super().__init__(*arguments)

    def handle(self) -> None:
        """Answer what is asked; nobody is left to answer where the page was closed meanwhile."""
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """The page, and what it has to know of the model."""
        self._answer({"/": self._page, "/model": lambda: self._json(self.answers.model())})

    def do_POST(self) -> None:
        """Draw images, or encode a photo."""
        self._answer({"/draw": self._draw, "/encode": lambda: self._json(self.answers.encode(self._body(MOST_BYTES)))})

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing of requests on the terminal."""

    def _answer(self, known: dict[str, Callable[[], None]]) -> None:
        try:
            self._check_sender()
            path = self.path.partition("?")[0]
            if path not in known:
                raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
            known[path]()
        except _Refused as refused:
            self._json({"error": str(refused)}, refused.status)
        except PrologueError as error:
            self._json({"error": str(error)}, HTTPStatus.UNPROCESSABLE_ENTITY)

    def _check_sender(self) -> None:
        """Refuse what a page of another site has sent, by a form or under a name that leads here."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        try:
            name, sender = urlsplit(f"//{host}").hostname or "", None if origin is None else urlsplit(origin).netloc
        except ValueError:
            raise _Refused(HTTPStatus.BAD_REQUEST, "there is no such address") from None
        if not is_own_name(name, self.own_address):
            raise _Refused(HTTPStatus.FORBIDDEN, "this server answers to its own address alone")
        if sender is not None and sender != host:
            raise _Refused(HTTPStatus.FORBIDDEN, "this server answers its own page alone")

    def _draw(self) -> None:
        try:
            asked = DrawRequest.model_validate_json(self._body(MOST_JSON))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise _Refused(HTTPStatus.BAD_REQUEST, f"{where}: {first['msg']}".removeprefix(": ")) from None
        self._json(self.answers.draw(asked))

    def _body(self, most: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "say how long the request is")
        if len(length) > len(str(most)) or int(length) > most:  # int refuses thousands of digits
            self.close_connection = True
            if len(length) < 12:
                self._drop(int(length))
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {most // 2**10} KiB are refused")
        return self.rfile.read(int(length))

    def _drop(self, length: int) -> None:
        """Read what is refused, up to a limit: else the sender meets a broken connection before it hears why."""
        left = min(length, MOST_DROPPED)
        while left > 0 and (part := self.rfile.read(min(left, 2**16))):
            left -= len(part)

    def _page(self) -> None:
        self._send(PAGE.read_bytes(), "text/html; charset=utf-8", HTTPStatus.OK)

    def _json(self, value: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(value).encode(), "application/json", status)

    def _send(self, content: bytes, kind: str, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)
