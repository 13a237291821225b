"""The log of money events: every change of the past is noticed, and a crash costs at most the line in hand."""

import asyncio
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from duxcommon.api.common import SignedRecord
from duxcommon.errors import DaemonDown, DiskFull, StoreDamaged
from duxcommon.eventlog import FIRST, KIND, EventLog, Signer, check, line_hash, read_lines
from duxcommon.identity import Identity
from duxcommon.records import canonical, sign_record
from tests.support.process import ROOT

IDENTITY = Identity(bytes(range(32)))
THIEF = Identity(b"t" * 32)
NETWORK = "11" * 32


def signer(identity: Identity, network: str = NETWORK) -> Signer:
    async def sign(body: dict[str, Any]) -> SignedRecord:
        return sign_record(identity, KIND, network, 1, body, time=1_700_000_000)

    return sign


sign = signer(IDENTITY)


def write(path: Path, count: int, start: int = 0) -> None:
    async def main() -> None:
        log = EventLog(path, sign)
        for n in range(start, start + count):
            await log.append(f"e{n}", "paid", 1_700_000_000 + n, {"amount": n, "to": "bob"})

    asyncio.run(main())


def damaged(path: Path, node: str | None = None) -> str:
    with pytest.raises(StoreDamaged) as caught:
        check(path, node, network=NETWORK)
    assert caught.value.hint
    return caught.value.message


