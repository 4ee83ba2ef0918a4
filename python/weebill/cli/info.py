"""`weebill info`: what runs here."""

from __future__ import annotations

from typing import Annotated

import typer

import weebill.config
from weebill.cli._output import print_json, print_line, print_pairs, print_table

__all__ = ["info"]


def info(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Versions, processor, instruction sets, caches, threads and kernels."""
    facts = weebill.config.info()
    if json:
        print_json(facts)
        return
    cpu = facts["cpu"]
    print_pairs(
        [(name, version or "not installed") for name, version in facts["versions"].items()]
        + [
            ("processor", cpu["model"]),
            ("caches", _caches(cpu)),
            ("threads", facts["threads"]),
            ("instruction set", facts["isa"]),
            ("runs here", " ".join(facts["isas"])),
            ("in this build", " ".join(facts["built_isas"])),
        ]
    )
    print_line()
    print_table(["kernel", "what it does"], [(k["name"], k["summary"]) for k in facts["kernels"]])


def _caches(cpu: dict[str, int]) -> str:
    sizes = {name: cpu[f"{name}_bytes"] for name in ("l1d", "l2", "l3")}
    return ", ".join(f"{name.upper()} {size >> 10} KiB" for name, size in sizes.items() if size)
