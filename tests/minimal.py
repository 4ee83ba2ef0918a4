"""What an installed wheel must do with numpy alone: run by itself, without pytest, where neither
torch nor any extra is installed.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np


def main() -> None:
    assert importlib.util.find_spec("torch") is None, "this environment must not have torch"
    import weebill
    import weebill.doctor
    from weebill import _C

    assert _C.__version__ == weebill.__version__
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 19, 7, 5), dtype=np.float32)
    weight = random.standard_normal((10, 19, 1, 1), dtype=np.float32)
    bias = random.standard_normal(10, dtype=np.float32)
    expected = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], x.astype(np.float64))
    expected = np.maximum(expected + bias[:, None, None], 0)
    record = _C.pack_conv2d(weight, bias, (1, 1), (0, 0, 0, 0), (1, 1), 1, "relu")
    for isa in _C.isas():
        _C.set_isa(isa)
        np.testing.assert_allclose(_C.run(x, record), expected, rtol=1e-5, atol=1e-5)

    run_a_file(weebill)
    assert weebill.doctor.examine()

    for attribute in ("convert", "models", "save"):
        try:
            getattr(weebill, attribute)
        except ImportError as error:
            assert "torch" in str(error), error
        else:
            raise AssertionError(f"weebill.{attribute} must ask for torch")

    script = Path(sys.executable).parent / "weebill"
    result = subprocess.run([script, "info"], capture_output=True, text=True, check=False)
    assert result.returncode == 2, result
    assert "pip install 'weebill[cli]'" in result.stderr, result.stderr
    print(f"weebill {weebill.__version__} runs on numpy {np.__version__}: {', '.join(_C.isas())}")


def run_a_file(weebill: ModuleType) -> None:
    """A network of one layer, written by hand; with 1, 2 and 3 threads."""
    weight = np.ones((5, 3, 1, 1), np.float32)
    layer = {"path": "head", "in_channels": 3, "out_channels": 5, "activation": "relu6"}
    description = {
        "format": 1,
        "weebill": weebill.__version__,
        "input_shape": [1, 3, 8, 8],
        "programs": [[{"kind": "conv2d", "layer": layer}]],
        "nodes": [{"op": "run", "inputs": [0], "program": 0}],
        "outputs": [{"value": 1}],
    }
    header = json.dumps(
        {
            "__metadata__": {"weebill": json.dumps(description)},
            "head.weight": {"dtype": "F32", "shape": [5, 3, 1, 1], "data_offsets": [0, 60]},
        }
    ).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.weebill"
        path.write_bytes(len(header).to_bytes(8, "little") + header + weight.tobytes())
        model = weebill.runtime.load(path)
    x = np.full((2, 3, 33, 44), 1.5, np.float32)
    for threads in (1, 2, 3):
        weebill.config.set_threads(threads)
        np.testing.assert_array_equal(model(x), np.full((2, 5, 33, 44), 4.5, np.float32))


if __name__ == "__main__":
    main()
