"""Logins in the form of Core's rpcauth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dux_setup.rpcauth import accepts, new_password, parse, rpcauth

USERS = st.text("abcXYZ019_.-", min_size=1, max_size=64)
PASSWORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=80)


@given(user=USERS, password=PASSWORDS, other=PASSWORDS)
def test_an_entry_lets_in_its_password_and_no_other(user: str, password: str, other: str) -> None:
    entry = rpcauth(user, password)
    assert accepts(entry, user, password)
    assert accepts(entry, user, other) == (other == password)
    assert not accepts(entry, user + "x", password)


@given(user=USERS, password=PASSWORDS)
def test_two_entries_of_one_password_have_nothing_in_common_but_the_user(user: str, password: str) -> None:
    first, second = (parse(rpcauth(user, password)) for _ in range(2))
    assert first[0] == second[0] == user
    assert first[1] != second[1]
    assert first[2] != second[2]


def test_the_hmac_is_keyed_with_the_salt_as_it_is_written() -> None:
    # printf 'correct horse' | openssl dgst -sha256 -hmac a1b2c3d4e5f60718293a4b5c6d7e8f90
    digest = "c02b832cd7914092453bb6eedb68440ade6b028b7e41b0b27c5ff90add355bbd"
    entry = f"dux:a1b2c3d4e5f60718293a4b5c6d7e8f90${digest}"
    assert parse(entry) == ("dux", "a1b2c3d4e5f60718293a4b5c6d7e8f90", digest)
    assert accepts(entry, "dux", "correct horse")
    assert not accepts(entry, "dux", "")


@pytest.mark.parametrize(
    "entry",
    ["", "dux", "dux:", "dux:aa$bb", "d ux:" + "a" * 32 + "$" + "b" * 64, "dux:" + "a" * 32 + "$" + "b" * 64 + "\n"],
)
def test_another_form_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="rpcauth"):
        parse(entry)


@pytest.mark.parametrize("user", ["", "a:b", "a b", "a\nb", "ä", "x" * 65])
def test_a_user_name_that_breaks_the_line_is_refused(user: str) -> None:
    with pytest.raises(ValueError, match="user name"):
        rpcauth(user, "secret")


def test_passwords_can_stand_in_an_address_and_are_never_the_same() -> None:
    made = {new_password() for _ in range(100)}
    assert len(made) == 100
    assert all(not set(password) & set("/?#@[]: ") and len(password) == 43 for password in made)
