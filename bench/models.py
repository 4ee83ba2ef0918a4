"""Whole networks: ``python -m bench.models [NETWORK...] [options]``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.options import parse_options
from bench.suite import list_engines, make_console, run_suite

if TYPE_CHECKING:
    from bench.case import Case


def main() -> int:
    """Entry point."""
    options = parse_options(
        "python -m bench.models", "Speed of whole networks in several engines.", "network"
    )
    if options.list:
        from bench.networks import DEFAULT_NETWORKS, NETWORKS

        console = make_console()
        console.print("networks (* by default)")
        for name in NETWORKS:
            console.print(f"  {name}{' *' if name in DEFAULT_NETWORKS else ''}", highlight=False)
        console.print("engines")
        list_engines(console)
        return 0

    def cases(size: tuple[int, int], batch: int, cache: Path) -> Iterator[Case]:
        from bench.case import make_case
        from bench.networks import DEFAULT_NETWORKS, make_input, make_network

        for name in options.select or DEFAULT_NETWORKS:
            label = f"{name}/{size[0]}x{size[1]}/batch:{batch}"
            yield make_case(label, make_network(name), make_input(batch, *size), cache)

    return run_suite(options, cases)


if __name__ == "__main__":
    sys.exit(main())
