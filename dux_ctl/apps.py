"""`dux-ctl app init|test|publish` for sellers, `app search` for buyers."""

import argparse
import base64
import contextlib
import json
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duxcommon.errors import InvalidParams, SampleFailed, ScanRefused
from duxcommon.money import DUST, format_flop, split

from . import catalogue, exits, generated, ids, render
from .control import Control

if TYPE_CHECKING:
    from duxcommon.api.manifest import Manifest
    from duxcommon.bundle import Packed

CHUNK = 1 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
PUBLISHER_DIGITS = 8
"""Of a publisher's id, in `name@publisher`."""


def register(verbs: Any) -> set[str]:
    """Add the verbs that need more than a call; their names."""
    init = verbs.add_parser(
        "init",
        help="write a working app to start from",
        description="Write a small working app into a new folder.",
        epilog="example: dux-ctl app init word-count && dux-ctl app test word-count",
    )
    init.add_argument("name", help="lower-case letters, digits and hyphens")
    init.add_argument("--dir", type=Path, metavar="DIR", help="where to write it (default: ./NAME)")
    init.set_defaults(run=run_init)
    test = verbs.add_parser(
        "test",
        help="check an app and run its sample in a sandbox, as a buyer's call would",
        description="Pack an app, check it, run its sample in a sandbox of this machine and compare the result.",
        epilog="example: dux-ctl app test ./word-count",
    )
    test.add_argument("dir", type=Path, help="the app's folder")
    test.add_argument("--accept", action="store_true", help="take the result as the sample's expected output")
    test.set_defaults(run=run_test)
    publish = verbs.add_parser(
        "publish",
        help="pack an app with its locked wheels, upload and publish it",
        description="Pack an app with its locked wheels, upload it to this node and publish its listing.",
        epilog="example: dux-ctl app publish ./word-count",
    )
    publish.add_argument("dir", type=Path, help="the app's folder")
    publish.add_argument("--key", help="idempotency key: a repeat with the same key never acts twice")
    publish.set_defaults(run=run_publish)
    search = verbs.add_parser(
        "search",
        help="search the apps of the network",
        description="Search the apps of the network; those that a live node serves come first.",
        epilog="example: dux-ctl app search image upscale --max-price 10",
    )
    search.add_argument("words", nargs="*", help="in name, tags or summary")
    search.add_argument("--tag", action="append", default=[], help="must have this tag; may be repeated")
    generated.amount_option(search, "--max-price", "the most that a call may cost")
    search.add_argument("--publisher", metavar="NODE", help="only this node's apps")
    search.add_argument("--limit", type=int, default=50, metavar="N", help="apps on a page (default: 50)")
    search.add_argument("--after", metavar="NEXT", help="the `next` of the page before")
    search.set_defaults(run=run_search)
    show = verbs.add_parser(
        "show",
        help="show an app: price, what it takes and gives, its parameters",
        description="Show an app: price, publisher, what it takes and gives, its parameters.",
        epilog="example: dux-ctl app show image-upscale",
    )
    show.add_argument("app", help="its name, name@publisher, or id")
    show.set_defaults(run=run_show)
    return {"init", "test", "publish", "search", "show"}


def run_init(args: argparse.Namespace, control: Control) -> int:
    """Write the skeleton."""
    from . import skeleton

    folder = args.dir or Path(args.name)
    if not _NAME.fullmatch(args.name):
        raise InvalidParams(
            f"{args.name!r} is not an app's name",
            hint="Use at most 64 lower-case letters, digits and hyphens, like word-count.",
        )
    files = skeleton.write(folder, args.name)
    value = {"name": args.name, "folder": str(folder), "files": [str(path) for path in files]}
    control.emit(
        value,
        lambda: "\n".join([*(f"wrote {path}" for path in files), f"next: dux-ctl app test {folder}"]),
    )
    return exits.OK


def run_test(args: argparse.Namespace, control: Control) -> int:
    """Pack, scan, run the sample, compare, and say what a call would pay."""
    from . import trial

    with _expected(args.dir, args.accept), packed(args.dir, control) as (bundle, pack, manifest):
        findings = _scan(bundle, pack.hash, control)
        control.note(f"{manifest.name} {manifest.version}: {pack.members} files and folders, {pack.size} bytes")
        value: dict[str, Any] = {
            "name": manifest.name,
            "version": manifest.version,
            "bundle": pack.hash,
            "size": pack.size,
            "findings": findings,
            **_payout(manifest.price),
        }
        if manifest.runtime == "command":
            outcome = trial.run_sample(bundle, args.dir, manifest, lambda log: _show_log(control, log))
            result = outcome.result
            control.note(f"sandbox: {outcome.sandbox}")
            verdict = _judge(args.dir, manifest, outcome, accept=args.accept)
            value |= {
                "sandbox": outcome.sandbox, "wall_ms": result["wall_ms"], "cpu_ms": result["cpu_ms"],
                "output_size": len(outcome.output or b""), "verdict": verdict,
            }  # fmt: skip
        else:
            value |= {"verdict": _answers(manifest.url)}
    control.emit(value, lambda: _test_text(value))
    return exits.OK


