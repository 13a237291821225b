"""Which records are signed for whom."""

import os

import pytest

from dux_registryd.signing import Signer
from duxcommon.errors import SigningRefused
from duxcommon.identity import Identity
from duxcommon.records import verify_record
from duxcommon.rpc import Caller

NETWORK = "ab" * 32


def signer() -> Signer:
    return Signer(Identity.generate(), NETWORK, "testnet", {"order": ["nobody"], "receipt": []})


def user(uid: int) -> Caller:
    return Caller(uid, frozenset())


def test_a_record_verifies_under_the_nodes_key() -> None:
    one = signer()
    record = one.sign("order", one.next_seq(), {"price": 5})
    verify_record(record, kind="order", network=NETWORK, node=one.node_id)


@pytest.mark.parametrize("kind", ["node", "listing", "anything"])
def test_kinds_that_belong_to_nobody_outside_are_refused_even_to_the_nodes_own_user(kind: str) -> None:
    with pytest.raises(SigningRefused) as caught:
        signer().check(kind, user(os.geteuid()))
    assert caught.value.code == 5009
    assert "daemon that it belongs to" in caught.value.hint


def test_each_kind_is_signed_only_for_the_users_that_are_named() -> None:
    stranger, nobody = user(54_321), user(65_534)
    one = signer()
    one.check("order", nobody)
    for caller, kind in ((stranger, "order"), (nobody, "receipt")):
        with pytest.raises(SigningRefused):
            one.check(kind, caller)


def test_sequence_numbers_only_grow() -> None:
    one = signer()
    numbers = [one.next_seq() for _ in range(1000)]
    assert numbers == sorted(set(numbers))
    assert one.next_seq(after=2**50) == 2**50 + 1
