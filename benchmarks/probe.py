"""The site with one path more, `/-/inside`, which tells what only the process itself knows. `soak.py` serves it."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

from site_under_test import INSIDE

from config.asgi import application as site


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The site, or what is inside: tasks of all loops that have not ended, and objects."""
    if scope["type"] != "http" or scope["path"] != INSIDE:
        await site(scope, receive, send)
        return
    objects = gc.get_objects()
    tasks = sum(isinstance(found, asyncio.Task) and not found.done() for found in objects)
    body = json.dumps({"tasks": tasks, "objects": len(objects)}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
