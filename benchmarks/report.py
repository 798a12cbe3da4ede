"""What `gateway.py` found, and its tables."""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import peers
from load import WRK, Load, Request, Streams

IN_FLIGHT = (1, 16, 64)
SDK_CALLS = (("bare", 1), ("bare", 16), ("achat", 1), ("achat", 16), ("chat", 1))
SDK_NAMES = {"bare": "bare openai SDK", "achat": "UnifiedAIService.achat", "chat": "UnifiedAIService.chat"}
DIRECT, GATEWAY, CHAT_SEND = "direct to the upstream", "/v1/chat/completions", "POST chat/send"
NONE = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
FLAT = 2_000_000  # bytes that the second half of the requests may add
# µs of CPU that a request through the reference took on the machine that the limits were set on, at 16 in flight
# (Python 3.12, its upstream in C). How much slower this machine is, is by how much it takes longer here.
REFERENCE_CPU = 123


@dataclass
class Target:
    """Something that is asked, and what was found."""

    name: str
    request: Request
    streamed: Request
    pid: int | None = None  # whose CPU and memory count
    version: str = ""
    loads: dict[int, list[Load]] = field(default_factory=dict)  # by how many were in flight
    cpu: dict[int, list[float]] = field(default_factory=dict)  # µs a request
    memory: list[int] = field(default_factory=list)  # bytes after each round
    streams: list[Streams] = field(default_factory=list)
    chunk_cpu: list[float] = field(default_factory=list)  # µs
    before_streams: int = 0  # bytes
    peak: int = 0

    @property
    def failed(self) -> int:
        return sum(one.failed for rounds in self.loads.values() for one in rounds)

    def rate(self, in_flight: int) -> float:
        return statistics.median(one.rate for one in self.loads[in_flight])

    def p50(self, in_flight: int) -> float:
        return statistics.median(one.p50 for one in self.loads[in_flight])

    def cost(self, in_flight: int) -> float:
        return statistics.median(self.cpu[in_flight])


@dataclass
class Results:
    """All that was found."""

    has_two_cores: bool
    log_level: str
    load: float  # average of the machine before the run
    database: str = ""
    services_moved: bool = True
    targets: list[Target] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)  # why a target was not measured
    sdk: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=dict)  # CPU µs, median ms
    chat_send: Target | None = None
    queries: object = None
    memory: list[tuple[int, dict[str, int]]] = field(default_factory=list)  # after so many requests

    @property
    def slowness(self) -> float | None:
        """How many times as long this machine takes as the one that the limits were set on; None where nobody knows."""
        reference = self.named(peers.REFERENCE)
        return reference.cost(16) / REFERENCE_CPU if reference and reference.loads else None

    def named(self, name: str) -> Target | None:
        return next((one for one in self.targets if one.name == name), None)


def report(results: Results, options: argparse.Namespace) -> None:
    """Print it all, as Markdown."""
    print_set_up(results, options)
    for print_part in (print_requests, print_typed, print_streams, print_memory, print_limits):
        print_part(results)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table, its columns aligned for those who read it as text."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    print()
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def noise(figures: Sequence[float]) -> str:
    """How far the rounds are apart, of their median."""
    middle = statistics.median(figures)
    return f"{(max(figures) - min(figures)) / middle:.0%}" if middle else NONE


def ratio(figure: float, base: float) -> str:
    """How many times as much."""
    if not base:
        return NONE
    return f"{figure / base:.1f} {TIMES}" if figure / base < 10 else f"{figure / base:.0f} {TIMES}"


