"""Whether anything grows: `python benchmarks/soak.py [--minutes 60] [--plot soak.png]`.

Mixed traffic, its callers and its vendor good and bad, at an even rate on one serving process; see `traffic.py`. Twice
a minute the process loses its sessions with PostgreSQL and its connections to Redis. Every few seconds it is looked at
what the process holds: memory, descriptors, threads, tasks, objects, connections to the vendor and to PostgreSQL. The
first third warms up. Of each figure, the median of the last third may be above that of the middle third by its
tolerance and no more: else this names it and exits with 1, as it does where an answer was not the one expected, and
where the books are wrong. `DATABASE_URL` and `REDIS_URL` are those of `gateway.py`; the plot needs
`pip install -r benchmarks/requirements.txt`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import machine
import matplotlib
import site_under_test as site
import uvloop
from report import print_table
from traffic import Traffic

Sample = dict[str, float]


@dataclass(frozen=True)
class Figure:
    """Something that may not grow, by more than a share of itself and so many."""

    name: str
    share: float
    more: float


FIGURES = (
    Figure("memory (PSS), MB", 0.03, 1),
    Figure("descriptors", 0.15, 10),
    Figure("threads", 0.10, 5),
    Figure("tasks", 0.15, 10),
    Figure("objects", 0.03, 2000),
    Figure("connections to the vendor", 0.15, 10),
    Figure("PostgreSQL's sessions", 0.0, 5),
)
OPEN = ("01", "08")  # established; closed by the other end alone


def main() -> None:
    """Set up, soak, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--cut-every", type=float, default=30, help="seconds between two cuts; 0: none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, default=Path("soak.png"))
    options = parser.parse_args()
    machine.allow_many_files()
    core, other = machine.cores()
    os.sched_setaffinity(0, {other})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"LOG_LEVEL": "CRITICAL"}
        with site.configured(folder), machine.upstream(other, folder / "upstream.log") as upstream:
            token = site.make_rows(f"http://{machine.HOST}:{upstream}/v1")
            # A vendor that hangs is waited for seconds instead of minutes.
            env = {"AI_TIMEOUT_FIRST_BYTE": "5", "AI_TIMEOUT_TOTAL": "15", "LOG_LEVEL": "WARNING"}
            with site.served(folder, core, "probe:application", env) as server:
                traffic = Traffic(server.port, token, site.faulty_model(), options.seed)
                look = looker(server, upstream)
                samples = uvloop.run(soak(traffic, look, options))
                time.sleep(5)  # until the server has closed the connections that are idle
                rest = look()
                alive = server.process.poll() is None
            plot(samples, options)
            grown = report(samples, rest)
            tell(traffic)
            print(f"\nPlot: {options.plot}")
            site.check_books(upstream)
    if not alive:
        raise SystemExit("The server has ended.")
    if grown or traffic.unexpected:
        raise SystemExit(1)


def looker(server: site.Server, upstream: int) -> Callable[[], Sample]:
    """What looks at the process; blocking."""
    connection = HTTPConnection(machine.HOST, server.port, timeout=30)
    port = f":{upstream:04X}"

    def look() -> Sample:
        proc = Path(f"/proc/{server.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        sockets = [line.split() for line in (proc / "net/tcp").read_text().splitlines()[1:]]
        connection.request("GET", site.INSIDE)
        inside = json.loads(connection.getresponse().read())
        connection.close()  # the server would, after five seconds
        found: Sample = {
            "memory (PSS), MB": machine.memory_of(server.pid)["Pss"] / 1e6,
            "descriptors": len(list((proc / "fd").iterdir())),
            "threads": int(status["Threads"]),
            "tasks": inside["tasks"],
            "objects": inside["objects"],
            "connections to the vendor": sum(line[2].endswith(port) and line[3] in OPEN for line in sockets),
        }
        if (sessions := site.sessions()) is not None:
            found["PostgreSQL's sessions"] = sessions
        return found

    return look


async def soak(traffic: Traffic, look: Callable[[], Sample], options: argparse.Namespace) -> list[tuple[float, Sample]]:
    """What was seen, by minutes since the beginning."""
    seconds = options.minutes * 60
    every = min(max(seconds / 120, 1), 10)
    samples: list[tuple[float, Sample]] = []
    start = time.monotonic()
    running = asyncio.create_task(traffic.run(options.rate, seconds))
    cutting = asyncio.create_task(cut(options.cut_every, traffic))
    while (now := time.monotonic() - start) < seconds and not running.done():
        samples.append((now / 60, await asyncio.to_thread(look)))
        if len(samples) % 12 == 0:
            print(f"{now / 60:5.1f} min: {samples[-1][1]}", file=sys.stderr, flush=True)
        await asyncio.sleep(every)
    cutting.cancel()
    with suppress(asyncio.CancelledError):
        await cutting  # raises what has ended it before
    await running
    return samples


async def cut(every: float, traffic: Traffic) -> None:
    """Take PostgreSQL's sessions and Redis's connections away, again and again."""
    while every:
        await asyncio.sleep(every)
        traffic.cut_at = time.monotonic()
        await asyncio.to_thread(site.cut_services)
        traffic.done["cuts of PostgreSQL's sessions and Redis's connections"] += 1


def report(samples: list[tuple[float, Sample]], rest: Sample) -> list[str]:
    """Print each figure at its thirds and, for the reader, when all was over; which have grown."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    grown, rows = [], []
    for figure in FIGURES:
        if figure.name not in rest:
            continue
        thirds = [median(part, figure.name) for part in (samples[:third], middle, last)]
        highest = max(sample[figure.name] for _, sample in samples)
        allowed = thirds[1] * (1 + figure.share) + figure.more
        if thirds[2] > allowed:
            grown.append(figure.name)
        cells = [f"{value:,.1f}" for value in (*thirds, allowed, highest, rest[figure.name])]
        rows.append([figure.name, *cells, "grows" if figure.name in grown else "ok"])
    print(f"{len(samples)} looks in {samples[-1][0]:.1f} minutes; medians of the thirds")
    print_table(["", "first", "middle", "last", "allowed", "highest", "at rest", ""], rows)
    if grown:
        print(f"\nGrows: {', '.join(grown)}")
    return grown


def median(samples: list[tuple[float, Sample]], name: str) -> float:
    """Of one figure."""
    return statistics.median(sample[name] for _, sample in samples)


def tell(traffic: Traffic) -> None:
    """What was done, and what came of it that should not have."""
    print(f"\n{sum(traffic.done.values()):,} done: ", end="")
    print(", ".join(f"{name} {count:,}" for name, count in traffic.done.most_common()))
    for name, (count, first) in traffic.unexpected.items():
        print(f"\nUnexpected: {name}, {count} times, first: {first}")


def plot(samples: list[tuple[float, Sample]], options: argparse.Namespace) -> None:
    """Each figure over time, in a PNG."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [figure.name for figure in FIGURES if figure.name in samples[0][1]]
    minutes = [at for at, _ in samples]
    picture, axes = pyplot.subplots(len(names), 1, sharex=True, figsize=(9, 1.7 * len(names)), layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        axis.plot(minutes, [sample[name] for _, sample in samples], linewidth=1)
        axis.set_title(name, loc="left", fontsize=9)
        axis.set_ylim(bottom=0, top=max(sample[name] for _, sample in samples) * 1.15 + 1)
        axis.axvspan(0, minutes[-1] / 3, alpha=0.08)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("minutes (shaded: warming up)")
    picture.suptitle(f"{options.rate:g} requests a second, one process", fontsize=10)
    picture.savefig(options.plot, dpi=110)


if __name__ == "__main__":
    main()
