"""`convert` puts fused calls into a model, `report` tells what was fused and what was left, and
`save` writes the model to a file that runs without torch.

Each is imported when it is first asked for: who converts does not wait for the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weebill.convert._convert import convert
    from weebill.convert._report import Entry, Report, report
    from weebill.convert._save import save

__all__ = ["Entry", "Report", "convert", "report", "save"]

_HOMES = {
    "Entry": "_report",
    "Report": "_report",
    "convert": "_convert",
    "report": "_report",
    "save": "_save",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'weebill.convert' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"weebill.convert.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