def test_an_intact_log_is_confirmed_with_its_length_and_last_hash(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    write(path, 5)
    lines = list(read_lines(path))
    assert [line["id"] for line in lines] == ["e0", "e1", "e2", "e3", "e4"]
    assert lines[0]["prev"] == FIRST
    assert check(path, IDENTITY.node_id, network=NETWORK) == (5, line_hash(lines[-1]))
    assert path.stat().st_mode & 0o007 == 0


def test_a_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    write(path, 3)
    write(path, 3, start=3)
    assert check(path, network=NETWORK)[0] == 6


def test_an_event_is_written_once_however_often_it_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    write(path, 3)
    write(path, 4)
    assert check(path, network=NETWORK)[0] == 4


def test_an_empty_log_is_intact(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    path.touch()
    assert check(path, network=NETWORK) == (0, FIRST)


def edit(path: Path, number: int, change: dict[str, Any]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = canonical({**json.loads(lines[number - 1]), **change}) + b"\n"
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    "change", [{"body": {"amount": 7, "to": "eve"}}, {"time": 5}, {"kind": "refund"}, {"id": "e9"}, {"more": 1}]
)
@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_changed_line_is_named(tmp_path: Path, number: int, change: dict[str, Any]) -> None:
    path = tmp_path / "money.log"
    write(path, 5)
    edit(path, number, change)
    assert f"{path}, line {number}: its signature is wrong" in damaged(path)


def test_a_line_signed_anew_by_somebody_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    write(path, 5)
    line = list(read_lines(path))[1]
    line["body"] = {"amount": 7, "to": "eve"}
    record = sign_record(THIEF, KIND, NETWORK, 1, {"line": line_hash(line)}, time=1)
    signed = record.model_dump(include={"network", "node", "seq", "time", "sig"})
    edit(path, 2, {"body": line["body"], "signed": signed})
    # Without a known signer the next line shows it, because it carries the old hash.
    assert "line 3: it does not follow the line before" in damaged(path)
    assert "line 2: its signature is wrong" in damaged(path, IDENTITY.node_id)


def test_a_file_written_anew_by_somebody_else_is_noticed_by_who_knows_the_signer(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    asyncio.run(EventLog(path, signer(THIEF)).append("e0", "paid", 1, {}))
    assert check(path, network=NETWORK)[0] == 1
    assert "line 1: its signature is wrong" in damaged(path, IDENTITY.node_id)


def test_a_log_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    asyncio.run(EventLog(path, signer(IDENTITY, "22" * 32)).append("e0", "paid", 1, {}))
    assert "belongs to network 2222222222222222" in damaged(path)


@pytest.mark.parametrize(
    "signed", [None, 5, {}, {"sig": "zz"}, {"node": "ab" * 32, "sig": "00" * 64}, {"kind": "listing"}]
)
def test_a_line_without_a_proper_signature_is_named(tmp_path: Path, signed: Any) -> None:
    path = tmp_path / "money.log"
    write(path, 3)
    edit(path, 2, {"signed": signed})
    assert "line 2: its signature is wrong" in damaged(path)


@pytest.mark.parametrize("number", [1, 3])
def test_a_removed_line_is_noticed_where_it_stood(tmp_path: Path, number: int) -> None:
    path = tmp_path / "money.log"
    write(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[number - 1]
    path.write_bytes(b"".join(lines))
    assert f"line {number}: it does not follow" in damaged(path)


def test_a_line_put_in_between_or_exchanged_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    write(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[0], *lines[2:]]))
    assert "line 3: it does not follow" in damaged(path)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    assert "line 2: it does not follow" in damaged(path)


@pytest.mark.parametrize(
    "raw",
    [b"", b"not json", b"[]", b"5", b'{"id": "e1"}', b'{"id":1.5}', b"\xff\xfe", b"[" * 100_000, b'{"id":"e1"}'],
)
def test_a_line_that_is_no_event_is_named(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "money.log"
    write(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + raw + b"\n" + lines[2])
    assert f"{path}, line 2" in damaged(path)


def test_a_second_value_hidden_under_the_same_key_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    write(path, 2)
    # JSON readers differ in which of two equal keys they take: only the canonical form is accepted.
    path.write_bytes(path.read_bytes().replace(b'{"body":', b'{"body":{"amount":99},"body":', 1))
    assert "line 1" in damaged(path)


def test_a_line_cut_short_by_a_crash_is_dropped_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    write(path, 3)
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in (1, len(last) // 2, len(last) - 1):
        path.write_bytes(whole[:-cut])
        write(path, 3)
        assert path.read_bytes() == whole
        assert check(path, network=NETWORK)[0] == 3


def test_a_damaged_log_is_refused_at_the_start_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    write(path, 3)
    path.write_bytes(b"x" + path.read_bytes())
    before = path.read_bytes()
    with pytest.raises(StoreDamaged, match="line 1"):
        EventLog(path, sign)
    assert path.read_bytes() == before


def test_when_nobody_can_sign_nothing_is_written_and_the_event_can_come_again(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    answers: list[Any] = [DaemonDown("registryd is away"), None]

    async def unsure(body: dict[str, Any]) -> SignedRecord:
        failure = answers.pop(0)
        if failure:
            raise failure
        return await sign(body)

    async def main() -> None:
        log = EventLog(path, unsure)
        with pytest.raises(DaemonDown):
            await log.append("e0", "paid", 1, {})
        assert not path.exists()
        await log.append("e0", "paid", 1, {})

    asyncio.run(main())
    assert check(path, network=NETWORK)[0] == 1


def test_events_appended_at_once_are_chained_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "money.log"

    async def main() -> None:
        log = EventLog(path, sign)
        await asyncio.gather(*(log.append(f"e{n % 20}", "paid", n % 20, {}) for n in range(40)))

    asyncio.run(main())
    assert check(path, network=NETWORK)[0] == 20


def test_on_a_full_disk_no_half_line_stays_and_the_event_is_written_once_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "money.log"
    source = (
        "import asyncio, resource, sys\n"
        "from pathlib import Path\n"
        "from tests.unit.test_eventlog import append_until_full\n"
        "append_until_full(Path(sys.argv[1]))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", source, str(path)], capture_output=True, text=True, env=env, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert check(path, IDENTITY.node_id, network=NETWORK)[0] == int(done.stdout)


def append_until_full(path: Path) -> None:
    """In a process of its own, where the largest file that may be written is small."""

    async def main() -> int:
        log = EventLog(path, sign)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
        for n in range(100):
            try:
                await log.append(f"e{n}", "paid", n, {"amount": n})
            except DiskFull:
                assert check(path, network=NETWORK)[0] == n
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                await log.append(f"e{n}", "paid", n, {"amount": n})
                return n + 1
        raise AssertionError("it never became full")

    print(asyncio.run(main()))
