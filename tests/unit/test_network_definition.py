"""The network definition: the one file by which a node joins a network, and what makes it unforgeable."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from duxcommon.errors import BadSignature, ConfigError, NetworkMissing, NewerFormat
from duxcommon.identity import Identity
from duxcommon.network import Member, NetworkDefinition, dump_network, load_network
from tests.support.network import PUBKEY, definition

GUARDIANS = [Identity(bytes([n]) * 32) for n in range(3)]


def three_guardians() -> NetworkDefinition:
    keys = [f"02{n}{n}" + "11" * 31 for n in range(3)]
    members = [Member(node=g.node_id, pubkey=key) for g, key in zip(GUARDIANS, keys, strict=True)]
    network = definition(GUARDIANS[0]).model_copy(update={"guardians": members, "guardians_m": 2, "signatures": {}})
    for guardian in GUARDIANS:
        network = network.signed_by(guardian)
    return network


def test_a_signed_definition_is_read_back_as_it_was(tmp_path: Path) -> None:
    network = three_guardians()
    path = tmp_path / "network.yaml"
    path.write_text(dump_network(network))
    assert load_network(path) == network
    assert load_network(path).id == network.id
    assert len(network.id) == 64


def test_its_id_names_everything_but_the_signatures() -> None:
    network = three_guardians()
    assert network.model_copy(update={"signatures": {}}).id == network.id
    for change in ({"name": "other"}, {"birth_height": 1}, {"guardians_m": 3}, {"genesis": "11" * 32}):
        assert network.model_copy(update=change).id != network.id


def test_a_definition_that_lacks_one_guardians_signature_is_refused(tmp_path: Path) -> None:
    network = three_guardians()
    path = tmp_path / "network.yaml"
    for missing in GUARDIANS:
        signatures = {node: sig for node, sig in network.signatures.items() if node != missing.node_id}
        path.write_text(dump_network(network.model_copy(update={"signatures": signatures})))
        with pytest.raises(BadSignature, match=missing.node_id[:16]) as caught:
            load_network(path)
        assert caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"guardians_m": 1},
        {"bootstrap": ["198.51.100.1:4000"]},
        {"relays": ["https://relay.example/"]},
        {"birth_height": 7},
        {"parameters": {"tax_bps": 0, "min_tax": 1_000_000, "airdrop_threshold": 10**10}},
    ],
)
def test_a_definition_that_was_changed_after_signing_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "network.yaml"
    path.write_text(yaml.safe_dump({**three_guardians().model_dump(), **change}))
    with pytest.raises(BadSignature):
        load_network(path)


def test_a_signature_of_somebody_else_does_not_help(tmp_path: Path) -> None:
    network = three_guardians().model_copy(update={"name": "evil"})
    thief = Identity.generate()
    forged = network.signed_by(thief)
    path = tmp_path / "network.yaml"
    path.write_text(dump_network(forged))
    with pytest.raises(BadSignature):
        load_network(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guardians_m": 4}, "guardians_m is 4, but there are 3 guardians"),
        ({"guardians": []}, "guardians: List should have at least 1 item"),
        ({"arbiters": []}, "arbiters: List should have at least 1 item"),
        ({"chain": "bitcoin"}, "chain: Input should be"),
        ({"genesis": "12"}, "genesis: String should match"),
        ({"format": 0}, "format: Input should be 1"),
        ({"name": "Dux Net"}, "name: String should match"),
        ({"birth_height": -1}, "birth_height: Input should be greater"),
        ({"bootstrap": ["nowhere"]}, "bootstrap.0: String should match"),
        ({"bootstrap": ["198.51.100.1:70000"]}, "bootstrap.0: Value error, 70000 is no port"),
        ({"more": 1}, "unknown key 'more'"),
        ({"parameters": {"tax_bps": 2001}}, "parameters.tax_bps: Input should be less"),
        ({"signatures": {"x": "00" * 64}}, "signatures"),
    ],
)
def test_a_definition_in_a_wrong_form_is_refused_with_file_and_place(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "network.yaml"
    path.write_text(yaml.safe_dump({**three_guardians().model_dump(), **change}))
    with pytest.raises(ConfigError) as caught:
        load_network(path)
    assert str(path) in caught.value.message
    assert words in caught.value.message


def test_two_guardians_can_not_share_a_key() -> None:
    member = {"node": GUARDIANS[0].node_id, "pubkey": PUBKEY}
    other = {"node": GUARDIANS[1].node_id, "pubkey": PUBKEY}
    with pytest.raises(ValidationError, match="two guardians have the same key"):
        NetworkDefinition.model_validate(
            {**three_guardians().model_dump(), "guardians": [member, other], "guardians_m": 1}
        )


def test_a_missing_definition_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(NetworkMissing, match=r"network\.yaml") as caught:
        load_network(tmp_path / "network.yaml")
    assert "network" in caught.value.hint


def test_only_the_main_chains_coins_have_a_value() -> None:
    assert definition().worthless
    assert not definition().model_copy(update={"chain": "main"}).worthless


def test_a_definition_of_a_newer_format_asks_for_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "network.yaml"
    path.write_text(yaml.safe_dump({**three_guardians().model_dump(), "format": 2, "shards": 7}))
    with pytest.raises(NewerFormat, match="of format 2; this version of Dux OS knows format 1") as caught:
        load_network(path)
    assert "Install a newer version" in caught.value.hint
