"""The configuration of dux-devchain as a service, `/etc/duxnet/devchain.yaml`."""

import ssl
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from duxcommon.config import AbsolutePath, load
from duxcommon.errors import ConfigError
from duxcommon.money import COIN
from duxcommon.network import HostPort

from .users import Users

Gift = Annotated[int, Field(ge=COIN, le=1_000_000 * COIN)]


class DevchainSettings(BaseModel):
    """Keys of devchain.yaml."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    datadir: AbsolutePath
    """Blocks, wallets, and the cookie of whoever may do everything."""
    log_dir: AbsolutePath | None = Path("/var/log/duxnet/devchain")
    """Where devchain.log is kept (10 MB, five old ones); null logs to standard error alone."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged: debug, info, warning or error."""
    port: Annotated[int, Field(ge=0, le=65535)] = 32553
    """TCP port of the machine itself (127.0.0.1), without TLS; 0 takes any."""
    users: AbsolutePath = Path("/etc/duxnet/devchain.users")
    """Who may log in beside the cookie: a line `user:salt$hmac` each, in the form of Core's rpcauth."""
    listen: HostPort | None = None
    """Address and port for other machines, by TLS 1.3 alone, such as 0.0.0.0:32554; null opens none."""
    certificate: AbsolutePath | None = None
    """Certificate for `listen` (PEM)."""
    key: AbsolutePath | None = None
    """Private key of `certificate` (PEM)."""
    busy_block_s: Annotated[float, Field(ge=0.1, le=600)] = 2.0
    """Seconds between blocks while there was a transaction in the last two minutes."""
    idle_block_s: Annotated[float, Field(ge=0.1, le=3600)] = 60.0
    """Seconds between blocks while nobody does anything. A transaction that waits is taken at once."""
    faucet_per_call: Gift = 1000 * COIN
    """Most coins that a user's one call of the faucet gets."""
    faucet_per_hour: Gift = 100_000 * COIN
    """Most coins that a user gets from the faucet within an hour."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.listen is not None and (self.certificate is None or self.key is None):
            raise ValueError("`listen` needs `certificate` and `key`: other machines are served by TLS alone")
        if self.busy_block_s > self.idle_block_s:
            raise ValueError("`busy_block_s` is longer than `idle_block_s`")
        if self.faucet_per_call > self.faucet_per_hour:
            raise ValueError("`faucet_per_call` is more than `faucet_per_hour`")
        return self


def load_settings(path: Path) -> DevchainSettings:
    """The settings in `path` and its drop-ins. Raises ConfigError."""
    return load(DevchainSettings, path)


def load_users(settings: DevchainSettings) -> Users:
    """The users and their limits. Raises ConfigError."""
    return Users.load(settings.users, per_call=settings.faucet_per_call, per_hour=settings.faucet_per_hour)


def tls_context(settings: DevchainSettings) -> ssl.SSLContext | None:
    """What `listen` needs; None without it. Raises ConfigError for a bad certificate or key."""
    if settings.listen is None or settings.certificate is None or settings.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"can't use {settings.certificate} with {settings.key}: {error}") from error
    return context
