"""The connection to Core: it heals, it checks, and it never repeats what must not be repeated."""

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dux_flopd import core as core_module
from dux_flopd.core import CALLS, WORKERS, Core, to_coins, to_koinu
from dux_flopd.settings import CoreSettings
from duxcommon.config import validate
from duxcommon.errors import (
    ChainAuthFailed,
    ChainDown,
    ChainFault,
    ChainWalletLocked,
    ConfigError,
    DuxError,
    WrongChain,
)

GENESIS = "ab" * 32
BEST = "cd" * 32
T = TypeVar("T")
Answer = Callable[[list[Any]], Any]


class Broken(Exception):
    """Close the connection without an answer."""


class Status(Exception):
    """Answer with an HTTP status and text."""


class FakeCore:
    """An HTTP server that answers as it is told, and counts."""

    def __init__(self, cookie: Path) -> None:
        self.cookie = cookie
        self.password = "one"
        self.calls: list[tuple[str, list[Any]]] = []
        self.connections = 0
        self.now = self.most = 0
        self.answers: dict[str, Answer] = {"getblockhash": lambda _: GENESIS, "getbestblockhash": lambda _: BEST}
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                with fake.lock:
                    fake.connections += 1
                super().setup()

            def do_POST(self) -> None:
                fake.serve(self)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.login("one")

    def login(self, password: str) -> None:
        self.password = password
        self.cookie.write_text(f"__cookie__:{password}")

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        import base64

        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        wanted = "Basic " + base64.b64encode(f"__cookie__:{self.password}".encode()).decode()
        if handler.headers["Authorization"] != wanted:
            self.reply(handler, 401, b"", "text/html")
            return
        request = json.loads(body, parse_float=Decimal)
        with self.lock:
            self.calls.append((request["method"], request["params"]))
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            result, error, status = self.answers[request["method"]](request["params"]), None, 200
        except Broken:
            handler.close_connection = True
            return
        except Status as told:
            self.reply(handler, told.args[0], told.args[1].encode(), "text/plain")
            return
        except ChainFault as refused:
            result, error, status = None, {"code": refused.details["code"], "message": refused.message}, 500
        finally:
            with self.lock:
                self.now -= 1
        text = json.dumps({"result": result, "error": error, "id": request["id"]})
        self.reply(handler, status, text.replace('"@', "").replace('@"', "").encode(), "application/json")

    @staticmethod
    def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, kind: str) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        # A test may have closed the other end.
        with contextlib.suppress(OSError):
            handler.end_headers()
            handler.wfile.write(body)

    def asked(self, method: str) -> int:
        return [name for name, _ in self.calls].count(method)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def refuse(code: int, message: str) -> Answer:
    def answer(_: list[Any]) -> Any:
        raise ChainFault(message, details={"code": code})

    return answer


def fail(error: Exception, times: int, then: Any = "done") -> Answer:
    left = [times]

    def answer(_: list[Any]) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return then

    return answer


@pytest.fixture
def fake(short_tmp: Path) -> Iterator[FakeCore]:
    server = FakeCore(short_tmp / "cookie")
    yield server
    server.close()


def ask(fake: FakeCore, question: Callable[[Core], Coroutine[Any, Any, T]], **settings: Any) -> T:
    async def run() -> T:
        value = {"url": fake.url, "cookie": str(fake.cookie), "timeout_s": 5, **settings}
        core = Core(validate(CoreSettings, value, {}, "test"), GENESIS)
        try:
            async with asyncio.timeout(20):
                return await question(core)
        finally:
            await core.close()

    return asyncio.run(run())


def test_every_method_that_is_called_is_in_the_list() -> None:
    text = Path(core_module.__file__).read_text()
    used = {name for name in CALLS if f'"{name}"' in text.split("_MAY_REPEAT", 1)[1]}
    assert used == set(CALLS)
    assert sorted(CALLS) == list(CALLS)


def test_the_genesis_block_is_compared_at_each_connect(fake: FakeCore) -> None:
    fake.answers["getblockhash"] = lambda _: "ef" * 32
    with pytest.raises(WrongChain) as caught:
        ask(fake, lambda core: core.best_hash())
    assert "ef" * 32 in caught.value.message
    assert GENESIS in caught.value.message
    assert "core.url" in caught.value.hint
    assert fake.asked("getbestblockhash") == 0


