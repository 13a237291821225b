"""`dux-ctl task run`: send a file to an app, follow the progress, save the checked result."""

import argparse
import base64
import hashlib
import json
import mimetypes
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from duxcommon.errors import DuxError, InvalidParams, WalletLocked, from_rpc
from duxcommon.money import format_flop

from . import asking, exits, generated, ids, screens
from .control import Control

INLINE_MAX = 65_536
"""Bytes that travel inside the call (duxcommon.api.taskd.INLINE_MAX)."""
CHUNK = 1 << 20
WAIT_S = 20.0
ENDED = ("DONE", "FAILED", "CANCELLED")


def register(verbs: Any) -> set[str]:
    """Add the verbs that need more than a call."""
    run = verbs.add_parser(
        "run",
        help="run an app on another node and pay for its checked result",
        description="Run an app on another node and pay for its checked result.",
        epilog="example: dux-ctl task run image-upscale photo.png --set factor=2 --output big.png",
    )
    run.add_argument("app", help="its name, name@publisher, or id")
    run.add_argument("file", nargs="?", type=Path, help="the input; - reads standard input")
    run.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the app")
    run.add_argument(
        "--output", "-o", type=Path, metavar="FILE", help="where the result goes (default: standard output)"
    )
    run.add_argument("--force", action="store_true", help="overwrite the output file")
    generated.amount_option(run, "--max-price", "the most that you will pay for this call")
    generated.amount_option(run, "--expect-price", "the price that you were shown: a higher one is refused")
    run.add_argument("--provider", metavar="NODE", help="only this node")
    run.add_argument("--deadline-s", type=int, metavar="S", help="give up after so many seconds")
    run.add_argument("--retries", type=int, metavar="N", help="other providers to try when one fails")
    run.add_argument("--priority", type=int, metavar="N", help="higher goes first in this node's queue")
    run.add_argument("--key", help="idempotency key: a repeat with the same key follows the first call")
    run.add_argument("--detach", action="store_true", help="print the task's id and don't wait")
    run.set_defaults(run=run_task)
    result = verbs.add_parser(
        "result",
        help="save the result of a task, waiting for it where it still runs",
        description="Save the result of a task, waiting for it where it still runs.",
        epilog="example: dux-ctl task result 3f9c01ab --output big.png",
    )
    result.add_argument("id", help="the task; the first 6 digits are enough")
    result.add_argument(
        "--output", "-o", type=Path, metavar="FILE", help="where the result goes (default: standard output)"
    )
    result.add_argument("--force", action="store_true", help="overwrite the output file")
    result.set_defaults(run=save_result)
    logs = verbs.add_parser(
        "logs",
        help="print what the app wrote while it ran",
        description="Print what the app wrote while it ran.",
        epilog="example: dux-ctl task logs 3f9c01ab --follow",
    )
    logs.add_argument("id", help="the task; the first 6 digits are enough")
    logs.add_argument("--offset", type=int, default=0, metavar="N", help="leave out so many bytes")
    logs.add_argument("--follow", "-f", action="store_true", help="go on until the task has ended")
    logs.set_defaults(run=print_logs)
    return {"run", "result", "logs"}


