"""Figures of the local engines on this machine: `python -m tests.local.measure`. Prints; tests nothing."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import django

PROMPT = "Write a story about a lighthouse."


def megabytes() -> int:
    """Resident memory of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) // 1024


async def longest_gap(stop: asyncio.Event) -> float:
    """The longest time in milliseconds that the event loop took for a turn due after one."""
    gap = 0.0
    while not stop.is_set():
        start = time.perf_counter()
        await asyncio.sleep(0.001)
        gap = max(gap, (time.perf_counter() - start) * 1000 - 1)
    return gap


async def measure() -> None:
    """Load, chat, ten chats at once, an article and 10,000 characters of speech."""
    from src.ai.providers.registry import get_provider_instance

    provider = get_provider_instance("local", "", {"extra_body": {"ignore_eos": True}})
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    before, start = megabytes(), time.perf_counter()
    await provider.chat("hello", max_tokens=1)
    print(f"load and first token: {time.perf_counter() - start:.2f} s; memory {before} MB, then {megabytes()} MB")

    for tokens in (50, 300):
        stream = provider.stream_chat(PROMPT, max_tokens=tokens)
        start = time.perf_counter()
        await anext(stream)
        first = time.perf_counter()
        async for _delta in stream:
            pass
        rate = (tokens - 1) / (time.perf_counter() - first)
        print(f"chat of {tokens} tokens: first after {first - start:.2f} s, then {rate:.0f} tokens/s")

    stop, start = asyncio.Event(), time.perf_counter()
    gap = asyncio.ensure_future(longest_gap(stop))
    await asyncio.gather(*(provider.chat(PROMPT, max_tokens=20) for _ in range(10)))
    stop.set()
    seconds = time.perf_counter() - start
    print(f"ten chats of 20 tokens at once: {seconds:.2f} s; longest turn of the event loop {await gap:.0f} ms")

    start = time.perf_counter()
    await provider.chat("word " * 3000, max_tokens=1)
    print(f"prompt of 3000 tokens: {3000 / (time.perf_counter() - start):.0f} tokens/s")

    start = time.perf_counter()
    article = await get_provider_instance("local", "").generate_seo_content("keeping bees", word_count=150)
    print(f"article of {len(article['content'].split())} words: {time.perf_counter() - start:.1f} s")

    start = time.perf_counter()
    speech = await provider.text_to_speech(("A sentence of a long text. " * 400)[:10_000])
    print(f"10,000 characters of speech: {time.perf_counter() - start:.2f} s, {speech.getbuffer().nbytes // 10**6} MB")
    print(f"memory at the end: {megabytes()} MB")


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.test")
    django.setup()
    asyncio.run(measure())
