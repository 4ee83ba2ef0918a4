"""Every distinct block of MobileNetV3-Large and -Small.

``python -m bench.blocks [BLOCK...] [options]``; a BLOCK selects all blocks whose name
contains it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.options import parse_options
from bench.suite import list_engines, make_console, run_suite

if TYPE_CHECKING:
    from bench.case import Case
    from bench.networks import Block

# The three that published comparisons of this project started from.
TRIO = (
    "dwpw_k3s1_112x112_16-16_relu",
    "ir_k3s1_56x56_24-72-24_relu",
    "ir_k5s1_14x14_112-672-112_se_hardswish",
)


def selected(blocks: list[Block], select: tuple[str, ...]) -> list[Block]:
    """Blocks whose name contains one of `select` (``trio``: those of `TRIO`).

    Without a selection: all that occur in a network.
    """
    if not select:
        return [block for block in blocks if block.places]
    wanted = [part for name in select for part in (TRIO if name == "trio" else (name,))]
    return [block for block in blocks if any(part in block.name for part in wanted)]


def all_blocks(size: tuple[int, int], batch: int) -> list[Block]:
    """The networks' blocks and the extra one."""
    from bench.networks import make_extra_block, mobilenet_v3_blocks

    return [*mobilenet_v3_blocks(*size, batch), make_extra_block(batch)]


def main() -> int:
    """Entry point."""
    options = parse_options(
        "python -m bench.blocks", "Speed of MobileNetV3's blocks in several engines.", "block"
    )
    if options.list:
        console = make_console()
        console.print("blocks (trio: three of them)")
        for block in all_blocks(options.sizes[0], options.batches[0]):
            console.print(f"  {block.name:46}{' '.join(block.places)}", highlight=False)
        console.print("engines")
        list_engines(console)
        return 0

    def cases(size: tuple[int, int], batch: int, cache: Path) -> Iterator[Case]:
        from bench.case import make_case

        for block in selected(all_blocks(size, batch), options.select):
            suffix = "" if batch == 1 else f"/batch:{batch}"
            yield make_case(block.name + suffix, block.module, block.x, cache)

    return run_suite(options, cases)


if __name__ == "__main__":
    sys.exit(main())