def print_set_up(results: Results, options: argparse.Namespace) -> None:
    """With what."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    packages = ("django", "djangorestframework", "uvicorn", "uvloop", "httptools", "openai", "httpx", "psycopg")
    print(
        f"{model[0].partition(':')[2].strip() if model else platform.machine()}, Linux {platform.release()}, Python"
        f" {platform.python_version()}, {results.database}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + "".join(f", {one.name} {one.version}" for one in results.targets if one.version)
        + f". Load by {'wrk' if WRK else 'raw sockets'}, {options.rounds} rounds of {options.seconds} s,"
        f" log at {results.log_level}, load average before the run {results.load:.1f}."
    )
    if not results.has_two_cores:
        print("Only one core: the load and the server shared it, so that nothing but CPU tells anything.")
    if not results.services_moved:
        print("PostgreSQL's sessions and Redis could not be kept off the server's core.")


def print_requests(results: Results) -> None:
    """`/v1/chat/completions`, not streamed."""
    ours, direct = results.named(GATEWAY), results.named(DIRECT)
    rows = []
    for one in results.targets:
        if not one.loads:
            continue
        rates = " / ".join(f"{one.rate(number):,.0f}" for number in IN_FLIGHT)
        if one.pid is None:
            rows.append([one.name, rates, NONE, NONE, NONE, f"{one.p50(1):.2f}", NONE, str(one.failed), NONE])
            continue
        added = one.p50(1) - direct.p50(1) if direct else 0.0
        rows.append(
            [
                one.name,
                rates,
                f"{one.cost(16):,.0f}",
                noise(one.cpu[16]),
                ratio(one.cost(16), ours.cost(16)) if ours else NONE,
                f"{one.p50(1):.2f}",
                f"{added:.2f}",
                str(one.failed),
                f"{one.memory[-1] / 1e6:.0f}",
            ]
        )
    if rows:
        head = ["", "req/s at 1 / 16 / 64", "CPU µs", "noise", "to ours", "median ms at 1", "added ms", "failed", "MB"]
        print_table(head, rows)
    for name, reason in results.missing.items():
        print(f"\n{name}: not available: {reason}")


def print_typed(results: Results) -> None:
    """The service and `chat/send`, beside the bare SDK."""
    if not results.sdk or not results.chat_send:
        return
    base = {number: medians(results.sdk["bare", number]) for number in (1, 16)}
    found = {(SDK_NAMES[name], number): rounds for (name, number), rounds in results.sdk.items()}
    for number in (1, 16):
        rounds = zip(results.chat_send.cpu[number], results.chat_send.loads[number], strict=True)
        found[CHAT_SEND, number] = [(cpu, one.p50) for cpu, one in rounds]
    rows = []
    for (name, number), figures in found.items():
        cpu, wall = medians(figures)
        base_cpu, base_wall = base[number]
        over = f"{cpu - base_cpu:,.0f}", f"{wall - base_wall:.2f}"
        apart = noise([figure for figure, _wall in figures])
        rows.append([name, str(number), f"{cpu:,.0f}", apart, ratio(cpu, base_cpu), over[0], f"{wall:.2f}", over[1]])
    head = ["", "in flight", "CPU µs", "noise", "to the SDK", "over it µs", "median ms", "over it ms"]
    print_table(head, rows)
    print(f"\nSQL queries of a warm POST chat/send, the books' own connection apart: {results.queries}")


def medians(rounds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of CPU and of time."""
    return statistics.median(cpu for cpu, _ in rounds), statistics.median(wall for _, wall in rounds)


def print_streams(results: Results) -> None:
    """Many streams at once."""
    rows: list[list[str]] = []
    troubles: list[str] = []
    for one in results.targets:
        if not one.streams:
            continue
        whole = min(some.whole for some in one.streams)
        row = [one.name, f"{whole:,} of {one.streams[0].begun:,}"]
        trouble = next((some.trouble for some in one.streams if some.trouble), "")
        if trouble:
            troubles.append(f"\n{one.name}: a stream that was not whole began with: {trouble}")
        if not any(some.chunks for some in one.streams):
            rows.append([*row, *[NONE] * 5])
            continue
        row += [f"{first_chunk(one):,.0f}", f"{statistics.median(some.seconds for some in one.streams):.1f}"]
        if one.pid is None:
            rows.append([*row, NONE, NONE, NONE])
            continue
        cpu = statistics.median(one.chunk_cpu)
        rows.append([*row, f"{cpu:,.0f}", noise(one.chunk_cpu), f"{per_stream(one):.0f}"])
    if rows:
        print_table(
            ["streams at once", "whole", "first chunk ms", "seconds", "CPU µs a chunk", "noise", "kB a stream"], rows
        )
    print(*troubles, sep="\n", end="" if not troubles else "\n")


def first_chunk(one: Target) -> float:
    """The median over streams and rounds, ms."""
    return statistics.median(some.first for some in one.streams)


def per_stream(one: Target) -> float:
    """Kilobytes that a stream took: the peak of all rounds, less what was there before the first."""
    return (one.peak - one.before_streams) / one.streams[0].begun / 1e3


def print_memory(results: Results) -> None:
    """Over many requests."""
    if results.memory:
        rows = [[f"{done:,}", megabytes(used["Pss"]), megabytes(used["Rss"])] for done, used in results.memory]
        print_table(["requests", "PSS MB", "RSS MB"], rows)


def megabytes(size: float) -> str:
    """With one place."""
    return f"{size / 1e6:.1f}"


