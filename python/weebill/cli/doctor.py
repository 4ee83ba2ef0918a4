"""`weebill doctor`: what makes networks slow or wrong here, and what to do about it."""

from __future__ import annotations

from typing import Annotated

import typer

from weebill.cli._output import print_json, print_line, print_table
from weebill.doctor import examine

__all__ = ["doctor"]


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Examine the machine: instruction set, clocks, heat, limits, threads, torch."""
    findings = examine()
    if json:
        print_json({"findings": [finding.to_dict() for finding in findings]})
        return
    print_table(
        ["", "what", "found"],
        [(finding.status, finding.name, finding.value) for finding in findings],
    )
    advised = [finding for finding in findings if finding.advice]
    if advised:
        print_line()
    for finding in advised:
        print_line(f"{finding.name}: {finding.advice}")
