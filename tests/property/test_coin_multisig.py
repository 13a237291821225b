"""Signatures of several keys put together: any m of n make a transaction that the engine takes, no others do."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from btclib.tx import Tx
from hypothesis import given, settings
from hypothesis import strategies as st

from duxcommon.coin import multisig
from duxcommon.coin.multisig import Multisig, input_size, max_fee, parse_multisig, signed_size
from duxcommon.coin.script import escrow_script, multisig_script, p2pkh_script, p2sh_script, pubkey_of
from duxcommon.coin.tx import fee_for, make_tx, outpoint_of, serialize_tx, sighash, verify_tx
from duxcommon.errors import BadTerms, BadTransaction, ScriptRefused, SignaturesMissing
from duxcommon.money import COIN, DUST

SECRETS = {pubkey_of(number.to_bytes(32, "big")): number.to_bytes(32, "big") for number in range(1, 20)}
KEYS = sorted(SECRETS)
STRANGER = pubkey_of(b"\x77" * 32)


@dataclass(frozen=True)
class Case:
    tx: Tx
    redeems: list[bytes]
    amounts: list[int]


def case(sets: Sequence[tuple[int, Sequence[bytes]]], inputs: Sequence[int], outputs: int = 2) -> Case:
    """A transaction with one input for each number in `inputs`: which of the scripts it spends."""
    scripts = [multisig_script(m, sorted(keys)) for m, keys in sets]
    redeems = [scripts[number] for number in inputs]
    spent = [(f"{index:064x}", index % 3) for index in range(1, len(inputs) + 1)]
    paid = [(p2pkh_script(KEYS[index % len(KEYS)]), DUST + index) for index in range(outputs)]
    return Case(make_tx(spent, paid), redeems, [outputs * DUST + 10 * COIN] * len(inputs))


def signatures(made: Case, keys: Sequence[bytes]) -> dict[bytes, list[bytes | None]]:
    return {key: multisig.sign(made.tx, made.redeems, key, SECRETS[key]) for key in keys}


@st.composite
def guardians(draw: st.DrawFn) -> tuple[int, list[bytes]]:
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=15, unique=True))
    return draw(st.integers(1, len(keys))), keys


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sets = draw(st.lists(guardians(), min_size=1, max_size=2))
    inputs = draw(st.lists(st.integers(0, len(sets) - 1), min_size=1, max_size=4))
    return case(sets, inputs, draw(st.integers(1, 3)))


@given(cases())
def test_the_hashes_of_all_inputs_at_once_are_those_of_each_input(made: Case) -> None:
    assert list(multisig.digests(made.tx, made.redeems)) == [
        sighash(made.tx, index, redeem) for index, redeem in enumerate(made.redeems)
    ]


def test_the_hashes_are_right_across_the_borders_of_the_counts() -> None:
    for inputs, outputs in ((252, 1), (253, 253), (1, 300)):
        made = case([(1, KEYS[:1])], [0] * inputs, outputs)
        found = list(multisig.digests(made.tx, made.redeems))
        for index in (0, inputs // 2, inputs - 1):
            assert found[index] == sighash(made.tx, index, made.redeems[index])


@given(guardians())
def test_a_script_is_read_back_as_it_was_made_and_nothing_else_is(guardian_set: tuple[int, list[bytes]]) -> None:
    m, keys = guardian_set
    redeem = multisig_script(m, keys)
    assert parse_multisig(redeem) == Multisig(m, tuple(keys))
    count = bytes([0x50 + len(keys)])
    for other in (redeem + b"\x51", redeem[:-1], redeem[1:], b"\x00" + redeem[1:], redeem[:-2] + b"\x60\xae", b""):
        assert parse_multisig(other) is None
    assert parse_multisig(redeem[:-2] + count + b"\xaf") is None


def test_scripts_of_channels_and_repeated_keys_are_no_multisig() -> None:
    first, second = KEYS[:2]
    doubled = b"\x52\x21" + first + b"\x21" + first + b"\x52\xae"
    for script in (escrow_script(first, second, KEYS[2], 100), doubled, p2pkh_script(first), b"\x51\xae\xae"):
        assert parse_multisig(script) is None
    made = case([(1, [first])], [0])
    with pytest.raises(BadTransaction, match="input 0 is no m-of-n script"):
        signed_size(made.tx, [doubled])
    with pytest.raises(BadTransaction, match="2 redeem scripts given for 1 inputs"):
        multisig.sign(made.tx, made.redeems * 2, first, SECRETS[first])


def test_the_sizes_are_those_measured_on_flopcoin_core() -> None:
    assert input_size(3, 5) == 438
    assert input_size(8, 15) == 1144
    assert max_fee(1000) == 1_071_000 + DUST
    for m, n in ((0, 1), (2, 1), (1, 16)):
        with pytest.raises(BadTerms):
            input_size(m, n)


@settings(max_examples=40)
@given(cases(), st.data())
def test_any_m_of_n_merge_to_a_transaction_that_the_engine_takes(made: Case, data: st.DataObject) -> None:
    chosen: set[bytes] = set()
    for redeem in set(made.redeems):
        script = parse_multisig(redeem)
        assert script is not None
        chosen |= set(data.draw(st.permutations(script.keys))[: script.m])
    order = data.draw(st.permutations(sorted(chosen)))
    by_key = signatures(made, order)
    assert all(multisig.check_signatures(made.tx, made.redeems, key, given) for key, given in by_key.items())
    merged = multisig.merge(made.tx, made.redeems, by_key)
    assert multisig.verify(merged, made.redeems, made.amounts) == sum(made.amounts) - sum(
        output.value for output in made.tx.vout
    )
    assert list(map(outpoint_of, merged.vin)) == list(map(outpoint_of, made.tx.vin))
    assert merged.vout == made.tx.vout
    # Every signature may be one or two bytes shorter than at most, and the count of the script's bytes with them.
    size, most = len(serialize_tx(merged)), signed_size(made.tx, made.redeems)
    assert most - 8 * sum(redeem[0] - 0x50 for redeem in made.redeems) <= size <= most
    assert signed_size(merged, made.redeems) == most


@settings(max_examples=40)
@given(cases(), st.data())
def test_one_signature_less_is_refused_and_says_whose_are_missing(made: Case, data: st.DataObject) -> None:
    script = parse_multisig(made.redeems[0])
    assert script is not None
    everybody = {key for redeem in made.redeems for key in getattr(parse_multisig(redeem), "keys", ())}
    silent = data.draw(st.permutations(script.keys))[: len(script.keys) - script.m + 1]
    by_key = signatures(made, sorted(everybody - set(silent)))
    (shortage, *_) = multisig.missing(made.tx, made.redeems, by_key)
    assert (shortage.index, shortage.lacking) == (0, 1)
    assert set(shortage.unsigned) == set(silent)
    with pytest.raises(SignaturesMissing) as caught:
        multisig.merge(made.tx, made.redeems, by_key)
    assert set(caught.value.details["missing"]) == {key.hex() for key in silent}
    assert caught.value.details["wrong"] == {}
    assert caught.value.retry
    assert "missing" in caught.value.hint


@settings(max_examples=60)
@given(st.data())
def test_bad_signatures_are_found_by_key_and_stop_nothing_while_m_are_good(data: st.DataObject) -> None:
    keys = sorted(data.draw(st.permutations(KEYS))[:5])
    made = case([(3, keys), (2, keys[:3])], [0, 1, 0])
    by_key = signatures(made, keys)
    liars = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2, unique=True))
    spoiled = dict(by_key)
    for liar in liars:
        spoiled[liar] = data.draw(st.sampled_from(lies(made, by_key, liar)))
    assert set(multisig.faults(made.tx, made.redeems, spoiled)) == set(liars)
    for key in keys:
        assert multisig.check_signatures(made.tx, made.redeems, key, spoiled[key]) == (key not in liars)
    short = multisig.missing(made.tx, made.redeems, spoiled)
    if short:
        # The second script has three keys, and both liars are among them.
        with pytest.raises(SignaturesMissing) as caught:
            multisig.merge(made.tx, made.redeems, spoiled)
        assert set(caught.value.details["wrong"]) == {liar.hex() for liar in liars}
        assert set(liars) <= set(keys[:3])
    else:
        multisig.verify(multisig.merge(made.tx, made.redeems, spoiled), made.redeems, made.amounts)


def lies(made: Case, by_key: dict[bytes, list[bytes | None]], liar: bytes) -> list[list[bytes | None]]:
    """What somebody may send instead of signatures."""
    own = by_key[liar]
    other = next(key for key in by_key if key != liar)
    of_another = made.redeems[0], by_key[other]
    elsewhere = case([(3, list(by_key))], [0, 0, 0], outputs=3)
    first = own[0]
    assert first is not None
    found: list[list[bytes | None]] = [
        [None, *own[1:]],
        [*own, first],
        own[:-1],
        [],
        [first[:-1] + b"\x02", *own[1:]],
        [b"", *own[1:]],
        [b"\x30" * 72, *own[1:]],
        [high_s(first), *own[1:]],
        [of_another[1][0], *own[1:]],
        multisig.sign(elsewhere.tx, elsewhere.redeems, liar, SECRETS[liar]),
        [own[2], own[1], own[0]],
    ]
    return found


def high_s(signature: bytes) -> bytes:
    """The other signature of the same key over the same hash, which nodes do not relay."""
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    length = signature[3]
    r, s = signature[4 : 4 + length], int.from_bytes(signature[6 + length : -1], "big")
    flipped = (order - s).to_bytes(33, "big")
    body = b"\x02" + bytes([length]) + r + b"\x02\x21" + flipped
    return b"\x30" + bytes([len(body)]) + body + signature[-1:]


def test_a_foreign_key_and_a_signature_where_none_belongs_are_named() -> None:
    made = case([(1, KEYS[:2]), (1, KEYS[2:4])], [0, 1])
    by_key = signatures(made, KEYS[:4])
    stranger = {STRANGER: by_key[KEYS[0]]}
    assert multisig.faults(made.tx, made.redeems, stranger) == {STRANGER: "no input can be signed with this key"}
    both = [by_key[KEYS[0]][0], by_key[KEYS[2]][1]]
    assert "does not name this key" in multisig.faults(made.tx, made.redeems, {KEYS[0]: both})[KEYS[0]]
    assert multisig.missing(made.tx, made.redeems, stranger)[0].unsigned == tuple(KEYS[:2])
    assert not multisig.missing(made.tx, made.redeems, {**stranger, KEYS[0]: both, KEYS[3]: by_key[KEYS[3]]})


def test_whoever_merges_makes_the_same_bytes() -> None:
    made = case([(3, KEYS[:5])], [0, 0])
    by_key = signatures(made, KEYS[:5])
    raw = serialize_tx(multisig.merge(made.tx, made.redeems, by_key))
    assert raw == serialize_tx(multisig.merge(made.tx, made.redeems, dict(reversed(list(by_key.items())))))
    assert raw == serialize_tx(multisig.merge(made.tx, made.redeems, signatures(made, KEYS[:5])))


def test_the_engine_refuses_a_wrong_order_and_wrong_amounts() -> None:
    made = case([(2, KEYS[:3])], [0])
    merged = multisig.merge(made.tx, made.redeems, signatures(made, KEYS[:2]))
    first, second = (multisig.sign(made.tx, made.redeems, key, SECRETS[key])[0] for key in KEYS[:2])
    assert first is not None
    assert second is not None
    script_sig = merged.vin[0].script_sig
    at = script_sig.index(first) - 1
    swapped = script_sig[:at] + bytes([len(second)]) + second + bytes([len(first)]) + first
    wrong = Tx.parse(serialize_tx(merged), check_validity=False)
    wrong.vin[0].script_sig = swapped + script_sig[len(swapped) :]
    with pytest.raises(ScriptRefused):
        multisig.verify(wrong, made.redeems, made.amounts)
    with pytest.raises(BadTransaction, match="more than the inputs"):
        multisig.verify(merged, made.redeems, [DUST])
    with pytest.raises(BadTransaction, match="1 scripts and 2 amounts"):
        multisig.verify(merged, made.redeems, [DUST, DUST])
    assert verify_tx(merged, [(p2sh_script(made.redeems[0]), made.amounts[0])]) > 0


def test_a_payout_over_two_hundred_inputs_is_signed_and_merged_in_a_moment() -> None:
    made = case([(3, KEYS[:5])], [0] * 200, outputs=300)
    began = time.process_time()
    by_key = signatures(made, KEYS[:5])
    multisig.merge(made.tx, made.redeems, by_key)
    took = time.process_time() - began
    assert took < 5, f"{took:.1f} s"
    assert 87_000 < signed_size(made.tx, made.redeems) < multisig.MAX_STANDARD_SIZE
    assert fee_for(signed_size(made.tx, made.redeems)) < max_fee(signed_size(made.tx, made.redeems)) < 1.2 * COIN
