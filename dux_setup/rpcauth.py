"""Logins in the form of Core's `rpcauth`: `user:salt$hmac`, which lets whoever reads the file not log in.

Flopcoin Core (and every Core of the Bitcoin 0.12 family or newer) takes such a value in its configuration; the trial
chain's file of users holds one a line.
"""

import hashlib
import hmac
import re
import secrets

_USER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ENTRY = re.compile(r"([A-Za-z0-9_.-]{1,64}):([0-9a-f]{16,64})\$([0-9a-f]{64})")


def new_password() -> str:
    """43 characters of A–Z a–z 0–9 - _ with 256 random bits; safe in addresses, files and command lines."""
    return secrets.token_urlsafe(32)


def _digest(salt: str, password: str) -> str:
    return hmac.new(salt.encode(), password.encode(), hashlib.sha256).hexdigest()


def rpcauth(user: str, password: str) -> str:
    """`user:salt$hmac` with a fresh salt. Raises ValueError for a user name that could not stand in the line."""
    if not _USER.fullmatch(user):
        raise ValueError(f"{user!r} is no user name: up to 64 of A-Z a-z 0-9 _ . - are allowed")
    salt = secrets.token_hex(16)
    return f"{user}:{salt}${_digest(salt, password)}"


def parse(entry: str) -> tuple[str, str, str]:
    """User, salt and HMAC of a line. Raises ValueError when it has another form."""
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ValueError("expected user:salt$hmac, in the form of Core's rpcauth")
    return match[1], match[2], match[3]


def accepts(entry: str, user: str, password: str) -> bool:
    """Whether `entry` lets `user` in with `password`, compared in constant time. Raises ValueError like `parse`."""
    name, salt, digest = parse(entry)
    right = hmac.compare_digest(_digest(salt, password), digest)
    return hmac.compare_digest(name.encode(), user.encode()) and right
