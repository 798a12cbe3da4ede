"""`make run`: a site with users in it, and the way in on the screen."""

import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from django.contrib.auth import authenticate, get_user_model
from django.core.management import CommandError, call_command
from knox.models import get_token_model

from src.core.management.commands import run_local
from tests import vendor_answers as answers
from tests.upstream.server import HANG, Upstream, events

ROOT = Path(run_local.__file__).parents[4]


@pytest.mark.django_db
def test_the_first_run_makes_both_users_and_writes_a_private_file(tmp_path):
    path = tmp_path / "credentials.json"
    credentials, made = run_local.ensure_users(path, "http://127.0.0.1:8000")
    assert made
    assert json.loads(path.read_text()) == credentials
    assert list(credentials) == ["url", "admin", "editor"]
    assert path.stat().st_mode & 0o777 == 0o600
    for name, is_superuser in (("admin", True), ("editor", False)):
        assert list(credentials[name]) == ["username", "password", "token"]
        user = authenticate(username=name, password=credentials[name]["password"])
        assert user is not None
        assert (user.is_staff, user.is_superuser) == (True, is_superuser)


@pytest.mark.django_db
def test_a_later_run_keeps_users_and_follows_the_port(tmp_path):
    path = tmp_path / "credentials.json"
    first, _ = run_local.ensure_users(path, "http://127.0.0.1:8000")
    again, made = run_local.ensure_users(path, "http://127.0.0.1:8001")
    assert not made
    assert again == {**first, "url": "http://127.0.0.1:8001"} == json.loads(path.read_text())
    assert get_token_model().objects.count() == 2


@pytest.mark.django_db
def test_a_deleted_user_is_made_again_and_the_other_one_kept(tmp_path):
    path = tmp_path / "credentials.json"
    first, _ = run_local.ensure_users(path, "http://127.0.0.1:8000")
    get_user_model().objects.get(username="editor").delete()
    again, made = run_local.ensure_users(path, "http://127.0.0.1:8000")
    assert made
    assert again["admin"] == first["admin"]
    assert again["editor"]["password"] != first["editor"]["password"]


@pytest.mark.django_db
def test_a_lost_file_is_not_replaced_by_a_wrong_one(tmp_path):
    path = tmp_path / "credentials.json"
    run_local.ensure_users(path, "http://127.0.0.1:8000")
    path.unlink()
    _credentials, made = run_local.ensure_users(path, "http://127.0.0.1:8000")
    assert not made
    assert not path.exists()


@pytest.mark.django_db
def test_no_user_is_left_with_a_password_that_nobody_knows(tmp_path):
    with pytest.raises(FileNotFoundError):
        run_local.ensure_users(tmp_path / "missing" / "credentials.json", "http://127.0.0.1:8000")
    assert not get_user_model().objects.exists()


def test_a_busy_port_is_named_before_anything_is_done():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(CommandError, match=f"Port {port} cannot be used .*make run PORT="):
            run_local.listen(port)


def test_it_refuses_settings_that_are_not_local():
    with pytest.raises(CommandError, match=r"config\.settings\.local"):
        call_command("run_local", port=0)


@contextmanager
def running(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and what it printed up to its last line."""
    passed_on = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "manage.py", "run_local", "--settings=config.settings.local", "--port=0"],
        cwd=ROOT,
        env={**passed_on, "LOCAL_DIR": str(directory), "ENV_FILE": os.devnull},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            if line.startswith("Ctrl-C"):
                break
        yield process, printed
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def pasted(printed: str) -> httpx.Response:
    """Do what the printed curl line does."""
    line = next(line for line in printed.splitlines() if line.startswith("  curl"))
    words = shlex.split(line)
    headers = dict(words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H")
    return httpx.post(words[3], headers=headers, content=words[words.index("-d") + 1], timeout=60)


@pytest.mark.local
def test_the_printed_line_works_and_ctrl_c_stops_without_a_trace(tmp_path):
    with running(tmp_path) as (process, printed):
        credentials = json.loads((tmp_path / "credentials.json").read_text())
        for name in ("admin", "editor"):
            assert credentials[name]["password"] in printed
            assert credentials[name]["token"] in printed
        response = pasted(printed)
        assert response.status_code == 200, response.text
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(timeout=30) == 0
    *log, last = rest.splitlines()
    assert last == "Stopped."
    assert all(" INFO src.ai.calls: " in line for line in log), rest

    with running(tmp_path) as (process, printed):
        assert credentials["editor"]["password"] not in printed
        assert not re.search(r"Bearer|[0-9a-f]{20}", printed)
        response = pasted(printed.replace("PASSWORD", credentials["editor"]["password"]))
        assert response.status_code == 200, response.text
        process.terminate()
        assert process.wait(timeout=30) == 0


def test_ctrl_c_cuts_a_stream_that_does_not_end_and_settles_it(tmp_path: Path, upstream: Upstream) -> None:
    upstream.send(events(answers.chunk("Hel"), HANG))
    with running(tmp_path) as (process, _printed):
        credentials = json.loads((tmp_path / "credentials.json").read_text())
        headers = {"Authorization": f"Bearer {credentials['admin']['token']}"}
        with httpx.Client(base_url=f"{credentials['url']}/api/admin/", headers=headers, timeout=60) as api:
            row = {"slug": "openai", "api_base_url": f"{upstream.url}/v1", "shared_api_key": "sk-0123456789abcdef"}
            provider = api.get("ai-providers?search=openai").json()["results"][0]["id"]
            assert api.patch(f"ai-providers/{provider}", json=row).status_code == 200
            model = {
                "provider": "openai",
                "name": "X",
                "model_id": "gpt-x",
                "capabilities": ["chat"],
                "is_active": True,
            }
            assert api.post("ai-models", json=model).status_code == 201
            asked = {"message": "Hi", "provider_slug": "openai", "stream": True}
            with api.stream("POST", "ai/chat/send", json=asked) as response:
                lines = response.iter_lines()
                assert next(lines) == "event: delta"
                process.send_signal(signal.SIGINT)
                rest = process.stdout.read()
                assert process.wait(timeout=30) == 0
    assert rest.endswith("Stopped.\n")
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database:
        records = database.execute("SELECT state, error_code FROM ai_usagerecord").fetchall()
    assert records == [("settled", "client_disconnected")]
