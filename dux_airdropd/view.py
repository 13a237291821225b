"""What people and programs are shown of the fund and of the transaction in work."""

from dataclasses import dataclass
from typing import Literal

from duxcommon.api.airdropd import (
    FundStatus,
    FundWork,
    GuardianState,
    NextRound,
    OldAddress,
    PaidOut,
    RoundShown,
    SpentFrom,
    Trouble,
    WhyNotPaid,
)
from duxcommon.api.flopd import NetworkLabel
from duxcommon.coin.fund import guardians_redeem
from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import address_of
from duxcommon.coin.tx import parse_tx
from duxcommon.errors import DuxError
from duxcommon.money import format_flop
from duxcommon.network import NetworkDefinition

from .collecting import Collecting, Collection
from .costs import batch_sizes
from .drafts import Draft, Drafts, Next
from .fund import Fund, births
from .plan import DEPTH, Waiting, available
from .ports import Flopd, Rules
from .reading import scripts_and_amounts
from .rounds import Rounds
from .signing import Signing, keys_of, node_of

LABELS = {
    "no-anchor": "the fund has received nothing yet",
    "too-poor": "the fund holds less than it costs to move it to the new guardians",
    "below-threshold": "the fund holds less than the threshold",
    "nobody-eligible": "the fund holds enough, but no payout key is eligible",
    "capped": "the cap on shares holds a part back; the next payout comes with the next tenth of the window",
    "shares-too-small": "with so many eligible keys each share would be below 0.01 FLOP",
    "ask-eligible": "the fund holds enough; the eligible keys are being counted",
}


def ref_of(script: bytes) -> str:
    """The name under which flopd watches a fund script."""
    return f"fund/{script.hex()}"