def _params(settings: list[str]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or not name:
            raise InvalidParams(f"--set {setting!r}: expected NAME=VALUE", hint="Write it like --set factor=2.")
        try:
            params[name] = json.loads(text)
        except ValueError:
            params[name] = text
    return params


def _read(file: Path | None) -> tuple[bytes, str] | None:
    if file is None:
        return None
    try:
        data = asking.stdin().buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise InvalidParams(f"can't read {file}: {error.strerror}", hint="Check the file's name and rights.") from None
    media = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return data, media


def upload(control: Control, data: bytes) -> str:
    """Put bytes into the node's blob store, piece by piece; their hash."""
    number = secrets.token_hex(8)
    offset = 0
    while True:
        piece = data[offset : offset + CHUNK]
        final = offset + len(piece) == len(data)
        reply = control.call(
            "blob.write",
            {"upload": number, "offset": offset, "data": base64.b64encode(piece).decode(), "final": final},
        )
        offset += len(piece)
        if len(data) > CHUNK:
            control.progress(f"reading input: {100 * offset // len(data)} %")
        if final:
            digest: str = reply["blob"]["hash"]
            return digest


def payload(control: Control, file: Path | None) -> dict[str, Any] | None:
    """The input as `task.run` takes it: inside the message where it is small, a blob otherwise."""
    read = _read(file)
    if read is None:
        return None
    data, media = read
    value: dict[str, Any] = {"hash": hashlib.sha256(data).hexdigest(), "size": len(data), "media": media}
    if len(data) <= INLINE_MAX:
        value["data"] = base64.b64encode(data).decode()
    else:
        upload(control, data)
    return value


def fetch_result(control: Control, result: dict[str, Any]) -> bytes:
    """The bytes of a task's result, checked against their hash."""
    if result.get("data") is not None:
        data = base64.b64decode(result["data"])
    else:
        parts = bytearray()
        while len(parts) < result["size"]:
            chunk = control.call("blob.read", {"hash": result["hash"], "offset": len(parts), "length": CHUNK})
            parts += base64.b64decode(chunk["data"])
        data = bytes(parts)
    if hashlib.sha256(data).hexdigest() != result["hash"]:
        raise InvalidParams("the result's bytes do not match its hash", hint="Run `dux-ctl task result` again.")
    return data


def _check_output(args: argparse.Namespace) -> None:
    if args.output is not None and args.output.exists() and not args.force:
        raise InvalidParams(f"{args.output} exists", hint="Choose another name, or add --force.")
    if args.output is not None and not args.output.absolute().parent.is_dir():
        raise InvalidParams(f"the folder of {args.output} does not exist", hint="Make it, or choose another place.")


def _save(control: Control, args: argparse.Namespace, task: dict[str, Any]) -> None:
    data = fetch_result(control, task["result"])
    if args.output is not None:
        args.output.write_bytes(data)
        control.note(f"result: {args.output} ({len(data)} bytes)")
        media = task["result"]["media"]
        if mimetypes.guess_type(args.output.name)[0] not in (media, None) and media != "application/octet-stream":
            control.note(f"its name says otherwise, but it is {media}")
    elif not control.as_json:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()


def follow(control: Control, task: dict[str, Any]) -> dict[str, Any]:
    """Wait until the task has ended, showing each step and the app's own progress."""
    shown = ""
    while task["state"] not in ENDED:
        line = task["step"] + (f" {task['progress']} %" if task["state"] == "ORDERED" and task["progress"] else "")
        if task["step"] != shown:
            control.progress("")
            control.note(f"{time.strftime('%H:%M:%S')}  {task['step']}")
            shown = task["step"]
        else:
            control.progress(f"          {line}")
        task = control.call(
            "task.status",
            {"id": task["id"], "wait_s": WAIT_S, "progress": task["progress"]},
            timeout=control.timeout + WAIT_S,
        )
    control.progress("")
    return task


def _check_keys(control: Control) -> None:
    """A locked wallet could hold money for work, but not pay for it. Raises WalletLocked."""
    try:
        locked = control.call("wallet.status")["locked"]
    except DuxError:
        return  # taskd goes on by itself once flopd is back, and says so until then
    if locked:
        raise WalletLocked("the wallet is locked: nothing can be paid, so nothing was ordered")


def run_task(args: argparse.Namespace, control: Control) -> int:
    """Order, follow, save. The key makes a repeat after Ctrl-C follow the same task."""
    _check_output(args)
    _check_keys(control)
    params: dict[str, Any] = {
        "app": args.app,
        "key": args.key or f"ctl-{secrets.token_hex(12)}",
        "params": _params(args.set),
        "input": payload(control, args.file),
    }
    for name in ("max_price", "deadline_s", "retries", "priority"):
        if getattr(args, name) is not None:
            params[name] = getattr(args, name)
    if args.expect_price is not None:
        params["expect_price"] = args.expect_price
    if args.provider:
        params["provider"] = ids.node(control, args.provider)
    task = control.call("task.run", params)
    if args.detach:
        control.emit_reply("task.run", task)
        return exits.OK
    control.note(f"task {task['id']} (after Ctrl-C: `dux-ctl task result {task['id']}`)")
    return _finish(control, args, follow(control, task))


def _finish(control: Control, args: argparse.Namespace, task: dict[str, Any]) -> int:
    if task["state"] != "DONE":
        error = from_rpc(task["error"] or {"message": f"the task was {task['state'].lower()}", "data": {}})
        control.fail(task, f"{task['name']}: no result, nothing paid", error)
        return exits.status_of_task(error)
    _save(control, args, task)
    if not control.as_json:
        paid = f"paid {format_flop(task['price'])} FLOP to node {task['provider'][:12]}…"
        control.note(screens.labelled(paid, {}, control))
    if control.as_json:
        control.emit_reply("task.run", task)
    return exits.OK


def save_result(args: argparse.Namespace, control: Control) -> int:
    """Write what a finished task returned."""
    _check_output(args)
    return _finish(control, args, follow(control, control.call("task.status", {"id": ids.task(control, args.id)})))


def print_logs(args: argparse.Namespace, control: Control) -> int:
    """Write the app's log, as it grows where that was asked for."""
    task, offset = ids.task(control, args.id), args.offset
    while True:
        ended = control.call("task.status", {"id": task})["state"] in ENDED
        log = control.call("task.logs", {"id": task, "offset": offset})
        if control.as_json:
            print(json.dumps(log, ensure_ascii=False, indent=None if args.follow else 2), flush=True)
        else:
            print(log["text"], end="", flush=True)
        offset = log["next_offset"]
        if ended or not args.follow:
            return exits.OK
        time.sleep(0.5)
