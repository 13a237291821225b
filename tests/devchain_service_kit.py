"""dux-devchain as a service: its file, users, certificate, and clients that log in as users."""

import base64
import http.client
import json
import ssl
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from devchain_kit import Core, Refused
from support.process import DaemonProcess

from dux_devnet.layout import free_port
from dux_setup.certificate import make_certificate
from dux_setup.rpcauth import rpcauth
from duxcommon.coin.params import DEVNET

PASSWORD = "a-password-of-enough-length"
WALLET = "ab" * 16
QUICK = {"busy_block_s": 0.2, "idle_block_s": 3600}


class ChainService(DaemonProcess):
    """A chain on a folder of its own, with the user `node`; with TLS where `tls` is set."""

    def __init__(self, folder: Path, *, tls: bool = False, users: tuple[str, ...] = ("node",), **settings: Any) -> None:
        import sys

        self.users = folder / "users"
        self.write_users(*users)
        self.certificate = folder / "tls.crt"
        value: dict[str, Any] = {"datadir": str(folder / "chain"), "log_dir": str(folder), "port": 0}
        value |= {"users": str(self.users), **QUICK}
        if tls:
            value |= self.door(folder)
        folder.joinpath("devchain.yaml").write_text(yaml.safe_dump({**value, **settings}))
        super().__init__(folder, "devchain", command=[sys.executable, "-m", "dux_devnet.chain"])

    def door(self, folder: Path, *hosts: str) -> dict[str, Any]:
        """Settings that open TLS with a fresh certificate."""
        certificate, key = make_certificate(hosts or ("127.0.0.1",))
        self.certificate.write_text(certificate)
        (folder / "tls.key").write_text(key)
        return {
            "listen": f"127.0.0.1:{free_port()}",
            "certificate": str(self.certificate),
            "key": str(folder / "tls.key"),
        }

    def reconfigure(self, **settings: Any) -> None:
        self.config.write_text(yaml.safe_dump({**yaml.safe_load(self.config.read_text()), **settings}))

    def write_users(self, *names: str) -> None:
        self.users.write_text("# who may\n\n" + "".join(f"{rpcauth(name, PASSWORD)}\n" for name in names))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def said(self, text: str) -> bool:
        return any(text in line["message"] for line in self.lines())

    @property
    def port(self) -> int:
        port: int = json.loads((self.folder / "chain" / "rpc.json").read_text())["port"]
        return port

    @property
    def tls_port(self) -> int:
        """The port that was opened last."""
        opened = [line["message"] for line in self.lines() if "other machines are served" in line["message"]]
        return int(opened[-1].rpartition(" ")[2])

    @property
    def cookie(self) -> Path:
        return self.folder / "chain" / ".cookie"

    def owner(self, method: str, *params: Any) -> Any:
        """A call by whoever holds the cookie."""
        return OwnerOf(self).call(method, *params)

    def context(self) -> ssl.SSLContext:
        """What trusts this chain's certificate and nothing else."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def http(
        self, body: Any, *, user: str = "node", password: str = PASSWORD, path: str = f"/wallet/{WALLET}",
        tls: bool = False, login: str | None = None, timeout: float = 30.0,
    ) -> tuple[int, bytes]:  # fmt: skip
        """One POST; status and body."""
        connection = (
            http.client.HTTPSConnection("127.0.0.1", self.tls_port, timeout=timeout, context=self.context())
            if tls
            else http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        )
        token = base64.b64encode((login or f"{user}:{password}").encode()).decode()
        data = body if isinstance(body, str | bytes) else json.dumps(body)
        try:
            connection.request("POST", path, data, {"Authorization": f"Basic {token}"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ask(self, method: str, *params: Any, **how: Any) -> Any:
        """A user's call."""
        status, body = self.http({"id": 1, "method": method, "params": params}, **how)
        assert body.startswith(b"{"), (status, body)
        answer = json.loads(body, parse_float=Decimal)
        if answer["error"] is not None:
            raise Refused(answer["error"], status)
        return answer["result"]


class OwnerOf(Core):
    """The same chain through its cookie."""

    dialect = "flopcoin"
    params = DEVNET

    def __init__(self, service: ChainService) -> None:
        self.cookie = service.cookie
        self.port = service.port
