"""What first boot laid down is what the daemons start from: chain, wallet, node."""

import sys
from pathlib import Path

import yaml

from dux_devnet.layout import free_port
from dux_setup.invitation import read_invitation
from dux_setup.paths import Paths
from duxcommon import credential
from duxcommon.money import COIN
from duxcommon.network import load_network
from tests.firstboot_kit import first_boot, lay_out, needs_credentials
from tests.support.process import DaemonProcess
from tests.support.schema import CheckedBlockingClient


def settings(paths: Paths, daemon: str, **values: object) -> None:
    """What only the test needs: ports that are free."""
    path = paths.etc / f"{daemon}.d" / "60-ports.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(values))


def test_chain_wallet_and_node_start_from_it_and_the_wallet_gets_coins(short_tmp: Path) -> None:
    needs_credentials()
    paths = lay_out(short_tmp / "m")
    assert first_boot(paths).returncode == 0
    port = free_port()
    settings(paths, "devchain", port=port, users=str(paths.devchain_users))
    wallet = yaml.safe_load(paths.drop_in("flopd").read_text())["core"]["url"].rpartition("/")[2]
    settings(paths, "flopd", core={"url": f"http://127.0.0.1:{port}/wallet/{wallet}"})
    settings(paths, "registryd", listen="127.0.0.1", port=0, directory_port=0)
    # What systemd does for LoadCredentialEncrypted=wallet:dux-flopd.wallet.
    passed = short_tmp / "credentials"
    passed.mkdir(mode=0o700)
    (passed / credential.NAME).write_text(credential.read(paths.credential, host_key=paths.host_key))
    with (
        DaemonProcess(paths.etc, "devchain", command=[sys.executable, "-m", "dux_devnet.chain"]) as chain,
        DaemonProcess(paths.etc, "flopd", env={"CREDENTIALS_DIRECTORY": str(passed)}) as flopd,
        DaemonProcess(paths.etc, "registryd") as registryd,
    ):
        chain.start()
        flopd.start()
        registryd.start()
        client = CheckedBlockingClient(paths.run / "flopd.sock")
        status = client.call("daemon.status")
        assert (status["network"], status["worthless"]) == (load_network(paths.network).name, True)
        assert status["notes"] == []  # the wallet is unlocked, the chain answers
        client.call("wallet.faucet", {"amount": 5 * COIN, "key": "first"})
        balance = client.call("wallet.balance")
        assert balance["confirmed"] + balance["pending"] == 5 * COIN
        client.close()
        node = CheckedBlockingClient(paths.run / "registryd.sock")
        own = node.call("node.self")
        assert own["node"] == load_network(paths.network).guardians[0].node
        node.close()
        assert read_invitation(paths.guest).network.id == load_network(paths.network).id
