"""Other gateways to compare with: installed from PyPI and npm, started before the same upstream on the same core.

One that can't be had or does not start is told of with its reason; nothing is assumed in its place.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from machine import HOST, ROOT, answers, free_port, running, wait_until
from site_under_test import database, uvicorn

MASTER_KEY = "sk-bench-master"
MODEL = "gpt-4o-mini"
LITELLM = "LiteLLM"
LITELLM_DATABASE = "LiteLLM, PostgreSQL, virtual key"
PORTKEY = "Portkey"
REFERENCE = "Starlette + aiohttp"
NAMES = (LITELLM, LITELLM_DATABASE, PORTKEY)


@dataclass(frozen=True)
class Peer:
    """A peer that runs."""

    pid: int
    port: int
    headers: dict[str, str]
    version: str


class NotAvailable(Exception):
    """A peer that can't be had here, with the reason."""


def command(*words: str, cwd: Path, env: dict[str, str] | None = None, seconds: float = 1200) -> str:
    """What a command printed.

    Raises:
        NotAvailable: it failed.
    """
    try:
        done = subprocess.run(
            words, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=seconds
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailable(f"{Path(words[0]).name} {words[1]}: {error}") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise NotAvailable(f"{Path(words[0]).name} {words[1]}: {said[-1][:200] if said else done.returncode}")
    return done.stdout


def install_litellm(folder: Path) -> Path:
    """A virtual environment with LiteLLM's proxy."""
    venv = folder / "litellm"
    if not (venv / "bin/litellm").exists():
        command(sys.executable, "-m", "venv", str(venv), cwd=folder)
        command(str(venv / "bin/pip"), "install", "--quiet", "litellm[proxy]", "prisma", cwd=folder)
    return venv


def install_portkey(folder: Path) -> Path:
    """The script that starts Portkey's gateway."""
    place = folder / "portkey"
    package = place / "node_modules/@portkey-ai/gateway"
    if not package.exists():
        if not shutil.which("npm"):
            raise NotAvailable("npm is not installed")
        place.mkdir(exist_ok=True)
        command("npm", "install", "--no-fund", "--no-audit", "@portkey-ai/gateway", cwd=place)
    return package / "build/start-server.js"


@contextmanager
def started(name: str, base_url: str, core: int, folder: Path, database_url: str) -> Iterator[Peer]:
    """The peer of this name, ready to be asked.

    Raises:
        NotAvailable: it can't be had, or does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if name == REFERENCE:
        peer = reference(base_url, core, folder)
    elif name == PORTKEY:
        peer = portkey(base_url, core, folder)
    elif name == LITELLM:
        peer = litellm(base_url, core, folder, "")
    else:
        peer = litellm_with_database(base_url, core, folder, database_url)
    with peer as found:
        yield found


@contextmanager
def reference(base_url: str, core: int, folder: Path) -> Iterator[Peer]:
    """`reference.py`, in the environment that runs this."""
    if not (find_spec("starlette") and find_spec("aiohttp")):
        raise NotAvailable("pip install -r benchmarks/requirements.txt")
    port, log = free_port(), folder / "reference.log"
    words = [*uvicorn("reference:application", port), "--app-dir", str(ROOT / "benchmarks")]
    with started_process(words, core, log, {"UPSTREAM": base_url}, port, "/readyz") as pid:
        yield Peer(pid, port, {}, f"{version('starlette')} and aiohttp {version('aiohttp')}")


@contextmanager
def portkey(base_url: str, core: int, folder: Path) -> Iterator[Peer]:
    """Portkey's gateway, which keeps no books and knows no users."""
    script, port, log = install_portkey(folder), free_port(), folder / "portkey.log"
    release = json.loads((script.parents[1] / "package.json").read_text())["version"]
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": base_url,
        "Authorization": "Bearer sk-upstream",
    }
    with started_process(["node", str(script), f"--port={port}", "--headless"], core, log, {}, port, "/") as pid:
        yield Peer(pid, port, headers, release)


@contextmanager
def litellm_with_database(base_url: str, core: int, folder: Path, url: str) -> Iterator[Peer]:
    """LiteLLM's proxy with keys, budgets and spend logs in PostgreSQL."""
    if not url:
        raise NotAvailable("needs PostgreSQL in DATABASE_URL")
    venv = install_litellm(folder)
    path = {"PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    schema = next(venv.glob("lib/python3*/site-packages/litellm/proxy/schema.prisma"))
    command(str(venv / "bin/prisma"), "generate", "--schema", str(schema), cwd=folder, env=path, seconds=300)
    with database(url) as own, litellm(base_url, core, folder, own) as peer:
        yield peer


@contextmanager
def litellm(base_url: str, core: int, folder: Path, database_url: str) -> Iterator[Peer]:
    """LiteLLM's proxy, one worker."""
    venv, port = install_litellm(folder), free_port()
    name = "litellm-db" if database_url else "litellm"
    config, log = folder / f"{name}.json", folder / f"{name}.log"
    parameters = {"model": f"openai/{MODEL}", "api_base": base_url, "api_key": "sk-upstream"}
    settings = {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": MASTER_KEY},
    }
    config.write_text(json.dumps(settings))  # JSON is YAML
    env: dict[str, str | None] = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    env |= {"DATABASE_URL": database_url or None, "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    words = [str(venv / "bin/litellm"), "--config", str(config), "--host", HOST, "--port", str(port)]
    release = command(str(venv / "bin/pip"), "show", "litellm", cwd=folder).split("Version: ")[1].split()[0]
    with started_process([*words, "--num_workers", "1"], core, log, env, port, "/health/liveliness") as pid:
        key = virtual_key(port) if database_url else MASTER_KEY
        yield Peer(pid, port, {"Authorization": f"Bearer {key}"}, release)


@contextmanager
def started_process(
    words: Sequence[str], core: int, log: Path, env: dict[str, str | None], port: int, path: str
) -> Iterator[int]:
    """A process that answers; its output is in `log`."""
    log.unlink(missing_ok=True)
    with running(words, core, log, env, log.parent) as process:
        try:
            wait_until(answers(port, path), process, log)
        except RuntimeError as error:
            raise NotAvailable(str(error)) from None
        yield process.pid


def virtual_key(port: int) -> str:
    """A key of LiteLLM's own, with a budget."""
    connection = HTTPConnection(HOST, port, timeout=60)
    headers = {"Authorization": f"Bearer {MASTER_KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/key/generate", json.dumps({"models": [MODEL], "max_budget": 1000}), headers)
    response = connection.getresponse()
    said = response.read()
    if response.status != 200:
        raise NotAvailable(f"no virtual key: {response.status} {said[:200]!r}")
    return str(json.loads(said)["key"])
