"""`convert` puts fused calls into a model; `report` tells what was fused and what was left."""

from weebill.convert.convert import convert
from weebill.convert.report import Entry, Report, report

__all__ = ["Entry", "Report", "convert", "report"]
