"""weebill: lightweight CNNs on CPUs, one fused op per network block.

`import weebill` needs numpy only. What needs torch is imported when it is first touched.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from weebill._C import __version__

if TYPE_CHECKING:
    from weebill import config, data, export, models, nn, ops, runtime, train
    from weebill.convert._convert import convert
    from weebill.convert._report import Report, report
    from weebill.convert._save import save

__all__ = [
    "Report",
    "__version__",
    "config",
    "convert",
    "data",
    "export",
    "models",
    "nn",
    "ops",
    "report",
    "runtime",
    "save",
    "train",
]

_SUBMODULES = frozenset({"config", "data", "export", "models", "nn", "ops", "runtime", "train"})
_FROM_CONVERT = frozenset({"Report", "convert", "report", "save"})


def __getattr__(name: str) -> Any:
    try:
        if name in _SUBMODULES:
            return importlib.import_module(f"weebill.{name}")
        if name in _FROM_CONVERT:
            return getattr(importlib.import_module("weebill.convert"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"weebill.{name} must have torch, which is not installed; pip install 'weebill[torch]'",
            name="torch",
        ) from None
    raise AttributeError(f"module 'weebill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`weebill.convert` is the function. The import of the subpackage of that name would put the
    subpackage there; it stays reachable by `from weebill.convert import ...`."""

    @property
    def convert(self) -> Any:
        return __getattr__("convert")

    @convert.setter
    def convert(self, value: object) -> None:
        pass


sys.modules[__name__].__class__ = _Package
