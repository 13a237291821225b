"""A node's Ed25519 key: its id in the network, its iroh endpoint id, and what signs its records."""

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .errors import KeyFileUnsafe
from .files import write_atomic


class Identity:
    """The private half; only dux-registryd holds one."""

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.secret = secret
        self.node_id = self._key.public_key().public_bytes_raw().hex()

    def __repr__(self) -> str:
        return f"Identity({self.node_id})"

    @classmethod
    def generate(cls) -> "Identity":
        """A new random identity."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def load_or_create(cls, path: Path) -> "Identity":
        """The identity stored in `path` (32 raw bytes, mode 0600); made there when the file is missing.

        Raises KeyFileUnsafe when others may read it, this user may not, or it is not 32 bytes long.
        """
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                secret = file.read(64)
        except FileNotFoundError:
            identity = cls.generate()
            write_atomic(path, identity.secret, mode=0o600)
            return identity
        except OSError as error:
            raise KeyFileUnsafe(
                f"{path} can't be read: {error.strerror}", hint=f"Give it to this daemon's user alone: `ls -l {path}`."
            ) from error
        if mode & 0o077:
            raise KeyFileUnsafe(f"{path} may be read by others (mode {mode & 0o777:o})")
        if len(secret) != 32:
            raise KeyFileUnsafe(f"{path} does not hold a node key", hint="Restore the file from a backup.")
        return cls(secret)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature."""
        return self._key.sign(message)


def verify(node_id: str, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is the node's over `message`; False for malformed keys and signatures too."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(node_id)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
