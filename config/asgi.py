"""The site for ASGI servers: `uvicorn config.asgi:application --http config.asgi:Protocol`."""

import gc
import logging
import os

import django
from servestatic import ServeStaticASGI

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup(set_prefix=False)

from config import logs  # noqa: E402 (needs Django to be set up)
from config.static import add_headers, add_static_files  # noqa: E402 (needs Django to be set up)
from src.ai.asgi import Gateway  # noqa: E402
from src.ai.protocol import Protocol as Protocol  # noqa: E402 (uvicorn's option `--http` names it)
from src.ai.services.ledger.sweeper import sweeper  # noqa: E402
from src.ai.services.ledger.writer import EXIT_WAIT, writer  # noqa: E402
from src.ai.views.on_loop import chat_on_loop  # noqa: E402
from src.core.asgi import Handler  # noqa: E402
from src.core.graceful import Graceful  # noqa: E402

# Objects that may come to be before those that refer to each other alone are looked for among the newest; after how
# many such looks the older ones are gone through too; after how many of these all.
GARBAGE = (10_000, 5, 4)


def end() -> None:
    """Finish what the process has kept for company: the server may end it by a signal, past all that Python does."""
    writer.drain(EXIT_WAIT)
    for handler in logging.getLogger().handlers:
        handler.flush()


logs.Handler.writes_together = True
graceful_application = Graceful(Handler(choose=chat_on_loop), at_end=end)
static_application = ServeStaticASGI(graceful_application, add_headers_function=add_headers, allow_all_origins=False)
add_static_files(static_application)
application = Gateway(static_application)
sweeper.start()
# What is loaded by now stays: the garbage collector need not go through it again and again.
gc.collect()
gc.freeze()
gc.set_threshold(*GARBAGE)
