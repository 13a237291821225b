"""The file by which another machine joins a trial network."""

import datetime
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dux_setup.invitation import MAX_BYTES, Invitation, read_invitation, write_invitation
from duxcommon.coin.params import CHAINS
from duxcommon.errors import BadInvitation
from duxcommon.identity import Identity
from duxcommon.network import Member, NetworkDefinition

PASSWORD = "correct-horse-battery-staple"


def definition(chain: str = "devnet") -> NetworkDefinition:
    """A signed network of one guardian."""
    identity = Identity.generate()
    member = Member(node=identity.node_id, pubkey="02" + "11" * 32)
    network = NetworkDefinition.model_validate(
        {
            "name": "home",
            "chain": chain,
            "genesis": CHAINS[chain].genesis,
            "birth_height": 200_000 if chain == "main" else 0,
            "bootstrap": [],
            "guardians": [member],
            "guardians_m": 1,
            "arbiters": [member],
        }
    )
    return network.signed_by(identity)


def pem() -> str:
    """A self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "home")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def value(**changes: Any) -> dict[str, Any]:
    """What stands in a good file, with changes at `section__key`."""
    made: dict[str, Any] = {
        "format": 1,
        "network": definition().model_dump(),
        "bootstrap": ["192.168.1.5:4748"],
        "chain": {"url": "https://192.168.1.5:32554/", "user": "guest", "password": PASSWORD, "certificate": pem()},
    }
    for path, changed in changes.items():
        section, _, key = path.partition("__")
        if key:
            made[section][key] = changed
        else:
            made[section] = changed
    return made


def test_what_is_written_is_read_again_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    invitation = Invitation.model_validate(value())
    path = tmp_path / "home.yaml"
    write_invitation(path, invitation)
    assert read_invitation(path) == invitation
    assert read_invitation(path).chain.password.get_secret_value() == PASSWORD
    assert read_invitation(path).chain.host_port == ("192.168.1.5", 32554)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_password_is_in_no_text_that_anyone_prints_or_logs() -> None:
    invitation = Invitation.model_validate(value())
    for text in (repr(invitation), str(invitation), str(invitation.model_dump()), invitation.model_dump_json()):
        assert PASSWORD not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format"),
        ({"more": 1}, "unknown key 'more'"),
        ({"bootstrap": []}, "bootstrap"),
        ({"bootstrap": ["192.168.1.5:99999"]}, "no port"),
        ({"chain__url": "http://192.168.1.5:32554/"}, "use https"),
        ({"chain__url": "https://192.168.1.5/"}, "write it like"),
        ({"chain__url": "https://u:p@192.168.1.5:1/"}, "only scheme, host and port"),
        ({"chain__url": "https://192.168.1.5:1/wallet/x"}, "only scheme, host and port"),
        ({"chain__url": "https://192.168.1.5:x/"}, "chain.url"),
        ({"chain__url": "https://192.168.1.5:0/"}, "a port from 1 on"),
        ({"chain__url": "https://192.168.1.5\n:32554/"}, "a name, an IPv4 address"),
        ({"chain__url": "https://192.168.1.5:32554/\n"}, "a name, an IPv4 address"),
        ({"chain__url": "https://\x1b(0host:32554/"}, "a name, an IPv4 address"),
        ({"chain__url": "https://\u202etsoh:32554/"}, "a name, an IPv4 address"),
        ({"chain__url": "https://[fe80::1%25eth0]:32554/"}, "a name, an IPv4 address"),
        ({"chain__url": "https://[fe80::1%eth0\nx]:32554/"}, "a name, an IPv4 address"),
        ({"chain__user": "a:b"}, "chain.user"),
        ({"chain__password": "white space is secret"}, "expected 16 to 128"),
        ({"chain__password": 7}, "chain.password"),
        ({"chain__certificate": "nothing"}, "one certificate"),
        ({"network": "main"}, "private trial network"),
        ({"network__name": "other"}, "not signed by guardian"),
    ],
    ids=str,
)
def test_a_bad_file_is_refused_with_its_fault_and_without_its_password(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = tmp_path / "bad.yaml"
    written = value(**changes)
    if written["network"] == "main":
        written["network"] = definition("main").model_dump()
    path.write_text(yaml.safe_dump(written))
    with pytest.raises(BadInvitation) as caught:
        read_invitation(path)
    assert said in caught.value.message
    assert str(path) in caught.value.message or "guardian" in said
    assert str(written["chain"]["password"]) not in caught.value.message or written["chain"]["password"] == 7


@pytest.mark.parametrize(
    "text", ["", "- a\n", "format: 1\nformat: 1\n", "\x00", "x: " + "y" * MAX_BYTES, "a: &b 1\nc: *b\n"]
)
def test_what_is_no_invitation_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(BadInvitation):
        read_invitation(path)
    with pytest.raises(BadInvitation, match="No such file"):
        read_invitation(tmp_path / "none.yaml")
