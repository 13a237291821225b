"""Errors of the JSON-RPC protocol, whose codes its specification fixes, and those of every daemon: 1000–1099."""

from typing import Any

from ..groups import command
from .base import BY_NAME, DuxError


class ParseError(DuxError):
    code = -32700
    hint_default = "Send one JSON-RPC 2.0 request a line, as UTF-8 JSON without NaN or Infinity."


class InvalidRequest(DuxError):
    code = -32600
    hint_default = 'Send {"jsonrpc": "2.0", "id": …, "method": "…", "params": {…}}.'


class MethodNotFound(DuxError):
    code = -32601
    hint_default = "Call rpc.discover for the methods of this daemon."


class InvalidParams(DuxError):
    code = -32602
    hint_default = "See the method's parameters in its help or in rpc.discover."


class Internal(DuxError):
    code = -32603
    hint_default = "This is a fault of Dux OS. Look for the reference in the daemon's log and report it."


# --- every daemon ----------------------------------------------------------------------------------------------


class RemoteError(DuxError):
    code = 1000
    hint_default = "The other side answered with an error this version does not know; compare the versions."


class NotAllowed(DuxError):
    code = 1001
    hint_default = (
        "Ask the machine's owner to add you to the group named in the message "
        f"(as root: `{command('NAME', 'GROUP')}`); then log in again."
    )


class RateLimited(DuxError):
    code = 1002
    hint_default = "Wait a moment and try again."
    retry = True


class DaemonDown(DuxError):
    code = 1003
    hint_default = "Start the daemon (`systemctl start dux-NAME`) and look at `dux-ctl status`."
    retry = True


class TimedOut(DuxError):
    code = 1004
    hint_default = "The call may still have been carried out; repeat it with the same key, which never acts twice."
    retry = True


class NotFound(DuxError):
    code = 1005
    hint_default = "Check the id; list what exists first."


class Conflict(DuxError):
    code = 1006
    hint_default = "This idempotency key was used with other parameters; choose a new key for a new action."


class DiskFull(DuxError):
    code = 1007
    hint_default = "Free some space on the disk that holds the daemon's state; nothing was changed."
    retry = True


class ConfigError(DuxError):
    code = 1008
    hint_default = (
        "Mend what is named, then start the daemon again or `systemctl reload` it (all settings: "
        "/usr/share/doc/dux-common/settings.md)."
    )


class AlreadyRunning(DuxError):
    code = 1009
    hint_default = "Another process serves this socket or holds this database; stop it first."


class BadSignature(DuxError):
    code = 1010
    hint_default = "The record was changed or signed by another key; it is ignored."


class BadRecord(DuxError):
    code = 1011
    hint_default = "The record does not follow the format of its kind; it is ignored."


class StaleRecord(DuxError):
    code = 1012
    hint_default = "A newer record is known already; this one is ignored."


class WrongNetwork(DuxError):
    code = 1013
    hint_default = "The other side belongs to another network; use the same network definition on both."


class Stopping(DuxError):
    code = 1014
    hint_default = "The daemon is shutting down; try again once it is back."
    retry = True


class MessageTooLarge(DuxError):
    code = 1015
    hint_default = "Send large payloads as blobs (`blob.write`) and refer to them by hash."


class BlobDamaged(DuxError):
    code = 1016
    hint_default = "The bytes do not match their hash; send or fetch them again."
    retry = True


class StoreDamaged(DuxError):
    code = 1017
    hint_default = "The database can't be read; restore it from a backup before you start the daemon again."


class NewerFormat(DuxError):
    code = 1020
    hint_default = "Install the newer version again: this one would lose what it does not know. Nothing was changed."


class DiskReadOnly(DiskFull):
    code = 1021
    hint_default = "Look in `dmesg` why, then `mount -o remount,rw` it; nothing was changed, and it goes on by itself."


class MigrationFailed(DuxError):
    code = 1022
    hint_default = (
        "Install the version before, go back to the copy (/usr/share/doc/dux-common/upgrades.md), and report this "
        "message."
    )


class ClockWrong(DuxError):
    code = 1023
    hint_default = "Set the clock: `timedatectl set-ntp true`, or `timedatectl set-time 'YYYY-MM-DD hh:mm:ss'`."
    retry = True


class VersionMismatch(RemoteError):
    code = 1024
    hint_default = "Bring all packages to one version (`apt full-upgrade`), then `systemctl restart dux.target`."


class PortTaken(DuxError):
    code = 1025
    hint_default = "Stop what listens there (`ss -ltnp`, as root, names it), or set another port; it is tried again."
    retry = True


class NetworkMissing(DuxError):
    code = 1018
    hint_default = "Put the network definition where the configuration's `network` points."


class KeyFileUnsafe(DuxError):
    code = 1019
    hint_default = "Make the key file readable by its owner alone: chmod 600 FILE."


def from_rpc(error: Any) -> DuxError:
    """The error a JSON-RPC reply carries, as the class it was raised as; `RemoteError` where that is unknown."""
    if not isinstance(error, dict):
        return RemoteError("the other side sent an error that is not an object")
    given = error.get("data")
    data: dict[str, Any] = given if isinstance(given, dict) else {}
    name, message = str(data.get("name", ""))[:100], str(error.get("message", ""))[:2000]
    hint = str(data.get("hint", ""))[:2000]
    details = data.get("details") if isinstance(data.get("details"), dict) else {}
    known = BY_NAME.get(name)
    if known is not None:
        return known(message, hint=hint, details=details)
    return RemoteError(message or "unknown error", hint=hint or None, details={"name": name, "code": error.get("code")})