def run_publish(args: argparse.Namespace, control: Control) -> int:
    """Pack, upload, publish."""
    with packed(args.dir, control) as (bundle, pack, manifest):
        control.note(f"{manifest.name} {manifest.version}: {pack.members} files and folders, {pack.size} bytes")
        upload(control, bundle, pack.size)
        key = args.key or f"ctl-{secrets.token_hex(12)}"
        try:
            reply = control.call("app.publish", {"bundle": pack.hash, "key": key})
        except ScanRefused as error:
            _show_findings(control, error.details.get("findings", []))
            raise
    price = format_flop(manifest.price)
    text = f"published {reply['name']} at {price} FLOP a call\napp {reply['app']}"
    if not reply["announced"]:
        text += "\nno other node could be reached yet; this node goes on trying"
    for finding in reply["findings"]:
        control.note(f"warning: {finding}")
    control.emit(reply, lambda: text)
    return exits.OK


def run_search(args: argparse.Namespace, control: Control) -> int:
    """Search, and show a table."""
    params: dict[str, Any] = {"words": " ".join(args.words), "tags": args.tag, "limit": args.limit}
    for name in ("max_price", "publisher", "after"):
        if getattr(args, name) is not None:
            params[name] = getattr(args, name)
    page = control.call("app.search", ids.complete("app.search", params, control))
    control.emit(page, lambda: _search_text(page))
    return exits.OK


def run_show(args: argparse.Namespace, control: Control) -> int:
    """Show a listing, and what its manifest says about a call."""
    listing = control.call("app.show", {"app": args.app})
    control.emit(listing, lambda: _show_text(listing))
    return exits.OK


# --- the parts -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def packed(folder: Path, control: Control) -> "Iterator[tuple[Path, Packed, Manifest]]":
    """The app's bundle in a temporary folder, its wheels inside."""
    from duxcommon import bundle

    from . import wheels

    manifest = bundle.load_manifest(folder / bundle.MANIFEST)
    with tempfile.TemporaryDirectory(prefix="dux") as name:
        site: Path | None = None
        lock = folder / wheels.LOCK
        if lock.is_file() and wheels.unpack_locked(lock, Path(name) / "site", control.note):
            site = Path(name) / "site"
        target = Path(name) / "app.bundle"
        yield target, bundle.pack(folder, target, site=site), manifest


@contextlib.contextmanager
def _expected(folder: Path, accept: bool) -> Iterator[None]:
    """With `accept`, an expected output that is still missing stands empty in the bundle; gone if the test fails."""
    from duxcommon import bundle

    sample = bundle.load_manifest(folder / bundle.MANIFEST).sample
    path = folder / sample.output if accept and sample and sample.output else None
    if path is None or path.exists():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        yield
    except BaseException:
        path.unlink()
        raise


def _scan(bundle: Path, digest: str, control: Control) -> list[dict[str, Any]]:
    """The findings of the scan that publishing does. Raises ScanRefused."""
    from dux_store.scan import scan
    from duxcommon.machine import this_machine

    report, _ = scan(bundle, digest, this_machine())
    findings = [finding.model_dump() for finding in report.findings]
    _show_findings(control, findings)
    errors = sum(finding["severity"] == "error" for finding in findings)
    if errors:
        raise ScanRefused(f"{report.name} has {errors} errors and can't be published", details={"findings": findings})
    return findings


def _show_findings(control: Control, findings: list[dict[str, Any]]) -> None:
    for finding in findings:
        place = f"{finding['path']} " if finding["path"] else ""
        control.note(f"{finding['severity']}: {place}{finding['message']}")


def _show_log(control: Control, log: str) -> None:
    for line in log.splitlines():
        if not line.startswith("::progress "):
            control.note(f"  | {line}")


def _judge(folder: Path, manifest: "Manifest", outcome: Any, *, accept: bool) -> str:
    """Whether the sample gave what it should, in words. Raises SampleFailed."""
    result = outcome.result
    if result["outcome"] != "ok":
        code = "" if result["exit_code"] is None else f" (exit status {result['exit_code']})"
        raise SampleFailed(
            f"the sample ended with {result['outcome']!r}{code}{': ' + result['detail'] if result['detail'] else ''}",
            details={"log": result["log"]},
        )
    if outcome.output is None:
        if manifest.output.required:
            raise SampleFailed("the sample ran, but left no /out/output", hint="Write the result to /out/output.")
        return "no output, as allowed"
    expected = manifest.sample.output if manifest.sample else None
    if expected is None:
        return "not compared: the sample names no expected output"
    path = folder / expected
    if accept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(outcome.output)
        return f"accepted: written to {path}"
    wanted = path.read_bytes()
    if wanted == outcome.output:
        return "as expected"
    if not manifest.deterministic:
        return "differs from the sample's output, as an app may that is not deterministic"
    place = next((n for n, (a, b) in enumerate(zip(wanted, outcome.output, strict=False)) if a != b), None)
    where = f"they differ from byte {place} on" if place is not None else "one is the beginning of the other"
    raise SampleFailed(
        f"the result is not the expected one: {len(outcome.output)} bytes, expected {len(wanted)}; {where}",
        hint="Mend the app, or take the new result with `dux-ctl app test --accept`.",
    )


