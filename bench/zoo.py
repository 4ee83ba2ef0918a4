"""Other people's networks, as written, compiled and converted: docs/networks.md.

    python -m bench.zoo prepare FOLDER [NETWORK ...]   compiles: a minute of one core per network
    taskset -c 1 python -m bench.zoo measure --seconds 40 FOLDER
    python -m bench.zoo page FOLDER

Each step saves after every network and goes on where it was stopped. `prepare` writes a package of
torch's compiler (weights frozen, so that it folds BatchNorm and packs weights as oneDNN wants
them), counts what is fused and compares with float64; `measure` gives the contenders short turns,
one after the other, in one process with one thread; `page` writes the table.

    eager      the model as its author wrote it, in the faster of NCHW and channels_last
    folded     the same with BatchNorm folded, channels_last
    compiled   AOTInductor's package: the code of torch.compile, without its guards
    weebill    weebill.convert(model)
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import weebill
from tests.convert.foreign import foreign_model, settle
from tests.models.conftest import import_torchvision
from weebill import _C, config
from weebill.bench.engines.fold import fold_batch_norm
from weebill.bench.stats import geometric_mean, paired_ratio, turn_figures
from weebill.bench.timing import Plan, Turn, clean_rounds, measure, take_turn

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "networks.md"
RESULT = ROOT / "bench" / "results" / "zoo.json"
MARKED = re.compile(r"(<!-- zoo -->\n).*?(<!-- /zoo -->)", re.S)

NETWORKS = (
    "torchvision/mobilenet_v2",
    "torchvision/mobilenet_v3_small",
    "torchvision/mobilenet_v3_large",
    "torchvision/mnasnet1_0",
    "torchvision/shufflenet_v2_x1_0",
    "torchvision/efficientnet_b0",
    "torchvision/regnet_y_400mf",
    "timm/mobilenetv1_100",
    "timm/mobilenetv2_100",
    "timm/mobilenetv3_large_100",
    "timm/mobilenetv4_conv_small",
    "timm/tf_mobilenetv3_large_minimal_100",
    "timm/efficientnet_lite0",
    "timm/tf_efficientnet_lite0",
    "timm/lcnet_050",
    "timm/lcnet_100",
    "timm/hardcorenas_a",
    "timm/semnasnet_100",
    "timm/fbnetc_100",
    "timm/spnasnet_100",
    "timm/tinynet_a",
    "timm/mixnet_s",
    "timm/rexnet_100",
    "timm/ghostnet_100",
    "timm/repghostnet_100",
    "timm/mobileone_s0",
    "timm/regnetx_002",
    "torchvision/resnet18",
)
CONTENDERS = ("eager", "folded", "compiled", "weebill")
PLAN = Plan(rounds=8, turn_ns=25e6, min_calls=2, refill=1)


def network(name: str) -> tuple[nn.Module, Tensor]:
    """The network with random weights and statistics that fit them, and an image of its size."""
    model = foreign_model(name)
    size = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))[-1]
    torch.manual_seed(1)
    settle(model, torch.randn(4, 3, 96, 96))
    torch.manual_seed(2)
    return model, channels_last(torch.randn(1, 3, size, size))


def channels_last(value: Any) -> Any:
    """A tensor or module in that layout."""
    return value.to(memory_format=torch.channels_last)


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


def compile_ahead(model: nn.Module, x: Tensor, path: Path) -> None:
    """Writes torch's package, if there is none yet."""
    if path.exists():
        return
    import torch._inductor.config as inductor

    inductor.freezing = True
    with torch.inference_mode(), torch.no_grad():
        program = torch.export.export(channels_last(copy.deepcopy(model)), (x,))
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def prepare(folder: Path, name: str, *, compiles: bool) -> dict[str, Any]:
    """Facts that need no quiet machine."""
    path = path_of(folder, name)
    model, x = network(name)
    if compiles:
        compile_ahead(model, x, path.with_suffix(".pt2"))
    converted = weebill.convert(model)
    torch.save((model, fold_batch_norm(model), converted, x), path)
    found = weebill.report(converted, tuple(x.shape))
    with torch.inference_mode():
        y, plain = converted(x), model(x)
        exact = copy.deepcopy(model).double()(x.double())
    return {
        "image": x.shape[-1],
        "multiply_adds": sum(entry.multiply_adds or 0 for entry in found.entries),
        "fused_share": found.fused_share,
        "calls": found.calls,
        "error": distance(y, plain),
        "error_of_weebill": distance(y, exact),
        "error_of_eager": distance(plain, exact),
    }


def path_of(folder: Path, name: str) -> Path:
    """Where the network's modules are; beside it lies the compiled package."""
    return folder / f"{name.replace('/', '_')}.pt"


