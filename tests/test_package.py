"""`import weebill`: names come when they are touched, and say what they miss."""

from __future__ import annotations

import subprocess
import sys

import pytest

import weebill


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_all_names_are_there() -> None:
    for name in weebill.__all__:
        assert getattr(weebill, name) is not None
    assert set(weebill.__all__) <= set(dir(weebill))


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'weebill' has no attribute 'missing'"):
        weebill.missing  # noqa: B018


def test_convert_is_the_function_whatever_was_imported_first() -> None:
    for first in ("import weebill.convert", "from weebill.convert import report", ""):
        code = f"{first}\nimport weebill, types\nassert type(weebill.convert) is types.FunctionType"
        assert python(code).returncode == 0, first


def test_without_torch_numpy_works_and_the_rest_says_so() -> None:
    code = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import numpy, weebill, weebill.config
record = weebill._C.pack_global_avg_pool2d(2)
print(weebill._C.run(numpy.ones((1, 2, 3, 3), "f4"), record).ravel())
print(weebill.config.isa())
for name in ("ops", "nn", "models", "convert", "report"):
    try:
        getattr(weebill, name)
    except ImportError as error:
        assert "torch" in str(error) and "weebill[torch]" in str(error), error
    else:
        raise AssertionError(name)
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "[1. 1.]"


def test_old_torch_is_named() -> None:
    code = """
import torch
torch.__version__ = torch.torch_version.TorchVersion("2.4.1")
import weebill.ops
"""
    result = python(code)
    assert result.returncode == 1
    assert "weebill: torch must be 2.5 or later, got 2.4.1" in result.stderr
