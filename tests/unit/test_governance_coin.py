"""What a vote asks of flopd: the coin that it is given when the payout address has none, and keys that flopd takes."""

from pathlib import Path

from pydantic import TypeAdapter

from dux_governance.casting import Casting
from duxcommon.api.common import IdempotencyKey
from duxcommon.db import Store
from tests.unit.test_governance_casting import FUND, Wallet, run, voted


def test_a_vote_whose_coin_went_into_another_payment_is_given_another_one(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        wallet = Wallet()
        wallet.has_coin = False
        casting = Casting(store, wallet)
        row = await casting.put("vote:1", "vote", "cd" * 32, voted("cd" * 32), yes=True)
        given: list[str | None] = [(await casting.send(row, FUND)).coin]
        # As long as the coin is on its way there is no second one.
        given.append((await casting.send(casting.by_key("vote:1"), FUND)).coin)
        assert given[0] is not None
        wallet.states[given[0]] = "confirmed"
        given.append((await casting.send(casting.by_key("vote:1"), FUND)).coin)
        assert given[0] == given[1] != given[2]

    run(tmp_path, body)


def test_a_vote_whose_key_is_as_long_as_a_key_can_be_is_sent(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        wallet = Wallet()
        casting = Casting(store, wallet)
        for number, has_coin in enumerate((True, False)):
            wallet.has_coin = has_coin
            await casting.send(
                await casting.put(f"vote:{number}" + "k" * 199, "vote", "cd" * 32, voted("cd" * 32), yes=True), FUND
            )
        keys = [call["key"] for name, call in wallet.calls if name == "fund"]
        assert len(set(keys)) == 2
        for key in keys:
            TypeAdapter(IdempotencyKey).validate_python(key)

    run(tmp_path, body)
