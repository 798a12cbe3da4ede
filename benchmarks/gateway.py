"""What a call through this project costs, beside other gateways: `python benchmarks/gateway.py [--peers]`.

One serving process pinned to one core; the upstream, the load, PostgreSQL and Redis on another. All targets are asked
in turn, round by round, in one run: the upstream itself, `/v1/chat/completions` of this project with all that it does,
a reference that only passes on (`reference.py`), the peers; then the bare `openai` SDK, `achat`, `chat` and
`chat/send`. `DATABASE_URL=postgres://…` names a server on which a database is made and dropped again (without it:
SQLite), `REDIS_URL` a Redis to use.

CPU is that of the serving process with its children, user and system, from the kernel's clock, read when the process
rests again; PostgreSQL's own is not in it. Figures are medians over the rounds; noise is the distance between the
lowest and the highest round, of CPU. A limit that is missed is said so and changes nothing about the exit status; the
books being wrong does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from subprocess import Popen

import machine
import peers
import site_under_test as site
from load import Request, load, stream
from report import CHAT_SEND, DIRECT, GATEWAY, IN_FLIGHT, SDK_CALLS, Results, Target, report
from upstream import MODEL

PARTS = ("requests", "typed", "streams", "memory")
CHUNKS = 50  # of a stream, 20 ms apart
STREAM_ROUNDS = 3
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "How do I fly a kite?"}]}
STREAMED = {**ASKED, "stream": True, "stream_options": {"include_usage": True}}
MESSAGE = {"message": "How do I fly a kite?"}


def say(words: str) -> None:
    """How far it is."""
    print(words, file=sys.stderr, flush=True)


def main() -> None:
    """Set up, measure, print."""
    options = parse_options()
    machine.allow_many_files()
    core, other = machine.cores()
    os.sched_setaffinity(0, {other})
    url = os.environ.get("DATABASE_URL", "")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        os.environ["LOG_LEVEL"] = "ERROR"
        stack.enter_context(site.configured(folder))
        upstream = stack.enter_context(machine.upstream(other, folder / "upstream.log"))
        base_url = f"http://{machine.HOST}:{upstream}/v1"
        token = site.make_rows(base_url)
        server = stack.enter_context(site.served(folder, core, options.application, {"LOG_LEVEL": options.log_level}))
        bearer = {"Authorization": f"Bearer {token}"}
        results = Results(has_two_cores=core != other, log_level=options.log_level, load=os.getloadavg()[0])
        found = [target(DIRECT, upstream, {}, None, ""), target(GATEWAY, server.port, bearer, server.pid, "")]
        place = (options.peers_dir or folder / "peers").resolve()
        for peer_name in (peers.REFERENCE, *(peers.NAMES if options.peers else ())):
            say(f"{peer_name}: install and start")
            try:
                peer = stack.enter_context(peers.started(peer_name, base_url, core, place, url))
                found.append(target(peer_name, peer.port, peer.headers, peer.pid, peer.version))
            except peers.NotAvailable as reason:
                results.missing[peer_name] = str(reason)
        for one in found:
            if said := refusal(one.request):
                results.missing[one.name] = said
            else:
                results.targets.append(one)
        if "requests" in options.parts:
            measure_requests(results, options, other)
        if "streams" in options.parts:
            measure_streams(results, options, other)
        if "typed" in options.parts:
            chat_send = Request(server.port, "/api/admin/ai/chat/send", MESSAGE, bearer)
            with sdk(folder, core, base_url, options.log_level) as worker:
                measure_typed(results, options, other, worker, Target(CHAT_SEND, chat_send, chat_send, server.pid))
        if "memory" in options.parts and results.named(GATEWAY):
            with site.served(folder, core, options.application, {"LOG_LEVEL": options.log_level}) as fresh:
                ours = target(GATEWAY, fresh.port, bearer, fresh.pid, "")
                measure_memory(results, ours, options.memory_requests, other)
        results.database = f"{site.services()}, where a commit of one row takes {site.commit_time():.2f} ms"
        report(results, options)
        site.check_books(upstream)


def parse_options() -> argparse.Namespace:
    """What is to be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each load in a round")
    parser.add_argument("--calls", type=int, default=300, help="of the SDK and of the service, in each round")
    parser.add_argument("--streams", type=int, default=1000, help="at once")
    parser.add_argument("--memory-requests", type=int, default=100_000)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated; all: %(default)s")
    parser.add_argument("--peers", action="store_true", help="install LiteLLM and Portkey, and measure them as well")
    parser.add_argument("--peers-dir", type=Path, help="where to keep them for the next run (else they are temporary)")
    parser.add_argument("--log-level", default="INFO", help="of the site; at INFO each call leaves a line, to a file")
    parser.add_argument("--application", default="config.asgi:application", help="what uvicorn serves")
    options = parser.parse_args()
    options.parts = options.parts.split(",")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return options


def target(name: str, port: int, headers: dict[str, str], pid: int | None, version: str) -> Target:
    """Something that speaks OpenAI's form on this port."""
    path = "/v1/chat/completions"
    return Target(name, Request(port, path, ASKED, headers), Request(port, path, STREAMED, headers), pid, version)


def refusal(request: Request) -> str:
    """Why the target can't be measured; "" where it gives the upstream's answer."""
    connection = HTTPConnection(machine.HOST, request.port, timeout=60)
    try:
        connection.request("POST", request.path, json.dumps(request.body), request.all_headers())
        response = connection.getresponse()
        said = response.read()
        if response.status != 200:
            return f"answers {response.status}: {said[:200].decode(errors='replace')}"
        json.loads(said)["choices"][0]["message"]["content"]
    except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
        return f"answers what is no chat completion: {error!r}"
    finally:
        connection.close()
    return ""


