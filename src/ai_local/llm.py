"""The language model: llama.cpp in this process, by xllamacpp.

SmolLM2-135M-Instruct Q4_1 on two cores of an AMD EPYC: half a second to load, 225 MB beside Django's 70, and with both
cores busy elsewhere as well 30 to 55 tokens/s (`python -m tests.local.measure` prints the figures again).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from django.utils.translation import gettext as _

from src.ai.exceptions import InvalidRequest, ProviderBadRequest, ProviderError, ProviderUnavailable
from src.ai.results import ResultInfo, Usage
from src.ai_local import packages
from src.ai_local.catalogue import CONTEXT_WINDOW
from src.ai_local.worker import SerialWorker

MAX_THREADS: Final = 4  # two are what was measured; all cores of a large server are not this demo's
SILENT: Final = -1  # llama.cpp's verbosity that prints nothing, not even errors

Request = dict[str, Any]

_worker = SerialWorker("ai-local-llm")


@dataclass(frozen=True, slots=True)
class _Engine:
    path: Path
    server: Any


_engine: _Engine | None = None  # touched by the worker's thread alone
_is_fork = False  # of a process that had an engine


async def stream(request: Request, info: ResultInfo) -> AsyncIterator[str]:
    """The text deltas of a chat completion (`request` as in llama.cpp's `/v1/chat/completions`); fills `info` in.

    Calls queue. Closing the generator ends the call at its next token.

    Raises:
        ProviderUnavailable: packages or the model file are missing or can't be loaded.
        InvalidRequest: prompt and history are longer than the context window.
        ProviderBadRequest: llama.cpp refuses the request.
    """
    loop = asyncio.get_running_loop()
    deltas: asyncio.Queue[str | None] = asyncio.Queue()

    def emit(text: str) -> None:
        loop.call_soon_threadsafe(deltas.put_nowait, text)

    call = asyncio.ensure_future(_worker.run(lambda stop: _complete(request, emit, stop)))
    call.add_done_callback(lambda _call: deltas.put_nowait(None))
    try:
        while (text := await deltas.get()) is not None:
            yield text
        info.update(await call)
    finally:
        call.cancel()


def _complete(request: Request, emit: Callable[[str], None], stop: threading.Event) -> ResultInfo:
    """Run one completion to its end, in the worker's thread."""
    engine = _get_engine()
    info = ResultInfo()
    failures: list[Exception] = []

    def on_chunk(chunk: Mapping[str, Any]) -> bool:
        # Whatever is raised here would pass through C++; True ends the stream.
        try:
            if text := _read_chunk(chunk, info):
                emit(text)
        except Exception as error:
            failures.append(error)
        return bool(failures) or stop.is_set()

    try:
        engine.server.handle_chat_completions(
            {**request, "stream": True, "stream_options": {"include_usage": True}}, on_chunk
        )
    except (ValueError, RuntimeError) as error:
        raise ProviderBadRequest(provider=packages.PROVIDER, reason=str(error)) from error
    if failures:
        raise failures[0]
    return info


def _read_chunk(chunk: Mapping[str, Any], info: ResultInfo) -> str:
    if error := chunk.get("error"):
        raise _error(error)
    info.response_id = chunk.get("id")
    if usage := chunk.get("usage"):
        info.usage = Usage(
            input_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
            cache_read_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        )
    text = ""
    for choice in chunk.get("choices", ()):
        info.finish_reason = choice.get("finish_reason") or info.finish_reason
        text += choice.get("delta", {}).get("content") or ""
    return text


def _error(error: Mapping[str, Any]) -> Exception:
    if error.get("type") == "exceed_context_size_error":
        reason = _(
            "The message with its history is {tokens} tokens long, and this model takes {limit} together with its "
            "reply. Shorten it."
        )
        return InvalidRequest(
            attr="message", reason=reason.format(tokens=error.get("n_prompt_tokens"), limit=error.get("n_ctx"))
        )
    problem = ProviderBadRequest if error.get("code") == 400 else ProviderError
    return problem(provider=packages.PROVIDER, reason=str(error.get("message", error)))


def _get_engine() -> _Engine:
    global _engine
    path = packages.find_gguf()
    if _engine is None or _engine.path != path:
        _engine = None  # frees the other model before this one takes its memory
        _engine = _Engine(path, _load(path))
        if _is_fork:
            _keep_for_ever(_engine)
    return _engine


def _load(path: Path) -> Any:
    packages.load_openmp()
    xllamacpp = packages.load("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = CONTEXT_WINDOW
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = min(_count_cores(), MAX_THREADS)
    params.verbosity = SILENT
    params.warmup = False
    params.fit_params = False
    params.cache_ram_mib = 0  # its default keeps up to 8 GB of old prompts
    params.offline = True
    params.ui = params.endpoint_slots = False
    # xllamacpp always starts llama.cpp's HTTP server as well. Its socket file is gone at once, so nobody can reach it.
    with TemporaryDirectory(prefix="llm-") as folder:
        params.hostnames = [f"{folder}/closed.sock"]
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:
            reason = _("the model file '{path}' can't be loaded").format(path=path)
            raise ProviderUnavailable(provider=packages.PROVIDER, reason=reason) from error


def _count_cores() -> int:
    """The cores this process may use; more threads than that wait for each other."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_for_ever(engine: _Engine) -> None:
    """Never destroy the engine: in a forked child that waits for threads which did not come along."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine.server))


def _forget_engine() -> None:
    """In a forked child: leave the parent's engine alone, and end without the C++ library's exit handlers.

    Those, too, would wait for the parent's threads.
    """
    global _engine, _is_fork
    if _engine is None:
        return
    _keep_for_ever(_engine)
    _engine, _is_fork = None, True
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # handlers run last in, first out: this one leaves before the library's
        libc.on_exit(libc._exit, None)


os.register_at_fork(after_in_child=_forget_engine)
