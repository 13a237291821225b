"""Where a crash test ends this daemon: before and after every commit, signature and message that a payout hangs on."""

from duxcommon import failpoint

FAILPOINTS: dict[str, str] = {
    "round-read": "the bytes of a confirmed transaction of the fund were read, nothing is stored",
    "round-committed": "the database knows the confirmed transaction",
    "computed": "the next transaction was computed, nothing is signed",
    "own-signed": "flopd signed the transaction that this guardian computed, nothing is noted",
    "own-signed-committed": "the database says what this guardian signed, nobody has the signatures",
    "answer-ready": "another guardian asked and this one signed and noted it, the answer was not sent",
    "asked": "the leader is about to ask the other guardians",
    "collected": "the leader has enough signatures, nothing is merged",
    "merged": "the transaction is fully signed and checked, it was not given to flopd",
    "submitted": "flopd has the signed transaction and sends it, nothing is noted here",
    "submitted-committed": "the database says that it was sent",
}
"""Name → what has and what has not happened there."""


def hit(name: str) -> None:
    """Die here when a crash test armed this point; KeyError for a name that is not in the table."""
    FAILPOINTS[name]
    failpoint.hit(f"airdropd:{name}")
