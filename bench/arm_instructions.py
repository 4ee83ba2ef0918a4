"""Instructions that networks execute on an aarch64 core, ours beside other engines' aarch64 wheels.

Times under emulation say nothing of a board; the number of instructions is the same as there. The
emulated process loads and makes the first inference, then forks: the child makes some more, and
what it executed beyond its parent is those, on one thread.

    python -m bench.arm_instructions count QEMU PLUGIN   # anew, into bench/results
    python -m bench.arm_instructions show                # the table of docs/arm.md

QEMU is a qemu-aarch64 of 7.2 or later, configured with --enable-plugins, PLUGIN the libinsn.so that
its sources hold in tests/plugin (Debian's packages have neither). Needs the environment `peers`:

    scripts/aarch64_environment.sh peers WHEEL onnxruntime ncnn ai-edge-litert MNN

and the networks of `weebill bench models` in its cache. Run it in an environment where the engines
are installed in the same versions: there the networks are converted, if they are not yet. What a
wheel's engine computes is compared with float64 before it counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weebill.bench.case import default_cache, read_case
from weebill.bench.engines import make_engine

ROOT = Path(__file__).resolve().parents[1]
BOARD = ROOT / "build" / "aarch64"
RESULTS = ROOT / "bench" / "results" / "arm_instructions.json"
NETWORKS = {
    "mobilenet_v3_large": "MobileNetV3-Large",
    "shufflenet_v2_x1_0": "ShuffleNetV2 x1.0",
}
ENGINES = {
    "weebill_native": "weebill",
    "ncnn": "ncnn",
    "onnxruntime": "ONNX Runtime",
    "litert": "LiteRT (XNNPACK)",
    "mnn": "MNN",
}
CALLS = 4
TOLERANCE = 1e-4  # of the largest value, as in `weebill bench`


def run(engine: str, case: Path) -> None:
    """In the emulated process: load, compare with float64, have a child make CALLS inferences."""
    network = read_case(case)
    adapter = make_engine(engine)
    session = adapter.load(network.export_folder(adapter), network.input(), 1)
    session.run()
    expected = network.reference()
    error = float(np.abs(session.output() - expected).max() / np.abs(expected).max())
    print(json.dumps({"version": adapter.version(), "error": error}), flush=True)
    session.run()
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        for _ in range(CALLS):
            session.run()
    os._exit(0)  # both at once: no tidying up is counted


def count(command: Sequence[str], engine: str, case: Path) -> dict[str, Any]:
    """A row of the result."""
    inside = ["-m", "bench.arm_instructions", "run", engine, str(case)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *inside], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    totals = re.findall(r"^insns: (\d+)$", done.stderr, re.MULTILINE)
    answers = re.findall(r"^\{.*\}$", done.stdout, re.MULTILINE)  # some engines print, too
    if done.returncode != 0 or len(totals) != 2 or len(answers) != 1:
        last = (done.stderr or done.stdout).strip()[-400:]
        raise RuntimeError(f"ended with code {done.returncode}: {last}")
    child, parent = map(int, totals)
    answer: dict[str, Any] = json.loads(answers[0])
    if not answer["error"] < TOLERANCE:
        raise RuntimeError(f"off by {answer['error']:.1e} of the largest value")
    return {**answer, "instructions": round((child - parent) / CALLS)}


def find_case(cache: Path, network: str) -> Path:
    found = sorted(cache.glob(f"{network}_224x224_batch_1-*"))
    if not found:
        raise SystemExit(f"bench.arm_instructions: run `weebill bench models {network}` first")
    return found[0]


def measure(
    qemu: str, plugin: str, cpu: str, cache: Path, engines: Sequence[str], before: dict[str, Any]
) -> dict[str, Any]:
    """A result: new rows of these engines, of the others those from before."""
    python = BOARD / "peers" / "bin" / "python"
    command = [qemu, "-L", str(BOARD / "root"), "-cpu", cpu, "-0", str(python)]
    command += ["-plugin", f"{plugin},inline=on", "-d", "plugin"]
    command += [str(BOARD / "root" / "usr" / "bin" / "python3.11")]
    version = subprocess.run([qemu, "--version"], check=True, capture_output=True, text=True).stdout
    rows = [row for row in before.get("rows", []) if row["engine"] not in engines]
    for network in NETWORKS:
        case = find_case(cache, network)
        macs = read_case(case).macs
        for engine in engines:
            row: dict[str, Any] = {"network": network, "engine": engine, "multiply_adds": macs}
            try:
                read_case(case).exported(make_engine(engine))
                row |= count(command, engine, case)
            except RuntimeError as failure:
                row["failure"] = str(failure)
            print(row, file=sys.stderr)
            rows.append(row)
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    context = {"emulator": version.splitlines()[0], "cpu": cpu, "commit": commit.stdout.strip()}
    return {"context": context | {"threads": 1, "dtype": "float32"}, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """Markdown: a row per engine, a column per network."""
    rows = {(row["network"], row["engine"]): row for row in result["rows"]}
    lines = [
        "| engine | " + " | ".join(NETWORKS.values()) + " |",
        "|---|" + "---:|" * len(NETWORKS),
    ]
    for engine, title in ENGINES.items():
        cells = []
        for network in NETWORKS:
            row = rows.get((network, engine))
            if row is None or "failure" in row:
                cells.append("does not run" if row else "not counted")
                continue
            per_mac = row["instructions"] / row["multiply_adds"]
            cells.append(f"{per_mac:.3f} ({row['instructions'] / 1e6:.1f} M)")
        version = rows.get((next(iter(NETWORKS)), engine), {}).get("version", "")
        lines.append(f"| {title} {version} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    counting = actions.add_parser("count")
    counting.add_argument("qemu")
    counting.add_argument("plugin")
    counting.add_argument("--cpu", default="cortex-a76")
    counting.add_argument("--cache", type=Path, default=default_cache())
    counting.add_argument("--engine", choices=ENGINES, action="append", help="default: all")
    actions.add_parser("show")
    inside = actions.add_parser("run")
    inside.add_argument("engine", choices=ENGINES)
    inside.add_argument("case", type=Path)
    given = parser.parse_args()
    if given.action == "run":
        run(given.engine, given.case)
        return
    if given.action == "count":
        engines = given.engine or list(ENGINES)
        before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        result = measure(given.qemu, given.plugin, given.cpu, given.cache, engines, before)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