def measure_load(one: Target, in_flight: int, seconds: int) -> None:
    """One load of a target, and what it cost."""
    before = machine.settled_cpu_of(one.pid) if one.pid else 0.0
    done = load(one.request, in_flight, seconds)
    used = machine.settled_cpu_of(one.pid) - before if one.pid else 0.0
    one.loads.setdefault(in_flight, []).append(done)
    one.cpu.setdefault(in_flight, []).append(used / max(done.answered, 1) * 1e6)


def measure_requests(results: Results, options: argparse.Namespace, other: int) -> None:
    """All targets in turn, at 1, 16 and 64 in flight."""
    for one in results.targets:
        load(one.request, 16, 2)
    for number in range(options.rounds):
        results.services_moved &= site.move_services(other)
        for in_flight in IN_FLIGHT:
            for one in results.targets:
                say(f"round {number + 1}: {one.name}, {in_flight} in flight")
                measure_load(one, in_flight, options.seconds)
        for one in results.targets:
            if one.pid:
                one.memory.append(machine.memory_of(one.pid)["Pss"])


@contextmanager
def sdk(folder: Path, core: int, base_url: str, log_level: str) -> Iterator[Popen[str]]:
    """The process of `sdk.py`, on the server's core."""
    command, log = [sys.executable, str(machine.ROOT / "benchmarks/sdk.py"), base_url], folder / "sdk.log"
    with machine.running(command, core, log, {"LOG_LEVEL": log_level}, piped=True) as process:
        if ask(process) != "ready":
            raise RuntimeError(f"sdk.py did not start: {log.read_text()[-1000:]}")
        yield process


def ask(process: Popen[str], **words: object) -> object:
    """What the process of `sdk.py` answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    if words:
        process.stdin.write(f"{json.dumps(words)}\n")
        process.stdin.flush()
    line = process.stdout.readline()
    return json.loads(line) if line.startswith(("{", "[")) or line.strip().isdigit() else line.strip()


def measure_typed(
    results: Results, options: argparse.Namespace, other: int, worker: Popen[str], chat_send: Target
) -> None:
    """The bare SDK, the service's calls and `chat/send`, in turn."""
    if reason := "" if load(chat_send.request, 16, 2).answered else "answers with errors":
        results.missing[CHAT_SEND] = reason
        return
    results.chat_send = chat_send
    for name, in_flight in SDK_CALLS:
        ask(worker, target=name, calls=100, in_flight=in_flight)
    for number in range(options.rounds):
        results.services_moved &= site.move_services(other)
        for name, in_flight in SDK_CALLS:
            say(f"round {number + 1}: {name}, {in_flight} in flight")
            calls = options.calls * (1 if in_flight == 1 else 4)
            found = ask(worker, target=name, calls=calls, in_flight=in_flight)
            if not isinstance(found, dict):
                raise RuntimeError(f"sdk.py ended while it measured {name}")
            results.sdk.setdefault((name, in_flight), []).append((found["cpu"], found["p50"]))
        for in_flight in (1, 16):
            say(f"round {number + 1}: {CHAT_SEND}, {in_flight} in flight")
            measure_load(chat_send, in_flight, options.seconds)
    results.queries = ask(worker, target="queries")


def measure_streams(results: Results, options: argparse.Namespace, other: int) -> None:
    """All targets in turn, with so many streams at once."""
    for one in results.targets:
        load(one.request, 16, 2)  # what only the first request needs is no stream's
        one.before_streams = machine.memory_of(one.pid)["Pss"] if one.pid else 0
    for number in range(STREAM_ROUNDS):
        results.services_moved &= site.move_services(other)
        for one in results.targets:
            say(f"round {number + 1}: {one.name}, {options.streams} streams")
            before = machine.settled_cpu_of(one.pid) if one.pid else 0.0
            with peak_memory(one):
                done = stream(one.streamed, options.streams, CHUNKS)
            used = machine.settled_cpu_of(one.pid) - before if one.pid else 0.0
            one.streams.append(done)
            one.chunk_cpu.append(used / max(done.chunks, 1) * 1e6)


@contextmanager
def peak_memory(one: Target) -> Iterator[None]:
    """Keep the highest memory that the target's process has meanwhile, ten looks a second."""
    over = threading.Event()

    def look() -> None:
        while one.pid and not over.wait(0.1):
            one.peak = max(one.peak, machine.memory_of(one.pid)["Pss"])

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


def measure_memory(results: Results, ours: Target, requests: int, other: int) -> None:
    """The memory of a process that does nothing else, at each tenth of so many requests."""
    assert ours.pid is not None
    rate, done = load(ours.request, 64, 2).rate, 0
    results.services_moved &= site.move_services(other)
    machine.settled_cpu_of(ours.pid)
    results.memory.append((0, machine.memory_of(ours.pid)))
    while done < requests:
        say(f"memory: {done:,} of {requests:,} requests")
        some = load(ours.request, 64, max(1, round(requests / 10 / max(rate, 1))))
        if not some.answered:
            raise RuntimeError("no request was answered")
        done += some.answered
        machine.settled_cpu_of(ours.pid)
        results.memory.append((done, machine.memory_of(ours.pid)))


if __name__ == "__main__":
    main()