class Contender:
    """A call that is given turns in this process."""

    def __init__(self, call: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._call, self._x = call, x
        self._cpus = sorted(os.sched_getaffinity(0))

    def run(self) -> None:
        """One inference."""
        self._call(self._x)

    def turn(self, refill: int, calls: int) -> Turn:
        """As `weebill.bench.timing` wants it."""
        return take_turn(self.run, self._cpus, refill, calls)


def contenders(folder: Path, name: str) -> dict[str, Contender]:
    """All that there are for the network."""
    path = path_of(folder, name)
    import_torchvision()
    model, folded, converted, x = torch.load(path, weights_only=False)
    made: dict[str, Contender] = {
        "eager": Contender(model, x),
        "eager_nhwc": Contender(channels_last(copy.deepcopy(model)), x),
        "folded": Contender(channels_last(folded), x),
        "weebill": Contender(converted, x),
    }
    package = path.with_suffix(".pt2")
    if package.exists():
        made["compiled"] = Contender(torch._inductor.aoti_load_package(str(package)), x)
    return made


def times(folder: Path, name: str) -> dict[str, Any]:
    """Milliseconds, and how many times longer the others take than weebill."""
    # made outside: what is loaded in inference mode counts no changes, and is not packed
    made = contenders(folder, name)
    with torch.inference_mode():
        records = measure(made, PLAN, base="weebill").records
    kept = {key: clean_rounds(record, PLAN.min_clean) for key, record in records.items()}
    figures = {
        key: turn_figures([record.rounds[k] for k in kept[key][0]])
        for key, record in records.items()
    }
    ms = {key: float(np.median(values)) / 1e6 for key, values in figures.items()}
    ratios = {}
    for key, record in records.items():
        if record.beside:
            beside = [record.beside[k].figure for k in kept[key][0]]
            ratio = paired_ratio(figures[key], beside)
            ratios[key] = [ratio.value, ratio.low, ratio.high]
    layout = min("eager", "eager_nhwc", key=lambda key: ratios[key][0])
    ms["eager"], ratios["eager"] = ms[layout], ratios[layout]
    del ms["eager_nhwc"], ratios["eager_nhwc"]
    return {"ms": ms, "ratio": ratios, "tainted": any(tainted for _, tainted in kept.values())}


def read(folder: Path) -> dict[str, Any]:
    """What has been found so far."""
    path = folder / "zoo.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def write(folder: Path, found: dict[str, Any]) -> None:
    """In one step: an interrupted run leaves the file whole."""
    scratch = folder / "zoo.json.new"
    scratch.write_text(json.dumps(found, indent=1) + "\n")
    scratch.replace(folder / "zoo.json")


def share_text(share: float) -> str:
    """A share in per cent that says 100 only where it is all."""
    return "100 %" if share == 1 else f"{min(100 * share, 99.9):.1f} %"


def table(found: dict[str, Any]) -> str:
    """The table of the page."""
    lines = [
        "| network | image | multiply-adds | fused | calls | error | to float64: weebill | eager "
        "| weebill, ms | eager | eager, folded | compiled |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    columns: dict[str, list[float]] = {"eager": [], "folded": [], "compiled": []}
    for name, row in found["networks"].items():
        if "ms" not in row:
            continue
        cells = []
        for key, values in columns.items():
            ratio = row["ratio"].get(key)
            cells.append(f"{ratio[0]:.2f}" if ratio else "")
            values += ratio[:1] if ratio else []
        lines.append(
            f"| {name} | {row['image']} | {row['multiply_adds'] / 1e6:.0f} M "
            f"| {share_text(row['fused_share'])} | {row['calls']} | {row['error']:.1e} "
            f"| {row['error_of_weebill']:.1e} | {row['error_of_eager']:.1e} "
            f"| {row['ms']['weebill']:.2f} | {' | '.join(cells)} |"
        )
    means = [f"{geometric_mean(values):.2f}" if values else "" for values in columns.values()]
    lines.append(f"| geometric mean | | | | | | | | | {' | '.join(means)} |")
    return "\n".join(lines)


def page(folder: Path) -> None:
    """The table in docs/networks.md, and its figures in bench/results."""
    networks = read(folder)
    machine = (
        f"{time.strftime('%Y-%m-%d')}, {_C.cpu_info()['model']} ({config.isa()}), one thread, "
        f"float32, batch 1, torch {torch.__version__}"
    )
    found = {"machine": machine, "networks": {n: networks[n] for n in NETWORKS if n in networks}}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    made = f"{table(found)}\n\nMeasured {machine}.\n"
    PAGE.write_text(MARKED.sub(lambda match: match[1] + made + match[2], PAGE.read_text()))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("prepare", "measure", "page"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--seconds", type=float, default=1e9, help="measure: stop after so long")
    parser.add_argument("--no-compile", action="store_true", help="prepare: not for torch")
    parser.add_argument("--again", action="store_true", help="what is there too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.step == "page":
        page(options.folder)
        return
    start = time.monotonic()
    for name in options.networks:
        found = read(options.folder)
        row = found.setdefault(name, {})
        if options.step == "prepare":
            if "error" in row and not options.again:
                continue
            row |= prepare(options.folder, name, compiles=not options.no_compile)
        elif path_of(options.folder, name).exists() and ("ms" not in row or options.again):
            if time.monotonic() - start > options.seconds:
                break
            row |= times(options.folder, name)
            print(name, {key: round(r[0], 3) for key, r in row["ratio"].items()}, flush=True)
        write(options.folder, found)


if __name__ == "__main__":
    main()