def test_one_connection_serves_many_calls_and_is_renewed_after_idling(
    fake: FakeCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def question(core: Core) -> None:
        for _ in range(10):
            await core.best_hash()

    ask(fake, question)
    assert fake.connections <= WORKERS
    before = fake.connections
    monkeypatch.setattr(core_module, "IDLE_S", 0.0)
    ask(fake, question)
    assert fake.connections == before + 10
    assert fake.asked("getblockhash") == fake.connections


@pytest.mark.parametrize("error", [Broken(), Status(503, "Work queue depth exceeded")])
def test_a_call_that_may_be_repeated_survives_a_lost_answer(fake: FakeCore, error: Exception) -> None:
    fake.answers["sendrawtransaction"] = fail(error, 2, "00" * 32)
    assert ask(fake, lambda core: core.send("00")) == "00" * 32
    assert fake.asked("sendrawtransaction") == 3


def test_a_call_that_must_not_be_repeated_is_made_once(fake: FakeCore) -> None:
    fake.answers["signrawtransactionwithwallet"] = refuse(-32601, "Method not found")
    fake.answers["getnewaddress"] = fail(Broken(), 1)
    with pytest.raises(ChainDown):
        ask(fake, lambda core: core.new_address(""))
    assert fake.asked("getnewaddress") == 1


def test_a_core_that_stays_away_is_named_as_such(fake: FakeCore) -> None:
    fake.answers["getbestblockhash"] = fail(Broken(), 100)
    with pytest.raises(ChainDown) as caught:
        ask(fake, lambda core: core.best_hash())
    assert caught.value.retry
    assert fake.url in caught.value.message
    fake.close()
    with pytest.raises(ChainDown):
        ask(fake, lambda core: core.best_hash())


def test_a_new_cookie_is_read_without_an_error_in_between(fake: FakeCore) -> None:
    async def question(core: Core) -> int:
        await core.best_hash()
        # A restarted Core; whether the call may be repeated does not matter, for it was not carried out.
        fake.login("two")
        fake.answers["signrawtransactionwithwallet"] = refuse(-1, "usage")
        fake.answers["getnewaddress"] = lambda _: "address"
        await core.new_address("")
        return fake.asked("getnewaddress")

    assert ask(fake, question) == 1


def test_a_wrong_password_and_a_missing_cookie_are_told_apart(fake: FakeCore) -> None:
    fake.password = "changed"
    with pytest.raises(ChainAuthFailed) as caught:
        ask(fake, lambda core: core.best_hash())
    assert "cookie" in caught.value.hint
    assert "one" not in caught.value.message
    fake.cookie.unlink()
    with pytest.raises(ChainDown) as down:
        ask(fake, lambda core: core.best_hash())
    assert str(fake.cookie) in down.value.message


def test_a_password_file_works_where_there_is_no_cookie(fake: FakeCore, short_tmp: Path) -> None:
    (short_tmp / "pw").write_text("one\n")
    settings = {"cookie": None, "user": "__cookie__", "password_file": str(short_tmp / "pw")}
    assert ask(fake, lambda core: core.best_hash(), **settings) == BEST
    (short_tmp / "pw").write_text("a/b\n")
    with pytest.raises(ChainAuthFailed):
        ask(fake, lambda core: core.best_hash(), **settings)


def test_at_most_four_calls_run_at_once(fake: FakeCore) -> None:
    def slow(_: list[Any]) -> str:
        time.sleep(0.03)
        return BEST

    async def question(core: Core) -> None:
        await asyncio.gather(*(core.best_hash() for _ in range(20)))

    fake.answers["getbestblockhash"] = slow
    ask(fake, question)
    assert fake.most == WORKERS


def test_closing_ends_a_call_that_hangs(fake: FakeCore) -> None:
    hanging = threading.Event()

    def hang(_: list[Any]) -> str:
        hanging.set()
        time.sleep(3)
        return BEST

    async def question(core: Core) -> float:
        call = asyncio.create_task(core.best_hash())
        await asyncio.to_thread(hanging.wait, 5)
        started = time.monotonic()
        await core.close()
        with pytest.raises(ChainDown):
            await call
        return time.monotonic() - started

    fake.answers["getbestblockhash"] = hang
    assert ask(fake, question, timeout_s=60) < 2


@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        (-28, "Loading block index...", ChainDown),
        (-13, "Error: Please enter the wallet passphrase", ChainWalletLocked),
        (-26, "64: dust", ChainFault),
        (-5, "something", ChainFault),
    ],
)
def test_refusals_become_errors_with_a_hint(fake: FakeCore, code: int, message: str, error: type[DuxError]) -> None:
    fake.answers["sendrawtransaction"] = refuse(code, message)
    with pytest.raises(error) as caught:
        ask(fake, lambda core: core.send("00"))
    assert type(caught.value) is error
    assert caught.value.hint
    if error is ChainFault:
        assert caught.value.details["reason"] == message.removeprefix("64: ")


@pytest.mark.parametrize("text", ["", "[1]", "null", "{}", '{"result": 1', "NaN", "[" * 100_000])
def test_an_answer_that_is_no_answer_is_a_fault_and_the_next_call_works(fake: FakeCore, text: str) -> None:
    async def question(core: Core) -> str:
        original = fake.serve
        fake.serve = lambda handler: (  # type: ignore[method-assign]
            handler.rfile.read(int(handler.headers["Content-Length"])),
            fake.reply(handler, 200, text.encode(), "application/json"),
        )
        with pytest.raises((ChainFault, ChainDown)):
            await core.best_hash()
        fake.serve = original  # type: ignore[method-assign]
        return await core.best_hash()

    assert ask(fake, question) == BEST


