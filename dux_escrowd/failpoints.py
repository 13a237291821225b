"""Where a crash test ends this daemon: before and after every commit that money hangs on, and every message sent."""

from duxcommon import failpoint

FAILPOINTS: dict[str, str] = {
    "open-committed": "the channel is NEW in the database, nothing was asked of flopd",
    "fund-built": "flopd built and committed the deposit, the channel does not know it yet",
    "fund-built-committed": "the channel knows its deposit, nobody else does",
    "fund-announced": "the provider knows the contract, the deposit was not sent",
    "fund-sent": "the deposit was sent, the channel does not know it yet",
    "fund-sent-committed": "the channel knows that its deposit was sent",
    "hold-committed": "a payment is reserved, the caller does not know it",
    "state-signed": "flopd signed the next state, nothing is stored",
    "release-committed": "the next state is stored, nobody has seen it",
    "state-pushed": "the provider stored the state, its acknowledgement is not stored here",
    "state-stored": "the provider stored the state and has not answered",
    "accept-committed": "the provider stored state and order, taskd does not know it",
    "done-committed": "the provider noted the result, taskd does not know it",
    "refund-committed": "the payment is refunded, the caller does not know it",
    "close-asked": "the channel is CLOSE_BUILT, the provider was not asked",
    "close-signed": "the closing transaction is signed by both, nothing is stored",
    "close-committed": "the closing transaction is stored, not sent",
    "close-sent": "the closing transaction was sent, the channel does not know it yet",
    "refund-signed": "the refund is signed, nothing is stored",
    "refund-built-committed": "the refund is stored, not sent",
    "refund-sent": "the refund was sent, the channel does not know it yet",
    "followed-committed": "what the chain shows is stored, nothing was done about it",
}
"""Name → what has and what has not happened there."""


def hit(name: str) -> None:
    """Die here when a crash test armed this point; KeyError for a name that is not in the table."""
    FAILPOINTS[name]
    failpoint.hit(f"escrowd:{name}")
