"""Invitations to a trial network: one file with its definition, whom to ask first, and a login to its chain."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import Field, SecretStr, field_validator, model_validator

from duxcommon.api.common import Model
from duxcommon.config import load_yaml, validate
from duxcommon.errors import BadInvitation, BadSignature, ConfigError
from duxcommon.files import write_atomic
from duxcommon.network import HostPort, NetworkDefinition

CHAIN = "devnet"
"""The one chain that strangers can be invited to: its coins are worthless, and it has a faucet."""
MAX_BYTES = 65_536
_ADDRESS = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")
"""A host in an URL. Nothing else is shown at a terminal, written to settings, or taken off by a parser unseen."""
_PASSWORD = re.compile(r"[A-Za-z0-9_-]{16,128}")


class ChainAccess(Model):
    """Where the trial chain answers, and a login to it."""

    url: Annotated[str, Field(max_length=300)]
    """`https://HOST:PORT/`; `http` on the machine itself only."""
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    password: SecretStr
    """16 to 128 of A–Z a–z 0–9 - _."""
    certificate: Annotated[str, Field(max_length=16_384)] | None = None
    """The one certificate (PEM) to accept at that address; null trusts the system's authorities."""

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port is None:
            raise ValueError("write it like https://192.168.1.5:32554/")
        if parts.path != "/" or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("only scheme, host and port belong there, and a / at the end")
        host, _, port = parts.netloc.rpartition(":")
        if parts.port == 0 or not _ADDRESS.fullmatch(host) or url != f"{parts.scheme}://{host}:{port}/":
            raise ValueError("expected a name, an IPv4 address, or an IPv6 address in brackets, and a port from 1 on")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError("without TLS the password would cross the network in the clear; use https")
        return url

    @field_validator("password")
    @classmethod
    def _usable_password(cls, password: SecretStr) -> SecretStr:
        if not _PASSWORD.fullmatch(password.get_secret_value()):
            raise ValueError("expected 16 to 128 of A-Z a-z 0-9 - _")
        return password

    @field_validator("certificate")
    @classmethod
    def _one_certificate(cls, certificate: str | None) -> str | None:
        if certificate is not None:
            from cryptography import x509

            try:
                found = x509.load_pem_x509_certificates(certificate.encode())
            except ValueError:
                found = []
            if len(found) != 1 or "PRIVATE KEY" in certificate:
                raise ValueError("expected one certificate in PEM form, and nothing else")
        return certificate

    @property
    def host_port(self) -> tuple[str, int]:
        """Host (IPv6 without brackets) and port of `url`."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0


class Invitation(Model):
    """Everything that another machine needs to join."""

    format: Literal[1] = 1
    network: NetworkDefinition
    bootstrap: Annotated[list[HostPort], Field(min_length=1, max_length=16)]
    """Directory nodes to ask first, beside those of the definition."""
    chain: ChainAccess

    @model_validator(mode="after")
    def _trial_network(self) -> Self:
        if self.network.chain != CHAIN:
            raise ValueError(
                f"an invitation is to a private trial network; {self.network.name!r} is on chain {self.network.chain!r}"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether a host of an address is the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_invitation(path: Path) -> Invitation:
    """The invitation in `path`, its signatures checked. Raises BadInvitation; no text of it holds the password."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInvitation(f"{path} is larger than {MAX_BYTES} bytes: that is no invitation")
        value, lines = load_yaml(path)
        where = {key: f"{path}, line {line}" for key, line in lines.items()}
        invitation = validate(Invitation, value, where, str(path))
        invitation.network.check_signatures()
    except (ConfigError, BadSignature) as error:
        raise BadInvitation(f"no usable invitation: {error.message}") from error
    except OSError as error:
        raise BadInvitation(f"can't read the invitation {path}: {error.strerror}") from error
    return invitation


def dump_invitation(invitation: Invitation) -> str:
    """The YAML text, with the password in the clear: whoever has it can use the chain."""
    value = invitation.model_dump()
    value["chain"]["password"] = invitation.chain.password.get_secret_value()
    text: str = yaml.safe_dump(value, sort_keys=False)
    return (
        f"# Invitation to the Dux OS trial network {invitation.network.name!r}, whose coins have no value.\n"
        "# Whoever has this file can use its chain: hand it to those alone who may.\n" + text
    )


def write_invitation(path: Path, invitation: Invitation, *, mode: int = 0o600) -> None:
    """Write the file, readable by its owner alone unless `mode` says otherwise. Raises OSError."""
    write_atomic(path, dump_invitation(invitation).encode(), mode=mode)
