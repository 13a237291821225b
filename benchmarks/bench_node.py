"""A node's start until every daemon is ready, and the memory of each idle daemon (PSS)."""

import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.timing import pss_mb
from dux_devnet.layout import lay_out, node_names
from dux_devnet.main import start_all
from dux_devnet.network import Devnet

NODES = 3
IDLE_S = 5.0


def main() -> None:
    """Print start times and memory of a devnet of three nodes."""
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    try:
        with Devnet(lay_out(folder, node_names(NODES))) as net:
            start_all(net, lambda text: None)
            status = net.status()
            for node in net.layout.nodes:
                after = {name: status[name]["ready_after"] for name in net.layout.daemons(node)}
                print(f"{node}: all daemons ready {max(after.values()):.2f} s after the fork")
            # A daemon that has just started still holds what it needed for starting.
            time.sleep(IDLE_S)
            first = net.layout.nodes[0]
            sizes = {name: pss_mb(status[name]["pid"]) for name in net.layout.daemons(first)}
            for name, size in sizes.items():
                print(f"{name:<18} {size:6.1f} MB")
            print(f"{'a whole node':<18} {sum(sizes.values()):6.1f} MB (aim: at most 300)")
            print(f"{'dux-devchain':<18} {pss_mb(status['chain']['pid']):6.1f} MB")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
