"""torch eager: as written, channels_last, and with BatchNorm folded in channels_last."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from weebill.bench.engines.base import Engine, FloatArray, Session, Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weebill.bench.case import Case


class TorchSession(Session):
    """Calls a module (or a compiled one) on a bound tensor, in an inference mode that stays on."""

    def __init__(self, call: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._call = call
        self._x = x
        self._y: Tensor

    def active(self) -> AbstractContextManager[None]:
        """`torch.inference_mode`."""
        import torch

        return torch.inference_mode()

    def run(self) -> None:
        """One inference."""
        self._y = self._call(self._x)

    def output(self) -> FloatArray:
        """The last output as logical NCHW."""
        y: FloatArray = np.ascontiguousarray(self._y.numpy())
        return y


def load_module(folder: Path) -> nn.Module:
    """The pickled module that an adapter of ours wrote into its own folder."""
    import torch

    module: nn.Module = torch.load(folder / "module.pt", weights_only=False)
    return module


def channels_last(x: FloatArray) -> Tensor:
    """The NCHW array as a channels_last tensor."""
    import torch

    return torch.from_numpy(x).contiguous(memory_format=torch.channels_last)


class TorchEager(Engine):
    """The module as a user gets it: NCHW, BatchNorm separate."""

    name: ClassVar[str] = "torch"
    distribution: ClassVar[str] = "torch"
    process: ClassVar[str] = "torch"
    modules: ClassVar[tuple[str, ...]] = ("torch",)
    settings: ClassVar[Settings] = Settings(isa="environment", note="eager")

    def export(self, case: Case, folder: Path) -> None:
        """Pickle the module."""
        import torch

        torch.save(case.module(), folder / "module.pt")

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Unpickle the module."""
        import torch

        torch.set_num_threads(threads)
        return TorchSession(load_module(folder), torch.from_numpy(x))


class TorchChannelsLast(TorchEager):
    """The module as it is, module and input channels_last."""

    name: ClassVar[str] = "torch_nhwc"
    settings: ClassVar[Settings] = Settings(
        layout="NHWC", isa="environment", note="eager, channels_last"
    )

    def export(self, case: Case, folder: Path) -> None:
        """Pickle the module in its layout."""
        import torch

        # torch's types leave out this form of `to`, which its documentation gives.
        module = case.module().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.save(module, folder / "module.pt")

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Unpickle the module; the input becomes channels_last."""
        import torch

        torch.set_num_threads(threads)
        return TorchSession(load_module(folder), channels_last(x))


class TorchFolded(TorchChannelsLast):
    """BatchNorm folded as well: the strongest eager form."""

    name: ClassVar[str] = "torch_folded"
    settings: ClassVar[Settings] = Settings(
        layout="NHWC", isa="environment", note="eager, BatchNorm folded, channels_last"
    )

    def export(self, case: Case, folder: Path) -> None:
        """Fold and pickle the module."""
        import torch

        from weebill.bench.engines.fold import fold_batch_norm

        folded = fold_batch_norm(case.module())
        folded = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.save(folded, folder / "module.pt")
