"""`convert` puts fused calls into a model, `report` tells what was fused and what was left, and
`save` writes the model to a file that runs without torch."""

from weebill.convert.convert import convert
from weebill.convert.report import Entry, Report, report
from weebill.convert.save import save

__all__ = ["Entry", "Report", "convert", "report", "save"]
