"""What systemd wants from a daemon: readiness, watchdog, sockets that it passes in.

systemd-python is used where it is installed; elsewhere the same two protocols are spoken directly.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

try:
    import systemd.daemon as _systemd
except ImportError:
    _systemd = None

LISTEN_FDS_START = 3
EXTEND_S = 60
"""What systemd is asked to wait longer, each time."""
EXTEND_EVERY_S = 10.0


def notify(state: str) -> bool:
    """Send e.g. `READY=1` to systemd; False when nobody listens. Can block: call it from a thread."""
    if _systemd is not None:
        return bool(_systemd.notify(state))
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(5)
        try:
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.sendall(state.encode())
        except OSError:
            return False
    return True


@contextlib.contextmanager
def extending(text: str) -> Iterator[None]:
    """Inside, systemd shows `text` as the unit's state and waits for the start as long as it takes."""
    done = threading.Event()

    def tell() -> None:
        while True:
            notify(f"EXTEND_TIMEOUT_USEC={EXTEND_S * 1_000_000}\nSTATUS={text}")
            if done.wait(EXTEND_EVERY_S):
                return

    teller = threading.Thread(target=tell, name="sdnotify-extend", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        notify("STATUS=")


def watchdog_interval() -> float | None:
    """Seconds between signs of life: half of what systemd allows; None without a watchdog."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000


def passed_sockets() -> list[socket.socket]:
    """The listening sockets that systemd (or a test) passed to this process."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # They are not for our children.
    return [socket.socket(fileno=LISTEN_FDS_START + number) for number in range(count)]
