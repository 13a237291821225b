"""A wallet whose credential is lost, foreign or damaged: refused clearly, with the rest of the node at work."""

import pytest

from tests.os import node
from tests.os.node import ctl, show
from tests.os.nspawn import Machine

pytestmark = pytest.mark.timeout(400)

CREDENTIAL = "/etc/credstore.encrypted/dux-flopd.wallet"


def test_without_its_credential_the_wallet_stays_locked_and_payments_are_refused_clearly(settled: Machine) -> None:
    settled.sh(f"mv {CREDENTIAL} /root/; systemctl reset-failed; systemctl restart dux-flopd")
    try:
        status = settled.run("dux-ctl", "status", check=False).stdout
        assert "wallet is locked" in status, status
        assert CREDENTIAL in status
        address = ctl(settled, "wallet", "receive")["address"]
        done = settled.run("dux-ctl", "wallet", "send", address, "0.1", check=False)
        assert done.returncode == 3, done.stderr
        assert "wallet unlock" in done.stderr
    finally:
        settled.sh(f"mv /root/dux-flopd.wallet {CREDENTIAL}; systemctl reset-failed; systemctl restart dux-flopd")
    node.assert_well(settled)


@pytest.mark.parametrize("kind", ["of another name", "of another machine", "damaged"])
def test_a_credential_that_does_not_fit_is_refused_and_said(settled: Machine, kind: str) -> None:
    make = {
        "of another name": f"echo correct-horse | systemd-creds encrypt --name=other - {CREDENTIAL}",
        "of another machine": "mv /var/lib/systemd/credential.secret /root/; "
        f"echo correct-horse | systemd-creds encrypt --name=wallet - {CREDENTIAL}; "
        "mv /root/credential.secret /var/lib/systemd/credential.secret",
        "damaged": f"echo AAAA >{CREDENTIAL}",
    }[kind]
    settled.sh(f"systemctl reset-failed; cp -p {CREDENTIAL} /root/; {make} && ! systemctl restart dux-flopd.service")
    try:
        node.ends(settled, "dux-flopd.service", "failed")
        assert show(settled, "dux-flopd.service", "NRestarts") == "0"
        for command in (["dux-ctl", "status"], ["dux-ctl", "why", "flopd"]):
            done = settled.run(*command, check=False)
            assert "credential" in done.stdout + done.stderr, done.stdout + done.stderr
    finally:
        settled.sh(
            f"cp -p /root/dux-flopd.wallet {CREDENTIAL}; systemctl reset-failed; "
            "systemctl start dux.target dux-flopd.socket"
        )
    node.assert_well(settled)


def test_a_right_credential_with_a_foreign_passphrase_leaves_the_wallet_locked(settled: Machine) -> None:
    settled.sh(
        f"cp -p {CREDENTIAL} /root/; echo correct-horse | systemd-creds encrypt --name=wallet - {CREDENTIAL}; "
        "systemctl reset-failed; systemctl restart dux-flopd"
    )
    try:
        status = settled.run("dux-ctl", "status", check=False).stdout
        assert "wallet is locked" in status, status
    finally:
        settled.sh(f"cp -p /root/dux-flopd.wallet {CREDENTIAL}; systemctl reset-failed; systemctl restart dux-flopd")
    node.assert_well(settled)
