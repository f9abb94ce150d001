"""Importing transformers and loading a model in three quarters of the time, for a command that compiles nothing.

Three things cost seconds and serve no part of this harness: torch's compiler, which torchvision, transformers and torch's
own meta device import for a few decorators and one predicate; scipy.optimize, for losses of object detection; and the
garbage collector, which walks hundreds of thousands of new objects again and again. The compiler and scipy are stood in
for meanwhile and are themselves again afterwards: `torch.compile` works (tests/test_quick_import.py). Whatever else
of the compiler is asked for brings the real one in at once.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"


def _unchanged(function: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator, with or without arguments, that leaves what it decorates as it is."""
    return function if callable(function) else lambda f: f


class _StandIn(ModuleType):
    """A module of the compiler until something is asked of it that it does not have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _restore()
        return getattr(importlib.import_module(self.__name__), name)


def _restore() -> None:
    """Take the stand-ins, and what was imported under them, out again."""
    import torch

    if isinstance(sys.modules.get(COMPILER), _StandIn):
        for name in [n for n in sys.modules if n == COMPILER or n.startswith(f"{COMPILER}.")]:
            del sys.modules[name]
        del torch._dynamo


def _stand_in() -> None:
    import torch

    if COMPILER in sys.modules:
        return
    compiler, utils = _StandIn(COMPILER), _StandIn(f"{COMPILER}.utils")
    compiler.__path__ = [str(Path(torch.__file__).parent / "_dynamo")]  # its small submodules can be imported as they are
    for decorator in ("disable", "assume_constant_result", "allow_in_graph"):
        setattr(compiler, decorator, _unchanged)

    def is_compile_supported(device_type: Any) -> Any:
        return importlib.import_module(f"{COMPILER}.utils").is_compile_supported(device_type)

    setattr(utils, "is_compile_supported", is_compile_supported)  # noqa: B010 (mypy knows no such attribute)
    setattr(compiler, "utils", utils)  # noqa: B010
    sys.modules |= {COMPILER: compiler, utils.__name__: utils}
    torch._dynamo = compiler


@contextmanager
def quickly() -> Iterator[None]:
    """For the time of a `with`: no compiler, no scipy in transformers, no garbage collection."""
    gc.disable()
    try:
        _stand_in()
        import transformers.utils

        real, transformers.utils.is_scipy_available = transformers.utils.is_scipy_available, lambda: False
        try:
            yield
        finally:
            transformers.utils.is_scipy_available = real
            _restore()
    finally:
        gc.enable()