def _answers(url: str) -> str:
    """Whether the provider's own API is there. Raises SampleFailed."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5).close()
    except (OSError, ValueError) as error:
        raise SampleFailed(f"nothing answers at {url}: {error}", hint="Start your API, then test again.") from None
    return f"{url} answers; it was not called"


def _payout(price: int) -> dict[str, Any]:
    from duxcommon.parameters import Parameters

    rates = Parameters()
    if price < 2 * DUST:
        return {"price": price, "provider": 0, "tax": 0, "tax_bps": rates.tax_bps}
    parts = split(price, rates.tax_bps, rates.min_tax)
    return {"price": price, "provider": parts.provider, "tax": parts.tax, "tax_bps": rates.tax_bps}


def _test_text(value: dict[str, Any]) -> str:
    lines = []
    if "wall_ms" in value:
        times = f"{value['wall_ms'] / 1000:.2f} s, {value['cpu_ms'] / 1000:.2f} s of it on the processor"
        lines.append(f"the sample ran for {times}; result of {value['output_size']} bytes")
    lines.append(f"verdict: {value['verdict']}")
    price, percent = format_flop(value["price"]), f"{value['tax_bps'] / 100:g} %"
    if value["provider"]:
        lines.append(
            f"nothing was paid; on the network this call would have cost {price} FLOP: "
            f"{format_flop(value['provider'])} for you, {format_flop(value['tax'])} for the community fund ({percent})"
        )
    elif value["price"]:
        lines.append(
            f"nothing was paid; at {price} FLOP a call, a channel must carry several before it can pay out (0.02 FLOP)"
        )
    else:
        lines.append("the app is free")
    return "\n".join(lines)


def upload(control: Control, bundle: Path, size: int) -> None:
    number, offset = secrets.token_hex(8), 0
    with bundle.open("rb") as file:
        while offset < size:
            piece = file.read(CHUNK)
            data = base64.b64encode(piece).decode()
            final = offset + len(piece) == size
            control.call("blob.write", {"upload": number, "offset": offset, "data": data, "final": final})
            offset += len(piece)
            control.progress(f"uploading: {100 * offset // size} %")
    control.progress("")


def _search_text(page: dict[str, Any]) -> str:
    listings = page["listings"]
    if not listings:
        return "no app matches"
    names = [listing["name"] for listing in listings]
    cells = [
        [
            listing["name"]
            if names.count(listing["name"]) == 1
            else f"{listing['name']}@{listing['publisher'][:PUBLISHER_DIGITS]}",
            format_flop(listing["price"]),
            str(listing["live_providers"]),
            ",".join(listing["tags"]),
            listing["summary"],
        ]
        for listing in listings
    ]
    text = render.columns(["app", "FLOP", "live", "tags", "summary"], cells)
    if page["next"] is not None:
        text += f"\nmore: --after {page['next']}"
    return text


def _show_text(listing: dict[str, Any]) -> str:
    manifest = listing["record"]["body"]["manifest"]
    plain = {name: value for name, value in listing.items() if name != "record"}
    lines = [
        render.reply(plain, catalogue.load()["methods"]["app.show"]["reply"]),
        _files("takes", manifest.get("input")),
        _files("gives", manifest.get("output")),
    ]
    if manifest.get("terms"):
        lines.append(f"{'terms':<14}  {manifest['terms']}")
    settable = (manifest.get("params") or {}).get("properties", {})
    lines.append("parameters (--set NAME=VALUE):" if settable else "no parameters")
    lines += [f"  {name:<12}  {_values(schema)}" for name, schema in settable.items()]
    return "\n".join(lines)


def _files(title: str, files: dict[str, Any] | None) -> str:
    if not files:
        return f"{title:<14}  any file"
    wanted = "" if files.get("required", True) else "; none is needed"
    return f"{title:<14}  {', '.join(files['media'])}, at most {files['max_bytes']} bytes{wanted}"


def _values(schema: dict[str, Any]) -> str:
    """What a parameter may be, in words."""
    parts = []
    if "enum" in schema:
        parts.append(" or ".join(json.dumps(one) for one in schema["enum"]))
    elif isinstance(schema.get("type"), str):
        parts.append(schema["type"])
    if "minimum" in schema or "maximum" in schema:
        parts.append(f"from {schema.get('minimum', '…')} to {schema.get('maximum', '…')}")
    if "default" in schema:
        parts.append(f"{json.dumps(schema['default'])} where nothing is said")
    if isinstance(schema.get("description"), str):
        parts.append(schema["description"])
    return ", ".join(parts) or "anything"
