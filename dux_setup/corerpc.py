"""One question at a time to whatever listens on a port of this machine, with bounds on time and size.

dux-flopd has its own client, made for a Core that is known. This one meets anything: another program on the port, one
that says nothing, one that never stops. Passwords are sent to loopback alone.
"""

import base64
import http.client
import json
import socket
import threading
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

MAX_REPLY_BYTES = 2_000_000
DEADLINE_S = 10.0
"""For one whole answer, however slowly it comes."""
WARMUP = -28


class CoreTrouble(Exception):
    """No usable answer; the text says why."""


class NotListening(CoreTrouble):
    """Nothing accepts connections there."""


class NoCore(CoreTrouble):
    """What listens there does not speak as a Core does."""


class LoginRefused(CoreTrouble):
    """A Core, which does not know this user and password."""


@dataclass
class Refused(CoreTrouble):
    """Core's own error."""

    code: int
    reason: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.code})"


@dataclass(frozen=True)
class Login:
    """A user with a password, and what to call the two in a message."""

    user: str
    password: str
    name: str


class CoreClient:
    """Calls to 127.0.0.1:`port`, each over a connection of its own that ends after `deadline_s`.

    Raises NotListening, NoCore (a wrong, oversized or late answer), LoginRefused, and Refused for Core's own errors.
    """

    def __init__(self, port: int, login: Login, *, deadline_s: float = DEADLINE_S) -> None:
        self.port = port
        self.login = login
        self._deadline_s = deadline_s

    def call(self, method: str, *params: Any, path: str = "/") -> Any:
        """The result of one call."""
        status, body = self._exchange(json.dumps({"id": 1, "method": method, "params": params}), path)
        if status in (401, 403):
            raise LoginRefused(f"the login of {self.login.name} is refused ({status})")
        try:
            answer = json.loads(body, parse_float=Decimal)
            error = answer["error"]
            if error is None:
                return answer["result"]
            refused = Refused(int(error["code"]), str(error["message"])[:300])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise NoCore(f"what listens on port {self.port} answers, but not as a Core does") from None
        raise refused

    def _exchange(self, body: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self._deadline_s)
        try:
            connection.connect()
        except OSError:
            connection.close()
            raise NotListening(f"nothing listens on port {self.port} of this machine") from None
        # A time limit on the socket starts anew with every byte; this one does not.
        timer = threading.Timer(self._deadline_s, _cut, [connection.sock])
        timer.daemon = True
        timer.start()
        try:
            token = base64.b64encode(f"{self.login.user}:{self.login.password}".encode()).decode()
            connection.request("POST", path, body, {"Authorization": f"Basic {token}"})
            response = connection.getresponse()
            data = response.read(MAX_REPLY_BYTES + 1)
        except (OSError, http.client.HTTPException, ValueError):
            late = "" if timer.is_alive() else f" within {self._deadline_s:g} s"
            raise NoCore(f"what listens on port {self.port} gives no proper answer{late}") from None
        finally:
            timer.cancel()
            connection.close()
        if len(data) > MAX_REPLY_BYTES:
            raise NoCore(f"what listens on port {self.port} answers without end")
        return response.status, data


def _cut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # It has ended by itself.
