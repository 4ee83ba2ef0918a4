"""`weebill info`: what runs here."""

from __future__ import annotations

from typing import Annotated

import typer

import weebill.config
from weebill.cli._output import print_json, print_line, print_pairs, print_table
from weebill.config import CpuInfo

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
            ("threads", f"{facts['threads']}; in torch, as torch.get_num_threads()"),
            ("instruction set", facts["isa"]),
            ("runs here", " ".join(facts["isas"])),
            ("in this build", " ".join(facts["built_isas"])),
        ]
    )
    print_line()
    print_table(["kernel", "what it does"], [(k["name"], k["summary"]) for k in facts["kernels"]])


def _caches(cpu: CpuInfo) -> str:
    sizes = {"L1d": cpu["l1d_bytes"], "L2": cpu["l2_bytes"], "L3": cpu["l3_bytes"]}
    return ", ".join(f"{name} {size >> 10} KiB" for name, size in sizes.items() if size)
