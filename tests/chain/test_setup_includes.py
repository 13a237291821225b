"""`includeconf` as a real Core takes it: what it reads there is what setup reads there."""

import pytest

from dux_devnet.layout import free_port
from tests.chain.test_setup_flopcoin import StandIn, core

__all__ = ["core"]


@pytest.mark.parametrize("place", ["top", "section"])
def test_core_listens_where_an_included_file_says_and_setup_looks_there(core: StandIn, place: str) -> None:
    other, nested = free_port(), free_port()
    core.write()
    text = core.conf.read_text()
    without = text.replace(f"rpcport={core.port}\n", "")
    line = "includeconf=more.conf\n"
    core.conf.write_text(f"{line}{without}" if place == "top" else f"{without}{line}")
    deeper = "includeconf=deep.conf\n"
    (core.data / "more.conf").write_text(f"{deeper}[regtest]\nrpcport={other}\n")
    (core.data / "deep.conf").write_text(f"[regtest]\nrpcport={nested}\n")
    for name in ("more.conf", "deep.conf"):
        (core.data / name).chmod(0o600)
    core.port = other
    core.set_up()
    core.start()
    if core.modern:
        assert (core.plan().checked.port, core.state("login")[0]) == (other, "ok")
        assert core.state("conf")[0] == "ok"
