"""A bare member of a network's directory: puts what it is told on standard input, one JSON command a line.

python tests/support/directory_member.py NETWORK-ID HOST:PORT
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from dux_registryd.dht import Dht
from dux_registryd.sealing import Seal, value_id
from duxcommon.api.common import SignedRecord

PATIENCE_S = 60.0


async def put(dht: Dht, kind: str, value: bytes) -> bool:
    """Put until another node has stored it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            stored, handle = await dht.put(f"{kind}/", value, value_id(value))
            if stored:
                return True
            dht.cancel(f"{kind}/", handle)
            await asyncio.sleep(0.1)


async def obey(dht: Dht, network: str, command: dict[str, Any]) -> bool:
    """Carry out one command."""
    if "announce" in command:
        record = SignedRecord.model_validate(command["announce"])
        return await put(dht, record.kind, Seal(network).seal(record))
    return await put(dht, command["kind"], bytes.fromhex(command["put"]))


async def main(network: str, bootstrap: str) -> None:
    """Serve standard input to its end."""
    dht = Dht(network, lambda *_: None)
    dht.start("127.0.0.1", 0, [bootstrap], lan=False)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await obey(dht, network, json.loads(line))), flush=True)
    # Python's own clean-up could wait for the engine for good.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
