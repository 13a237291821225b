"""What a task prints: offsets, caps, progress lines, harmless text."""

import asyncio
from collections.abc import Callable

from dux_taskd.sandbox.log import MAX_KEPT, TAIL, TaskOutput


def test_progress_lines_are_taken_out_and_never_fall() -> None:
    output = TaskOutput()
    for piece in (b"a\n::prog", b"ress 40\nb\n", b"::progress 30\n", b"::progress 999\nc"):
        output.feed(piece)
    output.close()
    assert (output.tail(), output.progress) == ("a\nb\nc", 100)


def test_lines_that_only_look_like_progress_stay() -> None:
    output = TaskOutput()
    text = "::progress\n::progress x\n::progress -5\n::progress 1000\n:: progress 5\n ::progress 5\n::progress ²\n"
    output.feed(text.encode())
    output.close()
    assert (output.tail(), output.progress) == (text, 0)


def test_an_unfinished_line_is_shown_unless_it_may_become_progress() -> None:
    output = TaskOutput()
    output.feed(b"working")
    assert output.tail() == "working"
    output.feed(b"\n::progress 1")
    assert output.tail() == "working\n"
    output.feed(b"x" * 100)
    assert output.tail().endswith("x")


def test_characters_cut_in_two_arrive_whole_and_garbage_is_replaced() -> None:
    output = TaskOutput()
    data = "Grüße €".encode()
    for at in range(len(data)):
        output.feed(data[at : at + 1])
    output.feed(b"\xff\xfe\n")
    assert output.tail() == "Grüße €\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\n"


def test_only_the_end_is_kept_and_offsets_go_on() -> None:
    output = TaskOutput()
    for _ in range(MAX_KEPT // 1000 + 50):
        output.feed(b"y" * 999 + b"\n")
    assert output.end == (MAX_KEPT // 1000 + 50) * 1000
    text, offset = output.since(0)
    assert (len(text), offset) == (TAIL, output.end - MAX_KEPT + TAIL)
    assert output.since(output.end) == ("", output.end)
    assert output.since(10**9) == ("", output.end)
    assert len(output.tail()) == TAIL


def test_waiting_ends_with_news_with_progress_with_the_end_and_with_time() -> None:
    async def scenario() -> None:
        output = TaskOutput()
        acts: list[Callable[[], None]] = [
            lambda: output.feed(b"text"),
            lambda: output.feed(b"\n::progress 5\n"),
            output.close,
        ]
        for act in acts:
            waiting = asyncio.create_task(output.wait(output.end, output.progress, 5))
            await asyncio.sleep(0)
            assert not waiting.done()
            act()
            await asyncio.wait_for(waiting, 1)
        await asyncio.wait_for(output.wait(output.end, output.progress, 5), 1)
        await asyncio.wait_for(TaskOutput().wait(0, 0, 0.01), 1)

    asyncio.run(scenario())
