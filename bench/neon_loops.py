"""Guards the length of the NEON kernels' inner loops.

Instructions on aarch64 can't be counted here as `bench/instructions.py` does for x86: callgrind
runs native code only, and Debian's user-mode qemu has no plugins. But the kernels spend their time
in the loops that `bench/mca.py` finds, and the length of those repeats exactly.

    python -m bench.neon_loops check OBJECT     # 2 % more instructions than the baseline fail
    python -m bench.neon_loops update OBJECT    # a new baseline

OBJECT is the compiled csrc/isa/neon.cpp (cmake --preset arm64). As with instructions.py, the
baseline names its compiler, and another compiler's counts fail nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from bench.instructions import Counts, judge
from bench.mca import KERNELS, disassembled, functions, main_loop

BASELINE = Path(__file__).resolve().parent / "baselines" / "neon_loops.json"


def lengths(listing: str) -> Counts:
    """Instructions in one pass through the loop of every kernel."""
    code = functions(listing)
    return {name: len(main_loop(code, *where)) for name, where in KERNELS.items()}


def compiler_of(path: Path) -> str:
    """What an object was compiled with, as it says itself."""
    command = ["aarch64-linux-gnu-readelf", "-p", ".comment", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"\]\s+(.*\S)", done.stdout)
    return found[1] if found else "unknown"


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("check", "update"))
    parser.add_argument("object", type=Path)
    given = parser.parse_args()
    compiler, counts = compiler_of(given.object), {"neon": lengths(disassembled(given.object))}
    if given.what == "update":
        document = {"compiler": compiler, "instructions": counts}
        BASELINE.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
        return 0
    return judge(json.loads(BASELINE.read_text()), compiler, counts)


if __name__ == "__main__":
    sys.exit(main())
