"""iroh-ffi #229: the 1.2.0 wheel copies every buffer to Rust byte by byte in Python.

One copy of the whole buffer instead gives 2x on small calls and 33x on large payloads. The test
`test_the_write_fix_is_still_needed` fails as soon as the wheel does it itself; this module can go then.
"""

import ctypes
from typing import Any

from iroh import iroh_ffi


def _write(self: Any, value: Any) -> None:
    data = bytes(value)
    with self._reserve(len(data)):
        ctypes.memmove(ctypes.addressof(self.rbuf.data.contents) + self.rbuf.len, data, len(data))


def apply() -> None:
    """Replace the slow copy; doing it twice changes nothing."""
    setattr(iroh_ffi._UniffiRustBufferBuilder, "write", _write)  # noqa: B010 - mypy forbids the plain form
