"""The configuration of dux-flopd (`flopd.yaml`)."""

import ipaddress
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from duxcommon.config import AbsolutePath, Settings

MIN_FEE_RATE = 1_000_000
"""What Flopcoin's default miners ask for, in koinu per 1000 bytes; every rate must be above it."""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class CoreSettings(BaseModel):
    """How to reach Core's JSON-RPC."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: str = "http://127.0.0.1:32551/"
    """With the port. `http` on this machine only. On a Core with several wallets, the path /wallet/NAME picks one,
    which is loaded or made when it is missing."""
    cookie: AbsolutePath | None = None
    """Core's cookie file; it is read again at each connection because Core makes a new one at each start."""
    user: str = ""
    """Core's user name, together with `password_file`."""
    password_file: AbsolutePath | None = None
    """Holds the password of `user` in its first line, where there is no cookie (a Core behind TLS)."""
    run_by: str | None = None
    """The account that Core runs as, where that is a person's. Programs of root, of services and of flopd's own user
    are trusted with `http` anyway; what anybody else runs on that port is told nothing."""
    ca_file: AbsolutePath | None = None
    """Certificates to trust for `https` instead of the system's."""
    timeout_s: Annotated[int, Field(ge=1, le=600)] = 30
    """How long Core may take for an answer."""

    @field_validator("url")
    @classmethod
    def _safe_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("write it like http://127.0.0.1:32551/")
        if parts.username is not None or parts.password is not None:
            raise ValueError("leave user and password out of the address: use `cookie`, or `user` and `password_file`")
        if parts.port is None:
            raise ValueError("name the port")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ValueError(
                f"{parts.hostname} is another machine: the password and every order to pay would cross the network "
                "in the clear; use https"
            )
        return url

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        by_password = bool(self.user) and self.password_file is not None
        if by_password == (self.cookie is not None) or bool(self.user) != (self.password_file is not None):
            raise ValueError("give either `cookie`, or `user` and `password_file`")
        if ":" in self.user:
            raise ValueError("`user` may not contain a colon")
        return self


class FlopdSettings(Settings):
    """`flopd.yaml`."""

    core: CoreSettings
    keystore: AbsolutePath | None = None
    """The encrypted key file; by default `keystore.json` in `state_dir`."""
    passphrase_file: AbsolutePath | None = None
    """Unlocks the keystore at start. Without it, systemd's credential `wallet` is used, or `wallet.unlock`."""
    poll_s: Annotated[float, Field(ge=0.05, le=60)] = 5.0
    """How often Core is asked for a new block."""
    fee_rate: Annotated[int, Field(gt=MIN_FEE_RATE, le=100_000_000)] = 1_020_000
    """Of ordinary transactions, koinu per 1000 bytes."""
    fee_rate_high: Annotated[int, Field(gt=MIN_FEE_RATE, le=100_000_000)] = 5_100_000
    """Of `wallet.send` with fee "high"."""
    guardian_user: Annotated[str, Field(min_length=1, max_length=64)] = "dux-airdropd"
    """The one user, beside root and flopd's own, for whom the guardian key signs: proposals and fund transactions."""
    accept_main_chain_risk: bool = False
    """Flopcoin's main chain is refused without this: backup and crash hardening are still to come."""
