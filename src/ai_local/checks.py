"""System checks: what the local provider lacks, and what to type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.checks import CheckMessage, Error, register
from django.utils.translation import gettext as _

from src.ai.exceptions import ProviderUnavailable
from src.ai_local import packages


@register()
def check_local_provider(**kwargs: Any) -> list[CheckMessage]:
    """E001: packages are missing. E002: `LOCAL_GGUF` names no GGUF file. E003: the system lacks libgomp."""
    problems: list[CheckMessage] = []
    if missing := packages.find_missing():
        problems.append(
            Error(
                _("AI_LOCAL is on, but these packages are not installed: {names}.").format(names=", ".join(missing)),
                hint=packages.INSTALL_COMMAND,
                id="ai_local.E001",
            )
        )
    configured = packages.configured_gguf()
    if configured and not packages.is_gguf(Path(configured).expanduser()):
        problems.append(
            Error(
                _("LOCAL_GGUF is '{path}', which is not a readable GGUF file.").format(path=configured),
                hint=_("Correct LOCAL_GGUF, or leave it empty to use the small model of: {command}").format(
                    command=packages.INSTALL_COMMAND
                ),
                id="ai_local.E002",
            )
        )
    try:
        packages.load_openmp()
    except ProviderUnavailable as error:
        problems.append(Error(str(error), hint=packages.OPENMP_COMMAND, id="ai_local.E003"))
    return problems
