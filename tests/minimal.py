"""What an installed wheel must do with numpy alone: run by itself, without pytest, where neither
torch nor any extra is installed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    assert importlib.util.find_spec("torch") is None, "this environment must not have torch"
    import weebill
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

    for attribute in ("convert", "models"):
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


if __name__ == "__main__":
    main()
