"""The engines compared, one module each; importing this package imports none of them.

Engines may live in another environment, with weebill installed there too: `WEEBILL_BENCH_PYTHON`,
or `WEEBILL_BENCH_PYTHON_<NAME>` for one of them, is the path of that environment's Python.
"""

from __future__ import annotations

import importlib

from weebill.bench.engines.base import Engine

# name -> module:class, in the order of the tables' columns.
ENGINES = {
    "weebill": "weebill:Weebill",
    "weebill_native": "weebill:WeebillNative",
    "weebill_unfused": "weebill:WeebillUnfused",
    "openvino": "openvino:OpenVino",
    "onnxruntime": "onnxruntime:OnnxRuntime",
    "litert": "litert:LiteRt",
    "executorch": "executorch:ExecuTorch",
    "ncnn": "ncnn:Ncnn",
    "mnn": "mnn:Mnn",
    "inductor": "inductor:Inductor",
    "torch_folded": "torch_eager:TorchFolded",
    "torch_nhwc": "torch_eager:TorchChannelsLast",
    "torch": "torch_eager:TorchEager",
}


def make_engine(name: str) -> Engine:
    """The adapter called `name`.

    Raises:
        ValueError: No engine has that name.
    """
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {name!r}")
    module, _, kind = ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(f"weebill.bench.engines.{module}"), kind)()
    return engine
