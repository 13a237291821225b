"""A guardian that lies, as a process of its own: dux-airdropd with another answer in one place.

python -m tests.support.liar HOW --config FILE
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from dux_airdropd import costs, manifest
from dux_airdropd.daemon import AirdropDaemon
from dux_airdropd.drafts import Draft, Drafts
from dux_airdropd.manifest import Manifest, Unsigned
from dux_airdropd.signing import Signing
from duxcommon.api.airdropd import Cosigned
from duxcommon.coin import multisig
from duxcommon.coin.script import p2pkh_script, pubkey_of
from duxcommon.coin.tx import make_tx
from duxcommon.daemon import run
from duxcommon.errors import NothingToSign
from duxcommon.money import DUST

Outputs = list[tuple[bytes, int]]
FRIEND = b"\x66" * 32
"""Private key of one more whom a liar would have paid; also what it signs with instead of its own."""


def more(outputs: Outputs) -> None:
    """One recipient more."""
    outputs[2] = (outputs[2][0], outputs[2][1] - 2 * DUST)
    outputs.append((p2pkh_script(pubkey_of(FRIEND)), DUST))


def fewer(outputs: Outputs) -> None:
    """One recipient fewer, the rest stays in the fund."""
    _, share = outputs.pop()
    outputs[1] = (outputs[1][0], outputs[1][1] + share)


def koinu(outputs: Outputs) -> None:
    """One koinu from one recipient to another."""
    outputs[2] = (outputs[2][0], outputs[2][1] + 1)
    outputs[3] = (outputs[3][0], outputs[3][1] - 1)


LIES: dict[str, Callable[[Outputs], None]] = {"more": more, "fewer": fewer, "koinu": koinu}


class LyingDrafts(Drafts):
    """Computes what is right, then says something else."""

    lie: Callable[[Outputs], None]

    def transaction(self, manifest: Manifest, keys: Sequence[bytes]) -> Unsigned:
        made = super().transaction(manifest, keys)
        outputs = [(output.script_pub_key.script, output.value) for output in made.tx.vout]
        if manifest.plan.kind == "payout":
            type(self).lie(outputs)
        spent = [(coin.txid, coin.vout) for coin in made.inputs]
        return replace(made, tx=make_tx(spent, outputs))


class Liar(AirdropDaemon):
    """Pays others than it should."""

    async def start(self) -> None:
        await super().start()
        self.honest = Drafts(self.network.id, self.fund, self.rules, self.registryd)

    async def right(self, sequence: int) -> tuple[Signing, Draft]:
        """What an honest guardian would sign, and how."""
        draft = await self.honest.current(self.fund.read_to)
        if draft is None or draft.sequence != sequence:
            raise NothingToSign(f"there is nothing to sign as transaction {sequence}")
        return Signing(self.store, self.flopd, self.registryd, self.fund, self.rules, self.honest), draft


class TwoVersions(Liar):
    """Signs its own version and the right one as well."""

    async def start(self) -> None:
        await super().start()

        async def both(node: str, sequence: int, batch: int | None, unsigned: str) -> Cosigned:
            own = await self.drafts.current(self.fund.read_to)
            if own is not None:
                await self.signing.own(own)
            signing, draft = await self.right(sequence)
            return await signing.own(draft)

        self.signing.answer = both  # type: ignore[method-assign]


class BadSignatures(Liar, ABC):
    """Computes what is right and answers signatures that are good for nothing."""

    async def start(self) -> None:
        await super().start()
        self.signing.answer = self.bad  # type: ignore[method-assign]

    async def bad(self, node: str, sequence: int, batch: int | None, unsigned: str) -> Cosigned:
        """What the leader gets."""
        signing, draft = await self.right(sequence)
        return self.spoil(await signing.own(draft), draft)

    @abstractmethod
    def spoil(self, good: Cosigned, draft: Draft) -> Cosigned:
        """Make them bad."""


class Nothing(BadSignatures):
    """Says that it signed, and signs nothing."""

    def spoil(self, good: Cosigned, draft: Draft) -> Cosigned:
        return good.model_copy(update={"signatures": [None for _ in good.signatures]})


class Twice(BadSignatures):
    """Gives every signature twice."""

    def spoil(self, good: Cosigned, draft: Draft) -> Cosigned:
        return good.model_copy(update={"signatures": [*good.signatures, *good.signatures]})


class Foreign(BadSignatures):
    """Signs with a key that is not its own."""

    def spoil(self, good: Cosigned, draft: Draft) -> Cosigned:
        unsigned, key = draft.unsigned, bytes.fromhex(good.pubkey)
        made = multisig.sign(unsigned.tx, unsigned.redeems, key, FRIEND)
        return good.model_copy(update={"signatures": [each.hex() if each else None for each in made]})


class Eager(AirdropDaemon):
    """Is honest, and always thinks that it is its turn to lead."""

    async def start(self) -> None:
        await super().start()

        async def always(draft: Draft, tip: int) -> bool:
            return not self.rounds.sent(draft)

        self.rounds._leads = always  # type: ignore[method-assign]


class SmallBatches(AirdropDaemon):
    """Is honest, and two recipients are too many for it to pay at once: all guardians have to be so."""

    async def start(self) -> None:
        costs.BATCH = manifest.BATCH = 2
        await super().start()


KINDS: dict[str, type[AirdropDaemon]] = {
    "versions": TwoVersions, "nothing": Nothing, "twice": Twice, "foreign": Foreign, "eager": Eager,
    "batches": SmallBatches,
}  # fmt: skip


def main(how: str, argv: Sequence[str]) -> int:
    """Run a liar until it is stopped."""
    kind = KINDS.get(how, Liar)
    if (lie := LIES.get("koinu" if how == "versions" else how)) is not None:
        drafts = type("Drafts", (LyingDrafts,), {"lie": staticmethod(lie)})
        kind = type(kind.__name__, (kind,), {"drafts_model": drafts})
    return run(kind, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
