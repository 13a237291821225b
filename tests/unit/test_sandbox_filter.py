"""The shipped system call filters, run by an interpreter of BPF: what is allowed, and whether they are current."""

import errno
import importlib.util
import struct
from pathlib import Path
from types import ModuleType

import pytest

from dux_taskd.sandbox.probe import FILTERS

SCRIPT = Path(__file__).parents[2] / "build_script" / "seccomp_filters.py"
ALLOW, KILL, NONE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.ENOSYS
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386, ARM = 0x40000003, 0x40000028

Program = list[tuple[int, int, int, int]]


def program(content: bytes) -> Program:
    return list(struct.iter_unpack("=HBBI", content))


def decide(filter: Program, arch: int, number: int, *arguments: int) -> int:
    """What the kernel answers: the return value of the filter."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *(value & (2**64 - 1) for value in padded))
    accumulator, at = 0, 0
    while True:
        code, jump_true, jump_false, k = filter[at]
        at += 1
        if code == 0x20:  # load a word of the call
            accumulator = int(struct.unpack_from("=I", data, k)[0])
        elif code == 0x54:  # and
            accumulator &= k
        elif code == 0x05:  # jump
            at += k
        elif code in (0x15, 0x25, 0x35, 0x45):  # jump if equal, greater, greater or equal, any bit
            holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: accumulator & k != 0}
            at += jump_true if holds[code] else jump_false
        elif code == 0x06:  # return
            return k
        else:
            raise AssertionError(f"instruction {code:#x} is not known here")


@pytest.fixture(params=["x86_64", "aarch64"])
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shipped(arch: str) -> Program:
    return program((FILTERS / f"{arch}.bpf").read_bytes())


def test_ordinary_calls_are_allowed(arch: str, shipped: Program) -> None:
    numbers = {"x86_64": (0, 1, 3, 9, 59, 231, 257), "aarch64": (63, 64, 57, 222, 221, 94, 56)}[arch]
    assert {decide(shipped, ARCH[arch], number) for number in numbers} == {ALLOW}


def test_everything_unknown_answers_that_it_does_not_exist(arch: str, shipped: Program) -> None:
    assert {decide(shipped, ARCH[arch], number) for number in range(460, 1024)} == {NONE}


def test_a_foreign_architecture_is_killed(arch: str, shipped: Program) -> None:
    for foreign in (I386, ARM, ARCH["aarch64" if arch == "x86_64" else "x86_64"]):
        assert decide(shipped, foreign, 0) == KILL


def test_the_x32_calls_of_x86_64_are_not_a_way_around() -> None:
    shipped = program((FILTERS / "x86_64.bpf").read_bytes())
    assert {decide(shipped, ARCH["x86_64"], 0x40000000 + number) for number in range(600)} <= {KILL, NONE}


def test_clone_makes_threads_and_processes_but_no_namespaces(arch: str, shipped: Program) -> None:
    number = {"x86_64": 56, "aarch64": 220}[arch]
    assert decide(shipped, ARCH[arch], number, 0x3D0F00) == ALLOW
    for flag in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(shipped, ARCH[arch], number, 17 | flag) == NONE
    assert decide(shipped, ARCH[arch], 435) == NONE


def test_sockets_are_of_three_families_alone(arch: str, shipped: Program) -> None:
    number = {"x86_64": 41, "aarch64": 198}[arch]
    allowed = {family for family in range(64) if decide(shipped, ARCH[arch], number, family) == ALLOW}
    assert allowed == {1, 2, 10}
    assert decide(shipped, ARCH[arch], number, (1 << 32) + 1) == NONE


def test_nothing_can_be_typed_into_a_terminal(arch: str, shipped: Program) -> None:
    number = {"x86_64": 16, "aarch64": 29}[arch]
    assert decide(shipped, ARCH[arch], number, 0, 0x5401) == ALLOW
    for request in (0x5412, 0x541C, 0x541D, 0x5412 + (1 << 32)):
        assert decide(shipped, ARCH[arch], number, 0, request) == NONE


def test_named_pipes_can_be_made_and_devices_not(arch: str, shipped: Program) -> None:
    number = {"x86_64": 259, "aarch64": 33}[arch]
    assert decide(shipped, ARCH[arch], number, 0, 0, 0o010644) == ALLOW
    assert {decide(shipped, ARCH[arch], number, 0, 0, kind | 0o644) for kind in (0o020000, 0o060000)} == {NONE}


def _script() -> ModuleType:
    pytest.importorskip("pyseccomp", reason="libseccomp is not installed here, so the filters can't be made anew")
    spec = importlib.util.spec_from_file_location("seccomp_filters", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shipped_filters_are_what_the_script_makes(arch: str, shipped: Program) -> None:
    made = program(_script().build(arch))
    # Other versions of libseccomp order the instructions in other ways, so decisions are compared, not bytes.
    arguments = [(0,) * 6, (1, 1, 1), (2,), (10,), (16,), (40,), (0x10000000,), (0xFFFFFFFF,), (0x3D0F00,)]
    arguments += [(0, request) for request in (0x5401, 0x5412, 0x541B, 0x541C, 0x802C542A)]
    arguments += [(0, 0, 0o010644), (0, 0, 0o020644), (0, 0o010644), (0, 0o020644)]
    for number in range(470):
        for given in arguments:
            assert decide(shipped, ARCH[arch], number, *given) == decide(made, ARCH[arch], number, *given), number
