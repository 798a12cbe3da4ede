"""The engines in real processes: forks, signals, the end, and what is printed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.local

Run = Callable[..., subprocess.CompletedProcess[str]]


def said(result: subprocess.CompletedProcess[str]) -> list[Any]:
    """What the process printed, where it ended well and had nothing to complain of."""
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.split()


def test_nothing_is_loaded_before_the_first_call_and_nothing_printed_by_it(run_python: Run) -> None:
    result = run_python(
        "print([name in sys.modules for name in ('xllamacpp', 'espeakng_loader', 'bidi', 'arabic_reshaper')])",
        "chat(); asyncio.run(provider.text_to_speech('hello'))",
        "print('done')",
    )
    assert said(result) == ["[False,", "False,", "False,", "False]", "done"]


def test_nobody_can_reach_the_engine_from_outside(run_python: Run) -> None:
    result = run_python(
        "chat()",
        "from pathlib import Path",
        "mine = {str(fd.readlink()) for fd in Path('/proc/self/fd').iterdir() if fd.is_symlink()}",
        "tcp = [line.split() for name in ('tcp', 'tcp6') for line in open(f'/proc/net/{name}').readlines()[1:]]",
        "print([row for row in tcp if row[3] == '0A' and f'socket:[{row[9]}]' in mine])",
        "unix = [line.split() for line in open('/proc/net/unix').readlines()[1:]]",
        "print([row[7] for row in unix if len(row) > 7 and f'socket:[{row[6]}]' in mine and os.path.exists(row[7])])",
    )
    assert said(result) == ["[]", "[]"]


def test_a_forked_child_loads_its_own_model_and_ends(run_python: Run) -> None:
    result = run_python(
        "chat(); asyncio.run(provider.text_to_speech('hello'))",
        "child = os.fork()",
        "if child == 0:",
        "    wav = asyncio.run(provider.text_to_speech('hello')).getvalue()",
        "    print('child', bool(chat()), len(wav) > 9000, flush=True)",
        "    sys.exit(0)",
        "print('ended', os.waitpid(child, 0)[1], bool(chat()))",
    )
    assert said(result) == ["child", "True", "True", "ended", "0", "True"]


def test_a_child_forked_during_a_call_that_never_calls_itself_ends(run_python: Run) -> None:
    result = run_python(
        "begun, forked = threading.Event(), threading.Event()",
        "async def main():",
        "    stream = provider.stream_chat('Tell me a long story.', max_tokens=2000)",
        "    await anext(stream)",
        "    begun.set()",
        "    await asyncio.to_thread(forked.wait)",
        "    print('went on', bool(await anext(stream)))",
        "    await stream.aclose()",
        "calling = threading.Thread(target=lambda: asyncio.run(main()))",
        "calling.start(); begun.wait()",
        "child = os.fork()",
        "if child == 0:",
        "    os.write(1, b'child ')",
        "    sys.exit(0)",
        "print('ended', os.waitpid(child, 0)[1], flush=True)",
        "forked.set(); calling.join()",
    )
    assert said(result) == ["child", "ended", "0", "went", "on", "True"]


def test_a_multiprocessing_child_answers(run_python: Run) -> None:
    result = run_python(
        "import multiprocessing",
        "chat()",
        "child = multiprocessing.get_context('fork').Process(target=lambda: print('child', bool(chat()), flush=True))",
        "child.start(); child.join()",
        "print('ended', child.exitcode)",
    )
    assert said(result) == ["child", "True", "ended", "0"]


def test_ctrl_c_still_reaches_python_once_the_model_is_loaded(run_python: Run) -> None:
    result = run_python(
        "before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]",
        "chat()",
        "try:",
        "    os.kill(os.getpid(), signal.SIGINT)",
        "    signal.sigtimedwait([], 5)",
        "except KeyboardInterrupt:",
        "    print('interrupted')",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "signal.sigtimedwait([], 5)",
    )
    assert (result.returncode, result.stdout, result.stderr) == (-15, "interrupted\n", "")


def test_the_process_ends_in_the_middle_of_a_reply(run_python: Run) -> None:
    result = run_python(
        "async def main():",
        "    stream = provider.stream_chat('Tell me a very long story.', max_tokens=3000)",
        "    await anext(stream)",
        "    waiting = asyncio.ensure_future(provider.chat('And another.', max_tokens=3000))",
        "    await asyncio.sleep(0)",
        "    print('leaving', flush=True)",
        "    os.kill(os.getpid(), signal.SIGINT)",
        "    await waiting",
        "try:",
        "    asyncio.run(main())",
        "except KeyboardInterrupt:",
        "    print('interrupted')",
    )
    assert said(result) == ["leaving", "interrupted"]
