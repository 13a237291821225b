"""Dated snapshots of a Debian mirror: the same packages today and in a year."""

import contextlib
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from build_script.mirror import Source, answers
from build_script.progress import Failed

MOMENT = "%Y%m%dT%H%M%SZ"
"""How archives of snapshots write a moment (UTC)."""


def announced(source: Source) -> str:
    """The `Snapshots:` address that an archive's signed index announces, or nothing."""
    address = f"{source.uri}/dists/{source.suites[0]}/InRelease"
    try:
        with urllib.request.urlopen(address, timeout=10) as reply:  # noqa: S310 - http(s) only
            text = reply.read(65536).decode(errors="replace")
    except (urllib.error.URLError, OSError, ValueError):
        return ""
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Snapshots:")), "")


def dated(
    sources: Sequence[Source],
    date: str,
    exists: Callable[[str, str], bool] = answers,
    template: Callable[[Source], str] = announced,
) -> list[Source]:
    """The same archives as they were on `date` (20260912 or 20260912T000000Z).

    An archive tells where its snapshots are, or keeps them below itself by date, as snapshot archives do.
    Raises Failed when one of them has none of that date.
    """
    found = _moment(date)
    return [_one(source, found, exists, template(source)) for source in sources]


def _moment(date: str) -> str:
    for form in ("%Y%m%d", MOMENT):
        with contextlib.suppress(ValueError):
            found = datetime.strptime(date, form)  # noqa: DTZ007 - UTC, and only written down again
            # strptime takes single digits as well.
            if found.strftime(form) == date:
                return found.strftime(MOMENT)
    raise Failed(f"--snapshot {date}: a date like 20260912 or 20260912T000000Z is needed")


def _one(source: Source, moment: str, exists: Callable[[str, str], bool], told: str) -> Source:
    addresses = [told.replace("@SNAPSHOTID@", moment).rstrip("/")] if told else []
    for address in [*addresses, f"{source.uri}/{moment}"]:
        if exists(address, source.suites[0]):
            return replace(source, uri=address, check_valid_until=False)
    raise Failed(
        f"{source.uri} has no snapshot of {moment}, or does not answer: "
        "leave --snapshot out, or name an archive of snapshots with --mirror"
    )
