"""The ONNX file that ONNX Runtime, OpenVINO and MNN start from."""

from __future__ import annotations

import importlib.metadata
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weebill.bench.case import Case


INPUT = "x"
OUTPUT = "y"
OPSET = 17  # the newest that every consumer below reads


def exported_onnx(case: Case) -> Path:
    """The case as ONNX, made for the first engine that asks."""
    version = importlib.metadata.version("torch")
    return case.made(f"onnx-{OPSET}-torch-{version}", _export) / "model.onnx"


def _export(case: Case, folder: Path) -> None:
    """Write the case's module with a static shape; BatchNorm is folded by torch."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter announces its retirement
        torch.onnx.export(
            case.module(),
            (torch.from_numpy(case.input()),),
            str(folder / "model.onnx"),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
