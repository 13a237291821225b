"""Core's configuration: read, made safe, and nothing foreign touched."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dux_setup.coreconf import (
    USER,
    chain_of,
    diff,
    first,
    is_on,
    login_in,
    loopback,
    parse,
    ports,
    secured,
)
from dux_setup.rpcauth import accepts, rpcauth

PASSWORD = "p" * 43

FOREIGN = st.sampled_from(
    ["", "# a note", "addnode=10.0.0.7", "  dbcache = 450 ", "maxconnections=8 # few", "no equals sign", "rpcthreads=4",
     "rpcauthority=1", "=", "[unfinished", "ümlaut=ä", "\udcff\udcfe=1", "listen=0\r", "\ufeffx=1"]
)  # fmt: skip
UNSAFE = st.sampled_from(
    ["rpcuser=bob", "rpcpassword=secret", "rpcpassword = se=cret ", "rpcbind=0.0.0.0", "rpcbind=127.0.0.1",
     "rpcbind=::", "rpcallowip=0.0.0.0/0", "rpcallowip=127.0.0.1", "rpcallowip=10.1.2.3", "server=0", "noserver=1",
     "server=1", "rpcauth=carol:" + "a" * 32 + "$" + "b" * 64, "rpcauth=dux:" + "c" * 32 + "$" + "d" * 64]
)  # fmt: skip
HEADER = st.sampled_from(["[test]", "[regtest]", "[main]", "[ odd ]"])
FILES = st.tuples(
    st.lists(st.one_of(FOREIGN, UNSAFE, HEADER), max_size=12), st.sampled_from(["\n", ""])
).map(lambda drawn: "\n".join(drawn[0]) + drawn[1])  # fmt: skip
SECTIONS = st.sampled_from(["main", "test", "regtest"])


@given(text=st.text(max_size=300))
def test_read_and_written_again_any_file_is_the_same(text: str) -> None:
    assert "".join(line.raw for line in parse(text)) == text


@given(text=FILES, section=SECTIONS)
def test_made_safe_twice_is_made_safe_once(text: str, section: str) -> None:
    once = secured(text, section, PASSWORD)
    twice = secured(once.text, section, PASSWORD)
    assert twice.changes == ()
    assert twice.text == once.text


@given(text=FILES, section=SECTIONS)
def test_no_foreign_line_is_lost_moved_or_changed(text: str, section: str) -> None:
    def foreign(value: str) -> list[str]:
        ours = ("rpcuser", "rpcpassword", "rpcbind", "rpcallowip", "rpcauth", "server", "testnet", "regtest")
        return [
            line.raw.rstrip("\r\n")
            for line in parse(value)
            if line.key not in ours and not line.raw.startswith("# dux-ctl setup flopcoin:")
        ]

    assert foreign(secured(text, section, PASSWORD).text) == foreign(text)


@given(text=FILES, section=SECTIONS)
def test_what_comes_out_is_safe_for_both_families_of_core(text: str, section: str) -> None:
    lines = parse(secured(text, section, PASSWORD).text)
    active = [line for line in lines if line.key and line.section in ("", section)]
    assert not [line for line in active if line.key in ("rpcuser", "rpcpassword")]
    assert all(loopback(line.value) for line in active if line.key in ("rpcbind", "rpcallowip"))
    bound = [line for line in active if line.key == "rpcbind" and not line.section]
    assert bound or not [line for line in active if line.key == "rpcallowip"]
    assert all(is_on(line.value) for line in active if line.key == "server")
    # Before the first section, where Flopcoin 2.0 reads it as well.
    top = [line for line in active if not line.section]
    assert any(line.key == "server" for line in top)
    assert [True for line in top if line.key == "rpcauth" and accepts(line.value, USER, PASSWORD)]


@given(text=FILES, section=SECTIONS)
def test_what_other_chains_have_in_their_sections_stays(text: str, section: str) -> None:
    def others(value: str) -> list[str]:
        return [line.raw.rstrip("\n") for line in parse(value) if line.section not in ("", section)]

    assert others(secured(text, section, PASSWORD).text) == others(text)


@given(text=FILES)
def test_no_password_is_left_and_none_is_shown(text: str) -> None:
    made = secured(text.replace("secret", "Geheim-1"), "main", PASSWORD)
    kept = [line.raw for line in parse(made.text) if line.section in ("", "main")]
    assert "Geheim-1" not in "".join(kept)
    assert PASSWORD not in made.text
    shown = diff(text, made.text, "flopcoin.conf")
    assert "secret" not in shown
    assert not re.search(r"rpcauth=\w+:[0-9a-f]{16}", shown)


@given(user=st.text("abz09_.-", min_size=1, max_size=20), password=st.text("aZ09+/=!$%&", min_size=1, max_size=30))
def test_programs_with_the_old_password_can_still_log_in(user: str, password: str) -> None:
    made = secured(f"rpcuser={user}\nrpcpassword={password}\n", "main", PASSWORD)
    entries = [line.value for line in parse(made.text) if line.key == "rpcauth"]
    if user != USER:
        assert sum(accepts(entry, user, password) for entry in entries) == 1
    assert sum(accepts(entry, USER, PASSWORD) for entry in entries) == 1


# --- by example -----------------------------------------------------------------------------------------------------


def test_an_empty_file_becomes_one_that_core_can_start_with() -> None:
    made = secured("", "regtest", PASSWORD)
    lines = parse(made.text)
    assert [line.key for line in lines if line.key] == ["regtest", "rpcauth", "server"]
    assert chain_of(lines) == "regtest"
    assert chain_of(parse(secured("", "main", PASSWORD).text)) == "main"
    assert chain_of(parse(secured("# nothing\n", "test", PASSWORD).text)) == "test"


def test_an_old_style_file_is_told_line_by_line_what_is_wrong() -> None:
    text = "rpcuser=bob\nrpcpassword=geheim\nrpcallowip=192.168.0.0/16\nserver=0\n"
    made = secured(text, "main", PASSWORD)
    assert [change.key for change in made.changes] == [
        "rpcauth", "rpcauth", "rpcpassword", "rpcuser", "rpcallowip", "server"
    ]  # fmt: skip
    assert "# dux-ctl setup flopcoin: off, the password stood in the clear: rpcpassword\n" in made.text


def test_an_allowance_without_an_address_to_listen_on_opens_older_cores_to_everyone() -> None:
    made = secured("rpcallowip=127.0.0.1\n", "main", PASSWORD)
    assert first(parse(made.text), "rpcallowip") is None
    kept = secured("rpcbind=127.0.0.1\nrpcallowip=127.0.0.1\n", "main", PASSWORD)
    assert first(parse(kept.text), "rpcallowip") == "127.0.0.1"


def test_a_new_password_replaces_our_older_login_and_no_other() -> None:
    text = secured("rpcauth=carol:" + "a" * 32 + "$" + "b" * 64 + "\n", "main", "old" * 9).text
    made = secured(text, "main", PASSWORD)
    users = [line.value.partition(":")[0] for line in parse(made.text) if line.key == "rpcauth"]
    assert sorted(users) == ["carol", "dux"]


@pytest.mark.parametrize(
    ("text", "section", "found"),
    [
        ("", "main", [32551]),
        ("rpcport=40000\n", "main", [40000]),
        # Flopcoin 2.0 reads the first, newer Cores the second.
        ("rpcport=40000\n[regtest]\nrpcport=50000\n", "regtest", [50000, 40000]),
        ("[regtest]\nrpcport=50000\n", "regtest", [50000, 32551]),
        ("regtest.rpcport=50000\n", "regtest", [50000, 32551]),
        ("rpcport=99999\n", "main", [32551]),
        ("rpcport=x\n", "main", [32551]),
    ],
)
def test_the_port_is_looked_for_where_either_family_would_open_it(text: str, section: str, found: list[int]) -> None:
    assert ports(parse(text), section, 32551) == found


@pytest.mark.parametrize(
    ("text", "chain"),
    [("", "main"), ("testnet=1", "test"), ("regtest=1", "regtest"), ("regtest=0", "main"), ("noregtest=1", "main"),
     ("chain=signet", "signet"), ("regtest=", "regtest"), ("# regtest=1", "main"), ("testnet = 1 # yes", "test")],
)  # fmt: skip
def test_the_chain_that_a_file_starts(text: str, chain: str) -> None:
    assert chain_of(parse(text)) == chain


@pytest.mark.parametrize(
    "value", ["127.0.0.1", "127.0.0.1:8332", "::1", "[::1]", "[::1]:80", "localhost", "127.0.0.0/8"]
)
def test_loopback_is_known_in_every_spelling(value: str) -> None:
    assert loopback(value)


@pytest.mark.parametrize(
    "value", ["", "0.0.0.0:1", "::", "[::]:80", "10.0.0.1", "*", "0.0.0.0/0", "127.0.0.1.evil", "::/0"]
)
def test_everything_else_is_another_machine(value: str) -> None:
    assert not loopback(value)


def test_an_old_login_is_found_in_the_section_of_its_chain() -> None:
    assert login_in(parse("[regtest]\nrpcuser=a\nrpcpassword=b\n"), "regtest") == ("a", "b")
    assert login_in(parse("[test]\nrpcuser=a\nrpcpassword=b\n"), "regtest") is None
    assert accepts(rpcauth("a", "b"), "a", "b")


def test_who_can_not_read_our_password_takes_our_login_for_right() -> None:
    text = secured("", "main", "one" * 9).text
    assert secured(text, "main", PASSWORD, trust=True).changes == ()
    assert [change.key for change in secured(text, "main", PASSWORD).changes] == ["rpcauth"]
