"""SQLite's disk is full: no call is made that can't be written down, and none that was made is forgotten.

Collected where the suite runs on SQLite (see conftest.py).
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from uuid import uuid4

import pytest
from django.contrib.auth.models import User

from src.ai.models import AIModel, APIToken, UsageState, UsageText
from src.core.fields import Ciphertext
from tests import vendor_answers as answers
from tests.ledger import books
from tests.ledger.processes import Client, Processes, listening, until
from tests.upstream.server import Gate, Reply, Upstream, whole

pytestmark = pytest.mark.django_db(transaction=True)

SHORT = 0.3  # seconds


@contextmanager
def no_room_for(process: BaseProcess) -> Iterator[None]:
    """While the process can't write to any file."""
    assert process.pid
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    yield
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)


@pytest.fixture
def token(superuser: User, model: AIModel) -> str:
    return str(APIToken.objects.create(user=superuser, name="full")[1])


def test_without_room_for_a_reservation_nobody_is_asked(token: str, upstream: Upstream, processes: Processes) -> None:
    processes.changes["AI_LEDGER_TIMEOUT"] = SHORT
    with listening() as (listener, port):
        server, client = processes.serve(listener), Client(port, token)
        assert client.chat(1) == "served"
        with no_room_for(server):
            status, headers, answer = client.post(message="Hi")
            assert (status, answer["errors"][0]["code"]) == (503, "ledger_unavailable")
            assert headers["Retry-After"] == "1"
        assert len(upstream.requests) == 1
        assert client.chat(1) == "served"
    books.assert_true()
    assert books.period().requests == 2


def test_without_room_for_a_settlement_the_caller_has_its_reply(
    token: str, upstream: Upstream, processes: Processes
) -> None:
    processes.changes["AI_LEDGER_TIMEOUT"] = SHORT
    gate, good = Gate(), whole(200, answers.chat("Hello!"))
    upstream.send(Reply(200, good.parts, good.headers, [gate], good.length))
    with listening() as (listener, port), ThreadPoolExecutor(1) as clients:
        server = processes.serve(listener)
        call = clients.submit(Client(port, token).chat, 1)
        gate.wait_until_reached()
        with no_room_for(server):
            gate.open()
            assert call.result() == "served"
            assert books.states() == [UsageState.RESERVED]
        until(lambda: books.states() == [UsageState.SETTLED])
    books.assert_true()
    assert books.period().requests == 1


def test_each_call_until_the_last_page_is_written_or_refused(
    superuser: User, model: AIModel, upstream: Upstream, processes: Processes
) -> None:
    """The database may not grow: what still fits into its pages is served, and what does not is not begun."""
    processes.changes["AI_LEDGER_TIMEOUT"] = SHORT
    options = processes.database["OPTIONS"]
    pragmas = f"{options['init_command']}; PRAGMA max_page_count = 1"  # that is: as many as there are
    processes.database = {**processes.database, "OPTIONS": {**options, "init_command": pragmas}}
    filler = [UsageText(public_id=uuid4(), reply=Ciphertext("x" * 2000)) for _ in range(50)]
    UsageText.objects.bulk_create(filler)
    caller = processes.callers(1)
    served = refused = 0
    while refused < 3:
        asked = len(upstream.requests)
        caller.call(superuser.pk, message="Hi")
        (outcome,) = caller.outcomes()
        was_served = "text" in outcome
        assert was_served or outcome["code"] == "ledger_unavailable"
        assert len(upstream.requests) - asked == was_served
        served, refused = served + was_served, refused + (not was_served)
        assert served < 1000
    UsageText.objects.all().delete()  # which makes room
    caller.call(superuser.pk, message="Hi")
    assert caller.outcomes()[0]["text"] == "Hello!"
    until(lambda: UsageState.RESERVED not in books.states())
    books.assert_true()
    assert Counter(books.states())[UsageState.SETTLED] == books.period().requests == served + 1
