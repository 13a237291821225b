"""An invitation to the trial network of a running devnet, as a machine's first boot writes one for `dux-ctl demo`."""

from pathlib import Path

from pydantic import SecretStr

from dux_devnet.network import Devnet
from dux_setup.invitation import ChainAccess, Invitation, write_invitation
from duxcommon.network import load_network


def write_guest_invitation(net: Devnet) -> Path:
    """The file, in the devnet's folder, with the login of the chain's cookie."""
    folder = net.layout.folder
    network = load_network(folder / "network.yaml")
    user, _, password = (folder / "chain" / ".cookie").read_text().strip().partition(":")
    access = ChainAccess(url=f"http://127.0.0.1:{net.layout.chain_port}/", user=user, password=SecretStr(password))
    path = folder / "guest.yaml"
    write_invitation(path, Invitation(network=network, bootstrap=network.bootstrap, chain=access))
    return path