def test_amounts_are_exact_both_ways(fake: FakeCore) -> None:
    # 9999999999.99999999 coins as a float would be 10000000000.
    fake.answers["signrawtransactionwithwallet"] = refuse(-32601, "Method not found")
    fake.answers["fundrawtransaction"] = lambda _: {"hex": "00", "fee": "@9999999999.99999999@", "changepos": -1}
    funded = ask(fake, lambda core: core.fund("00", change_at=1, fee_rate=999_999_999_999_999_999))
    assert funded.fee == 999_999_999_999_999_999
    options = next(params for name, params in fake.calls if name == "fundrawtransaction")[1]
    assert options["feeRate"] == "9999999999.99999999"
    assert to_coins(1) == "0.00000001"
    assert to_koinu(Decimal("0.00000001")) == 1
    for bad in (0.5, "1", True, None, Decimal("0.000000001"), Decimal("NaN"), Decimal("Infinity")):
        with pytest.raises(ChainFault):
            to_koinu(bad)


@pytest.mark.parametrize(
    "answer", [None, 1, [], {}, {"blocks": "1"}, {"blocks": 1.5, "headers": 1, "bestblockhash": BEST, "mediantime": 1}]
)
def test_an_answer_of_another_form_is_cores_fault(fake: FakeCore, answer: Any) -> None:
    fake.answers["getblockchaininfo"] = lambda _: answer
    with pytest.raises(ChainFault):
        ask(fake, lambda core: core.chain_info())


@pytest.mark.parametrize(("code", "dialect"), [(-32601, "flopcoin"), (-1, "modern")])
def test_the_dialect_is_found_by_asking(fake: FakeCore, code: int, dialect: str) -> None:
    fake.answers["signrawtransactionwithwallet"] = refuse(code, "…")
    assert ask(fake, lambda core: core.dialect()) == dialect


def test_a_missing_wallet_is_loaded_or_made(fake: FakeCore) -> None:
    made: list[Any] = []

    def unspent(_: list[Any]) -> Any:
        if not made:
            raise ChainFault("Requested wallet does not exist or is not loaded", details={"code": -18})
        return []

    fake.answers["listunspent"] = unspent
    fake.answers["loadwallet"] = refuse(-18, "Wallet not found.")
    fake.answers["createwallet"] = lambda params: made.append(params) or {"name": "dux"}
    assert ask(fake, lambda core: core.coins(), url=fake.url + "wallet/dux") == []
    assert made == [["dux", False, False, "", False, False]]


@pytest.mark.parametrize(
    "said", [Broken(), Status(401, "no"), Status(403, "no"), Status(503, "busy"), Status(200, "<html>"), None]
)
def test_no_error_names_the_wallet_of_the_node(fake: FakeCore, said: Exception | None) -> None:
    """Errors go to logs and screens; on a trial chain whoever knows the name of a wallet can use it."""
    wallet = "3e15ac657c626c2cf360128d68edcb65"
    if said is None:
        fake.answers["getblockhash"] = lambda _: "ef" * 32
    else:
        fake.answers["getbestblockhash"] = fail(said, 9)
    with pytest.raises(DuxError) as caught:
        ask(fake, lambda core: core.best_hash(), url=f"{fake.url}wallet/{wallet}")
    assert fake.url in caught.value.message
    assert wallet not in repr(caught.value.to_rpc())


def test_the_library_never_logs_parameters(fake: FakeCore, caplog: pytest.LogCaptureFixture) -> None:
    fake.answers["importprivkey"] = lambda _: None
    with caplog.at_level(logging.DEBUG, logger=None):
        ask(fake, lambda core: core.import_key("a-private-key", "label", rescan=False))
    assert logging.getLogger("BitcoinRPC").getEffectiveLevel() == logging.WARNING
    assert "a-private-key" not in caplog.text


GOOD = {"url": "http://127.0.0.1:32551/", "cookie": "/x/.cookie"}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"url": "http://10.0.0.1:32551/"}, "use https"),
        ({"url": "http://core.example:32551/"}, "use https"),
        ({"url": "http://user:pw@127.0.0.1:32551/"}, "out of the address"),
        ({"url": "http://127.0.0.1/"}, "port"),
        ({"url": "ftp://127.0.0.1:1/"}, "http://127"),
        ({"cookie": None}, "either"),
        ({"user": "me"}, "either"),
        ({"cookie": None, "user": "me"}, "either"),
    ],
)
def test_an_unsafe_or_unclear_core_is_refused_with_the_reason(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(CoreSettings, {**GOOD, **settings}, {}, "flopd.yaml")
    assert why in caught.value.message


@pytest.mark.parametrize("url", ["http://[::1]:1/", "http://localhost:1/", "http://127.9.9.9:1/", "https://a.b:1/"])
def test_loopback_or_tls_is_accepted(url: str) -> None:
    assert validate(CoreSettings, {**GOOD, "url": url}, {}, "flopd.yaml").url == url
