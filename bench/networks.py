"""The networks measured and their blocks, with random but well-behaved weights.

Weights are seeded; BatchNorm statistics are taken from data, so that activations keep a
normal scale through the network and nothing is denormal or NaN.  Speed does not depend on
the values otherwise, and no trained weights have to be downloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from bench.vision import import_vision

SEED = 20240229

# name -> (module, factory)
NETWORKS = {
    "mobilenet_v3_large": ("torchvision.models", "mobilenet_v3_large"),
    "mobilenet_v3_small": ("torchvision.models", "mobilenet_v3_small"),
    "mobilenet_v2": ("torchvision.models", "mobilenet_v2"),
    "efficientnet_lite0": ("timm.models", "efficientnet_lite0"),
    "shufflenet_v2_x1_0": ("torchvision.models", "shufflenet_v2_x1_0"),
}
DEFAULT_NETWORKS = tuple(NETWORKS)[:4]


def make_input(batch: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    """Seeded normal noise, (N, C, H, W): what ImageNet's normalisation leads to."""
    generator = torch.Generator().manual_seed(SEED + 1)
    return torch.randn(batch, channels, height, width, generator=generator)


@functools.cache
def make_network(name: str) -> nn.Module:
    """The network called `name` in eval mode, float32."""
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {name!r}")
    module_name, factory_name = NETWORKS[name]
    factory: Callable[[], nn.Module] = getattr(import_vision(module_name), factory_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = factory()
        take_statistics(network, make_input(8, 224, 224))
    return network.eval()


def take_statistics(network: nn.Module, x: torch.Tensor) -> None:
    """Set every BatchNorm's running statistics to those of the batch `x`."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average: one batch sets them
    network.train()
    with torch.no_grad():
        network(x)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


class Head(nn.Module):
    """Global average pool, flatten and classifier of a torchvision MobileNet."""

    def __init__(self, avgpool: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.avgpool = avgpool
        self.classifier = classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, classes)."""
        y: torch.Tensor = self.classifier(torch.flatten(self.avgpool(x), 1))
        return y


@dataclass(frozen=True)
class Block:
    """One block of a network with the activation that reaches it."""

    name: str
    places: tuple[str, ...]  # where it occurs, e.g. "large.4"
    module: nn.Module
    x: torch.Tensor


def describe_block(module: nn.Module, x: torch.Tensor) -> str:
    """Shape name of a MobileNetV3 stage, e.g. ``ir_k5s1_14x14_112-672-112_se_hardswish``.

    Stages with equal names do equal work; a residual add follows from stride and channels.
    """
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    size = f"{x.shape[2]}x{x.shape[3]}"
    if isinstance(module, Head):
        linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
        widths = [linears[0].in_features, *(m.out_features for m in linears)]
        return f"head_{size}_{'-'.join(str(w) for w in widths)}"
    activation = (
        "hardswish" if any(isinstance(m, nn.Hardswish) for m in module.modules()) else ("relu")
    )
    if len(convs) == 1:
        conv = convs[0]
        kernel = f"k{conv.kernel_size[0]}s{conv.stride[0]}"
        return f"conv_{kernel}_{size}_{conv.in_channels}-{conv.out_channels}_{activation}"
    depthwise = next(m for m in convs if m.groups > 1)
    project = convs[-1]
    expanded = convs[0] is not depthwise
    widths = [x.shape[1], *([depthwise.out_channels] if expanded else []), project.out_channels]
    kind = "ir" if expanded else "dwpw"
    # Besides expansion, depthwise and projection there are the two convolutions of an SE.
    se = "_se" if len(convs) > 2 + int(expanded) else ""
    kernel = f"k{depthwise.kernel_size[0]}s{depthwise.stride[0]}"
    channels = "-".join(str(w) for w in widths)
    return f"{kind}_{kernel}_{size}_{channels}{se}_{activation}"


def make_extra_block(batch: int) -> Block:
    """A block of no network: MobileNetV3-Large's 12th with a 5x5 depthwise.

    The heaviest stride-1 combination of what MobileNetV3 offers, and one that published
    comparisons of fused blocks use.
    """
    mobilenetv3 = import_vision("torchvision.models.mobilenetv3")
    config = mobilenetv3.InvertedResidualConfig(112, 5, 672, 112, True, "HS", 1, 1, 1.0)
    norm = functools.partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module: nn.Module = mobilenetv3.InvertedResidual(config, norm)
        x = make_input(batch, 14, 14, 112)
        take_statistics(module, make_input(8, 14, 14, 112))
    return Block(describe_block(module, x), (), module.eval(), x)


def mobilenet_v3_blocks(height: int, width: int, batch: int) -> list[Block]:
    """Every distinct block of MobileNetV3-Large and -Small, in network order."""
    found: dict[str, Block] = {}
    for short in ("large", "small"):
        network = make_network(f"mobilenet_v3_{short}")
        x = make_input(batch, height, width)
        stages: list[tuple[str, nn.Module]] = list(
            network.get_submodule("features").named_children()
        )
        head = Head(network.get_submodule("avgpool"), network.get_submodule("classifier"))
        stages.append(("head", head.eval()))
        for place, module in stages:
            name = describe_block(module, x)
            before = found.get(name)
            if before is None:
                found[name] = Block(name, (f"{short}.{place}",), module, x)
            else:
                places = (*before.places, f"{short}.{place}")
                found[name] = Block(name, places, before.module, before.x)
            with torch.no_grad():
                x = module(x)
    return list(found.values())
