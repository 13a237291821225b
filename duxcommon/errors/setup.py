"""Errors of setting a machine up (`dux_setup`): 8000–8999."""

from .base import DuxError


class SetupError(DuxError):
    component = "setup"


class BadInvitation(SetupError):
    code = 8000
    hint_default = "Ask the owner of the hosting machine for a new file: `dux-ctl network host FILE` there."


class InvitationMissing(SetupError):
    code = 8150
    hint_default = "The demonstration needs this machine's own trial network; `dux-devnet demo` makes one for itself."


class DemoRunning(SetupError):
    code = 8151
    hint_default = "Wait until the other demonstration has ended; it takes a minute or two."
    retry = True


class NotTrialNetwork(SetupError):
    code = 8152
    hint_default = "`dux-devnet demo` does the same on a trial network of its own, beside this node."


class DemoFailed(SetupError):
    code = 8153
    hint_default = "Look at `dux-ctl status`, then try again."
    retry = True


class GuestFailed(SetupError):
    code = 8154
    hint_default = "Run it again; `dux-ctl status` tells whether this node is well."


class TwoCores(SetupError):
    code = 8100
    hint_default = "Name the one to connect: `dux-ctl setup flopcoin --datadir DIR`, or its configuration with --conf."


class CoreFileUnusable(SetupError):
    code = 8101
    hint_default = "Name another file with --conf or another folder with --datadir, or run it as root."


class CoreChainDiffers(SetupError):
    code = 8102
    hint_default = "Name the chain with --chain, or another configuration with --conf; nothing was changed."


class CoreNotReady(SetupError):
    code = 8103
    retry = True
    hint_default = "Do what is told above and run the same command again; until then the node stays where it is."


class MainChainNotAccepted(SetupError):
    code = 8104
    hint_default = (
        "Stay on a test network, or write `accept_main_chain_risk: true` into /etc/duxnet/flopd.d/20-main.yaml "
        "yourself and run it again; what you risk stands in /usr/share/doc/dux-common/flopcoin.md."
    )


class CredentialsMissing(SetupError):
    code = 8200
    hint_default = "Install systemd 257 or newer: `apt install systemd`."


class CredentialRefused(SetupError):
    code = 8201
    hint_default = (
        "A credential opens only on the machine (and with the TPM) that made it. Elsewhere restore the keystore from "
        "its recovery words; `journalctl -u dux-firstboot` says more."
    )


class SetupStepFailed(SetupError):
    code = 8202
    hint_default = "Mend what is named, then `systemctl restart dux.target`: what was made stays, the rest follows."


class SetupNoSpace(SetupError):
    code = 8203
    hint_default = "Free some space there (`journalctl --vacuum-size=100M` helps), then `systemctl restart dux.target`."


class SetupReadOnly(SetupError):
    code = 8204
    hint_default = (
        "Find out why in `dmesg`, mount it writable (`mount -o remount,rw`), then `systemctl restart dux.target`."
    )


class NetworkDamaged(SetupError):
    code = 8205
    hint_default = (
        "Put the right network definition there. Only if nothing of this node is to be kept: move it away, and "
        "`systemctl restart dux.target` makes a trial network anew."
    )


class KeystoreForeign(SetupError):
    code = 8206
    hint_default = (
        "Give the machine its passphrase: `systemd-creds encrypt --name=wallet - "
        "/etc/credstore.encrypted/dux-flopd.wallet`; or put the network definition to /etc/duxnet/network.yaml."
    )


class AlreadyOnNetwork(SetupError):
    code = 8207
    hint_default = "Join another network with `dux-ctl network join FILE`, which moves what is there aside first."


class ChainUnreachable(SetupError):
    code = 8001
    hint_default = "Ask the owner of the hosting machine to open that port, and check that both are on one network."
    retry = True


class InvitationRefused(SetupError):
    code = 8002
    hint_default = "Ask the owner of the hosting machine for a new file: `dux-ctl network host FILE` there."


class NoAddress(SetupError):
    code = 8003
    hint_default = (
        "Name the address under which the other machines reach this one: `dux-ctl network host --address A FILE`."
    )


class NotHosting(SetupError):
    code = 8004
    hint_default = "`dux-ctl network leave` gives this machine a trial network of its own again, which it can host."


class SwitchFailed(SetupError):
    code = 8005
    hint_default = "Look at `dux-ctl status` and `journalctl -b -u 'dux-*'`."


class CoinsInChannels(SetupError):
    code = 8006
    hint_default = "Close the channels first (`dux-ctl channel close ID`), or add --yes and leave their coins behind."
