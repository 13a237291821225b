"""The log of money events: nothing in it can be changed, removed or put in between unseen."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from duxcommon import eventlog
from duxcommon.api.common import SignedRecord
from duxcommon.errors import StoreDamaged
from duxcommon.identity import Identity
from duxcommon.records import sign_record

NETWORK = "ab" * 32


def write(path: Path, identity: Identity, events: int) -> None:
    async def sign(body: dict[str, Any]) -> SignedRecord:
        return sign_record(identity, "event", NETWORK, 1, body)

    async def scenario() -> None:
        log = eventlog.EventLog(path, sign)
        for number in range(events):
            await log.append(f"e{number}", "state", 1_700_000_000 + number, {"amount": number})

    asyncio.run(scenario())


def test_an_intact_log_is_counted_and_its_last_hash_told(tmp_path: Path) -> None:
    identity = Identity.generate()
    write(tmp_path / "e.log", identity, 5)
    count, last = eventlog.check(tmp_path / "e.log", network=NETWORK, node=identity.node_id)
    assert count == 5
    assert last == eventlog.line_hash(json.loads((tmp_path / "e.log").read_text().splitlines()[-1]))


@pytest.mark.parametrize("fault", ["change", "remove", "swap", "resign"])
def test_a_log_that_was_tampered_with_is_found_out(tmp_path: Path, fault: str) -> None:
    identity, path = Identity.generate(), tmp_path / "e.log"
    write(path, identity, 5)
    lines = path.read_text().splitlines()
    if fault == "change":
        lines[2] = lines[2].replace('"amount":2', '"amount":3')
    elif fault == "remove":
        del lines[2]
    elif fault == "swap":
        lines[2], lines[3] = lines[3], lines[2]
    else:
        path.unlink()
        write(path, Identity.generate(), 5)
        lines = path.read_text().splitlines()
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(StoreDamaged, match="line"):
        eventlog.check(path, network=NETWORK, node=identity.node_id)


def test_a_line_that_a_crash_cut_short_is_written_again_and_no_event_twice(tmp_path: Path) -> None:
    identity, path = Identity.generate(), tmp_path / "e.log"
    write(path, identity, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    write(path, identity, 4)
    assert eventlog.check(path, network=NETWORK)[0] == 4
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["e0", "e1", "e2", "e3"]
