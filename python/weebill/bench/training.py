"""Training speed: depthwise convolutions forward and backward, and whole training steps.

Compared are this library's training mode, the same network in plain torch (eager), and that under
`torch.compile`; all channels_last, float32. Contenders take turns within a round, so that a machine
that changes its speed changes it for all; the median of the rounds counts. Freed memory is kept for
all of them (`weebill.nn.keep_freed_memory`), and page faults are not what is compared.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weebill import models, ops
from weebill.nn import keep_freed_memory, unfused

__all__ = ["DEPTHWISE", "ENGINES", "NETWORKS", "Row", "geometric_mean", "measure"]

ENGINES = ("weebill", "eager", "compile")
NETWORKS = ("mobilenet_v3_large", "shufflenet_v2_x1_0")

#: Channels, input size, kernel, stride: the depthwise convolutions of MobileNetV3-Large at 224.
DEPTHWISE = (
    (16, 112, 3, 1),
    (64, 112, 3, 2),
    (72, 56, 3, 1),
    (72, 56, 5, 2),
    (120, 28, 5, 1),
    (240, 28, 3, 2),
    (200, 14, 3, 1),
    (184, 14, 3, 1),
    (480, 14, 3, 1),
    (672, 14, 3, 1),
    (672, 14, 5, 2),
    (960, 7, 5, 1),
)

Step = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """Median time of a case in one engine.

    Attributes:
        case: A network, or a convolution as `672x14 k5 s2`: channels, size, kernel, stride.
        engine: One of `ENGINES`.
        milliseconds: Of a training step; of forward and backward for a convolution.
        speedup: The first other engine's time divided by this one's; 1 for that engine.
        rounds: How many were measured.
    """

    case: str
    engine: str
    milliseconds: float
    speedup: float
    rounds: int

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean logarithm."""
    return statistics.geometric_mean(values)


def measure(
    names: Sequence[str] = (),
    *,
    size: int = 128,
    batch: int = 32,
    threads: int | None = None,
    seconds: float = 10.0,
    engines: Sequence[str] = ENGINES,
) -> list[Row]:
    """Rows of every case, in order; a case has a row per engine.

    Args:
        names: Networks of `weebill.models`, or "depthwise". Default: all of `NETWORKS`, and that.
        size: Of the networks' images. The convolutions have their own sizes.
        batch: Images per step.
        threads: torch's. Default: what torch has.
        seconds: Per network; a tenth of it per convolution.
        engines: Of `ENGINES`; the convolutions leave "compile" out.

    Raises:
        ValueError: An engine or a network is not known.
    """
    for engine in engines:
        if engine not in ENGINES:
            raise ValueError(
                f"bench training: backend must be one of {', '.join(ENGINES)}, got {engine!r}"
            )
    keep_freed_memory()  # for all contenders
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    rows: list[Row] = []
    try:
        for name in names or ("depthwise", *NETWORKS):
            if name == "depthwise":
                for shape in DEPTHWISE:
                    steps = _convolution_steps(shape, batch, engines)
                    channels, width, kernel, stride = shape
                    case = f"{channels}x{width} k{kernel} s{stride}"
                    rows += _rows(case, _medians(steps, seconds / 10))
            else:
                steps = _network_steps(name, size, batch, engines)
                rows += _rows(name, _medians(steps, seconds))
    finally:
        torch.set_num_threads(before)
    return rows


def _rows(case: str, medians: dict[str, tuple[float, int]]) -> list[Row]:
    base = next((time for name, (time, _) in medians.items() if name != "weebill"), None)
    return [
        Row(case, name, 1e3 * taken, (base or taken) / taken, rounds)
        for name, (taken, rounds) in medians.items()
    ]


def _medians(steps: dict[str, Step], seconds: float) -> dict[str, tuple[float, int]]:
    for step in steps.values():
        step()  # compiles, allocates
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 3:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: (statistics.median(taken), len(taken)) for name, taken in times.items()}


def _convolution_steps(
    shape: tuple[int, int, int, int], batch: int, engines: Sequence[str]
) -> dict[str, Step]:
    channels, size, kernel, stride = shape
    x = torch.randn(batch, channels, size, size).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, kernel, kernel).requires_grad_()
    x.requires_grad_()
    pad = kernel // 2

    def ours() -> Tensor:
        return ops.depthwise_conv2d(x, weight, stride=stride, padding=pad)

    def eager() -> Tensor:
        return F.conv2d(x, weight, None, stride, pad, 1, channels)

    seed = torch.randn_like(eager().detach())

    def step_of(forward: Callable[[], Tensor]) -> Step:
        def step() -> None:
            torch.autograd.grad(forward(), (x, weight), seed)

        return step

    forwards = {"weebill": ours, "eager": eager}
    return {name: step_of(forwards[name]) for name in engines if name in forwards}


def _network_steps(name: str, size: int, batch: int, engines: Sequence[str]) -> dict[str, Step]:
    torch.manual_seed(0)
    model: nn.Module = models.create_model(name).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    target = torch.randint(0, 1000, (batch,))

    def step_of(engine: str) -> Step:
        mine = copy.deepcopy(model)
        optimizer = torch.optim.SGD(mine.parameters(), lr=0.01, momentum=0.9)
        forward = torch.compile(mine) if engine == "compile" else mine

        def step() -> None:
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(x), target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        def plain_step() -> None:
            with unfused():
                step()

        return step if engine == "weebill" else plain_step

    return {engine: step_of(engine) for engine in engines}