@dataclass(frozen=True)
class Finding:
    """A figure with its limit. `scales`: it is the shorter, the faster the machine (-1: the longer)."""

    what: str
    limit: str
    found: float | None
    holds: Callable[[float], bool]
    form: Callable[[float], str]
    scales: int = 0
    beside: str = ""

    def row(self, slowness: float | None) -> list[str]:
        """What, its limit, what was found, what that is on the machine of the limits, and what holds."""
        if self.found is None:
            return [self.what, self.limit, "not measured", NONE, NONE]
        there = self.found / slowness**self.scales if slowness and self.scales else None
        if self.holds(self.found):
            verdict = "ok"
        else:
            verdict = "ok there" if there is not None and self.holds(there) else "missed"
        return [
            self.what,
            self.limit,
            self.form(self.found) + self.beside,
            self.form(there) if there else NONE,
            verdict,
        ]


def print_limits(results: Results) -> None:
    """Each limit, what was found, and whether that holds it."""
    slowness = results.slowness
    if rows := [finding.row(slowness) for finding in findings(results)]:
        print_table(["", "limit", "found", "scaled", ""], rows)
    if rows and slowness:
        print(
            f"\n{peers.REFERENCE} took {slowness * REFERENCE_CPU:.0f} µs a request here and {REFERENCE_CPU} on the"
            f" machine that the limits were set on: what depends on the processor takes {slowness:.2f} {TIMES} as long"
            ' here. "Scaled" is by that.'
        )


def findings(results: Results) -> Iterable[Finding]:
    """What is to be held against a limit."""
    ours, direct = results.named(GATEWAY), results.named(DIRECT)
    if ours and ours.loads:
        yield at_most("CPU a request, 16 in flight", 200, ours.cost(16), "µs", scales=1)
        for name, least in ((peers.LITELLM_DATABASE, 50), (peers.PORTKEY, 5)):
            peer = results.named(name)
            times = peer.cost(16) / ours.cost(16) if peer and peer.loads else None
            yield at_least(f"the same, beside {name}", least, times, TIMES, places=1)
        if direct:
            yield at_most("added to the median, one in flight", 3, ours.p50(1) - direct.p50(1), "ms", places=2)
        yield at_least("requests a second, 64 in flight", 4000, ours.rate(64), "", scales=-1)
        yield at_most("failed", 0, ours.failed, "")
    if ours and ours.streams:
        begun = ours.streams[0].begun
        yield at_least(f"whole, of {begun:,} streams at once", begun, min(some.whole for some in ours.streams), "")
        beside = f" (direct {first_chunk(direct):.0f})" if direct else ""
        yield at_most("first chunk, median", 350, first_chunk(ours), "ms", scales=1, beside=beside)
        yield at_most("CPU a chunk", 35, statistics.median(ours.chunk_cpu), "µs", scales=1)
        yield at_most("memory a stream", 20, per_stream(ours), "kB")
    if results.memory:
        done, last = results.memory[-1]
        half = next(used for at, used in results.memory if at >= done / 2)
        grown = (last["Pss"] - half["Pss"]) / 1e6
        yield at_most(f"memory, second half of {done:,} requests", FLAT / 1e6, grown, "MB more", places=1)
        yield at_most("memory after them (PSS)", 100, last["Pss"] / 1e6, "MB", places=1)
    if results.chat_send and results.sdk:
        for number, asked in ((16, "16 in flight"), (1, "one at a time")):
            base, achat = (medians(results.sdk[name, number])[0] for name in ("bare", "achat"))
            times = results.chat_send.cost(number) / base
            yield at_most(f"chat/send beside the bare SDK, CPU, {asked}", 1.5, times, TIMES, places=2)
            over = (achat - base) / 1e3
            yield at_most(f"achat over the bare SDK, CPU, {asked}", 0.2, over, "ms", places=2, scales=1)


def at_most(
    what: str, limit: float, found: float | None, unit: str, *, places: int = 0, scales: int = 0, beside: str = ""
) -> Finding:
    """A figure that must not be more."""
    form = written(unit, places)
    return Finding(what, f"≤ {limit:,} {unit}".strip(), found, lambda value: value <= limit, form, scales, beside)


def at_least(what: str, limit: float, found: float | None, unit: str, *, places: int = 0, scales: int = 0) -> Finding:
    """A figure that must not be less."""
    form = written(unit, places)
    return Finding(what, f"≥ {limit:,} {unit}".strip(), found, lambda value: value >= limit, form, scales)


def written(unit: str, places: int) -> Callable[[float], str]:
    """How a figure of this unit is written."""
    return lambda value: f"{value:,.{places}f} {unit}".strip()