@dataclass(frozen=True, slots=True)
class Mempool:
    """What is known of the fund beyond the last block."""

    pending: int = 0
    spent: frozenset[tuple[str, int]] = frozenset()
    """Outputs that an unconfirmed transaction spends."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything it says is of the height that it says with it."""

    network: NetworkDefinition
    label: NetworkLabel
    fund: Fund
    rules: Rules
    drafts: Drafts
    signing: Signing
    collecting: Collecting
    rounds: Rounds
    flopd: Flopd

    def address(self, script: bytes) -> str | None:
        """The address of an output script on this network's chain."""
        return address_of(script, CHAINS[self.network.chain])

    def name(self, script: bytes) -> str:
        """The same, or the script itself where it has no address."""
        return self.address(script) or script.hex()

    # --- fund.status ------------------------------------------------------------------------------------------

    async def status(self) -> FundStatus:
        """The whole fund. Raises RulesPending and what eligibility raises."""
        height = max(0, self.fund.read_to)
        rules = self.rules.book().at(height)
        window = rules.parameters.window_blocks
        totals = self.fund.totals(height - window)
        spendable = available(self.fund.snapshot(height))
        mempool = await self._mempool(height)
        found = await self._next(height)
        work = self._work(found, height, mempool) if found else None
        threshold = rules.parameters.airdrop_threshold
        old = self.rules.book().old_fund_scripts_at(height)
        return FundStatus(
            address=self.name(bytes.fromhex(rules.fund_script)),
            old_addresses=[OldAddress(address=self.name(script), counts_until=until) for script, until in old.items()],
            confirmed=totals.confirmed,
            pending=mempool.pending,
            received=totals.received,
            payments=totals.payments,
            inflow=totals.inflow,
            window_blocks=window,
            spendable=spendable,
            threshold=threshold,
            missing=max(0, threshold - spendable),
            rounds=self.fund.anchor()[0] - 1,
            work=work,
            guardians=await self._guardians(work),
            guardians_m=rules.guardians_m,
            rules=rules.version,
            height=height,
            network=self.label,
        )

    async def _next(self, height: int) -> Next | None:
        """What is next, or None while registryd can't tell who is eligible."""
        try:
            return await self.drafts.next(height)
        except DuxError:
            return None

    async def _mempool(self, height: int) -> Mempool:
        pending, spent = 0, set()
        try:
            for script in births(self.rules.book()):
                for output in (await self.flopd.watched(ref_of(script), height + 1)).outputs:
                    if output.spender_txid is not None and output.spender_height is None:
                        spent.add((output.txid, output.vout))
                    elif output.height is None:
                        pending += output.amount
        except DuxError:
            # The blocks that were read are told all the same; `daemon.status` says what is wrong.
            return Mempool()
        return Mempool(pending, frozenset(spent))

    def _draft(self, sequence: int) -> Draft | None:
        drafts = (each.draft for each in self.collecting.collections.values())
        return next((draft for draft in drafts if draft.sequence == sequence and draft.batch is None), None)

    def _work(self, found: Next, height: int, mempool: Mempool) -> FundWork | None:
        plan = found.plan
        if plan is None:
            return None
        manifest = self.drafts.manifest(found)
        out = manifest.anchor + (sum(manifest.batches) or manifest.paid)
        draft = self._draft(plan.sequence)
        anchor = plan.inputs[0]
        sent = (anchor.txid, anchor.vout) in mempool.spent or (draft is not None and self.rounds.sent(draft))
        return FundWork(
            sequence=plan.sequence,
            kind=plan.kind,
            snapshot=plan.height,
            signed_from=plan.height + DEPTH,
            lapses=plan.lapses,
            recipients=plan.recipients,
            share=manifest.share,
            paid=manifest.paid,
            fee=sum(coin.amount for coin in plan.inputs) - out,
            inputs=len(plan.inputs),
            batches=len(manifest.batches),
            manifest=manifest.digest().hex(),
            unsigned=draft.txid if draft and draft.manifest == manifest else None,
            state="sent" if sent else "waiting-for-depth" if height < plan.height + DEPTH else "signing",
        )

    async def _guardians(self, work: FundWork | None) -> list[GuardianState]:
        book = self.rules.book()
        rules = book.at(max(0, self.fund.read_to))
        draft = self._draft(work.sequence) if work else None
        answers = self.collecting.of(draft).answers if draft else {}
        own = await self._own()
        keys = keys_of(guardians_redeem(rules.guardians, rules.guardians_m))
        states = []
        for key in (key.hex() for key in keys):
            node, answer = node_of(book, key), answers.get(key)
            mine = own is not None and own in (key, node)
            trouble = f"{answer.outcome}: {answer.text}" if answer and answer.outcome != "signed" else ""
            if mine and self.rounds.trouble:
                trouble = f"{self.rounds.what}: {self.rounds.trouble}"
            states.append(
                GuardianState(
                    node=node,
                    pubkey=key,
                    own=mine,
                    signed=answer is not None and answer.outcome == "signed",
                    heard=self.collecting.heard.get(key),
                    trouble=trouble,
                )
            )
        return states

    async def _own(self) -> str | None:
        """This node's guardian key, or its id while its wallet is locked."""
        try:
            return await self.signing.pubkey() or await self.signing.node()
        except DuxError:
            return None

    # --- airdrop.* --------------------------------------------------------------------------------------------

    async def next(self) -> NextRound:
        """What is paid next. Raises RulesPending and what eligibility raises."""
        height = max(0, self.fund.read_to)
        found = await self.drafts.next(height)
        spendable = available(self.fund.snapshot(height))
        threshold = self.rules.book().at(height).parameters.airdrop_threshold
        work = self._work(found, height, await self._mempool(height))
        return NextRound(
            work=work,
            waits_for=_waits_for(found, work, height, threshold - spendable),
            sequence=self.fund.anchor()[0],
            spendable=spendable,
            threshold=threshold,
            missing=max(0, threshold - spendable),
            eligible=found.eligible.total if found.eligible else None,
            height=height,
        )

    async def show(self, sequence: int, after: int, limit: int) -> RoundShown:
        """What a transaction of the fund paid. Raises RoundUnknown and what flopd answers."""
        done = self.fund.round(sequence)
        if not done.batches:
            paid = scripts_and_amounts(parse_tx(self.fund.raw(sequence)))[2:]
            rows = [self._paid(script, amount, None, done.txid) for script, amount in paid]
            return self._page(done, rows[after : after + limit], after, limit, len(rows))
        rows, total = [], 0
        for batch, size in enumerate(batch_sizes(done.recipients)):
            first, last = max(0, after - total), after + limit - total
            output = self.fund.output(done.txid, 2 + batch)
            spender = output[1] if output else None
            total += size if spender else 1
            # Bytes are asked for and read only where the page shows them.
            if output is None or last <= 0 or after >= total:
                continue
            if spender is None:
                rows.append(PaidOut(address=None, amount=output[0].amount, batch=batch, txid=None))
                continue
            paid = scripts_and_amounts(parse_tx((await self.flopd.spender(spender)).hex))[1:]
            rows += [self._paid(script, amount, batch, spender) for script, amount in paid[first:last]]
        return self._page(done, rows, after, limit, total)

    def _page(self, done: SpentFrom, rows: list[PaidOut], after: int, limit: int, total: int) -> RoundShown:
        return RoundShown(
            round=done,
            anchor=self.fund.anchor_of(done.sequence).txid,
            outputs=rows,
            next=after + limit if after + limit < total else None,
        )

    def _paid(self, script: bytes, amount: int, batch: int | None, txid: str) -> PaidOut:
        return PaidOut(address=self.address(script), amount=amount, batch=batch, txid=txid)

    async def why(self) -> WhyNotPaid:
        """Why nothing is paid now; a guardian asks the others anew. Raises RulesPending and DuxError."""
        height = max(0, self.fund.read_to)
        found = await self.drafts.next(height)
        sequence = self.fund.anchor()[0]
        work = self._work(found, height, await self._mempool(height))
        if work is None or work.state != "signing":
            threshold = self.rules.book().at(height).parameters.airdrop_threshold
            text = _waits_for(found, work, height, threshold - available(self.fund.snapshot(height)))
            why: Literal["depth", "waits"] = "depth" if work else "waits"
            waits = Trouble(node=None, pubkey=None, what=why, text=text)
            return WhyNotPaid(sequence=sequence, have=0, need=0, troubles=[waits])
        own: list[Trouble] = []
        if self.rounds.trouble:
            own.append(Trouble(node=None, pubkey=None, what=self.rounds.what, text=self.rounds.trouble))
        if not await self.signing.guards():
            text = "the guardians are signing; `dux-ctl airdrop why` on the node of one of them says who is missing"
            return WhyNotPaid(
                sequence=sequence,
                have=0,
                need=0,
                troubles=[*own, Trouble(node=None, pubkey=None, what="waits", text=text)],
            )
        draft = await self.drafts.current(height)
        if draft is None:
            return WhyNotPaid(sequence=sequence, have=0, need=0, troubles=own)
        collection = await self.collecting.collect(draft, everybody=True)
        return self._of_collection(collection, own)

    def _of_collection(self, collection: Collection, troubles: list[Trouble]) -> WhyNotPaid:
        draft, book = collection.draft, self.rules.book()
        keys = keys_of(draft.unsigned.redeems[0])
        for key, answer in sorted(collection.answers.items()):
            if answer.outcome != "signed":
                what = Trouble(node=node_of(book, key), pubkey=key, what=answer.outcome, text=answer.text)
                troubles = [*troubles, what]
        return WhyNotPaid(
            sequence=draft.sequence,
            have=sum(key in collection.by_key for key in keys),
            need=draft.unsigned.redeems[0][0] - 0x50,
            troubles=troubles,
        )


def _waits_for(found: Next, work: FundWork | None, height: int, missing: int) -> str:
    if work is None:
        assert isinstance(found.decision, Waiting)
        if found.decision.why == "shares-too-small":
            missing = found.decision.needed - found.decision.available
        return LABELS[found.decision.why] + (f"; {format_flop(missing)} FLOP are missing" if missing > 0 else "")
    if work.state == "sent":
        return "the transaction is on its way; the next block or the one after it holds it"
    if work.state == "waiting-for-depth":
        blocks = work.signed_from - height
        return f"the guardians sign at block {work.signed_from}, in {blocks} block{'s' if blocks != 1 else ''}"
    return "the guardians are signing"
