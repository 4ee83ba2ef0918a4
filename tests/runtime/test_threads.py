"""Threads of the runtime: never another result, in any number, called from any number of others."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import weebill
from weebill import config, runtime
from weebill.models import mobilenet_v3_small


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("threads") / "small.weebill"
    weebill.save(mobilenet_v3_small(num_classes=10), path, input_shape=(1, 3, 96, 96))
    return path


def image(n: int = 1) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(n).standard_normal((n, 3, 96, 96), dtype=np.float32)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_bitwise_equal(path: Path, images: int) -> None:
    model, x = runtime.load(path), image(images)
    before = config.threads()
    expected = model(x)
    try:
        for threads in (2, 3, 8, 1):
            config.set_threads(threads)
            assert config.threads() == threads
            for _ in range(3):
                assert np.array_equal(model(x), expected)
    finally:
        config.set_threads(before)


def test_many_python_threads_on_one_model(path: Path) -> None:
    model = runtime.load(path)
    inputs = [image(n) for n in (1, 2, 3)]
    expected = [model(x) for x in inputs]
    config.set_threads(2)
    try:
        with ThreadPoolExecutor(6) as pool:
            found = list(
                pool.map(lambda i: np.array_equal(model(inputs[i % 3]), expected[i % 3]), range(48))
            )
    finally:
        config.set_threads(1)
    assert all(found)


def run(code: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if k != "WEEBILL_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**variables, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_fork(path: Path) -> None:
    code = """
import os, sys, numpy, weebill.config
weebill.config.set_threads(3)
model = weebill.runtime.load(sys.argv[1])
x = numpy.ones((1, 3, 96, 96), "f4")
y = model(x)
child = os.fork()
equal = numpy.array_equal(model(x), y)
if child == 0:
    os._exit(0 if equal else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert equal
"""
    result = run(code, path)
    assert result.returncode == 0, result.stderr


def test_environment(path: Path) -> None:
    code = "import weebill.config; print(weebill.config.threads())"
    assert run(code, path, WEEBILL_NUM_THREADS="3").stdout == "3\n"
    assert 1 <= int(run(code, path).stdout) <= len(os.sched_getaffinity(0))
    result = run(code, path, WEEBILL_NUM_THREADS="many")
    assert "WEEBILL_NUM_THREADS must be a number from 1 to 256, got 'many'" in result.stderr


def test_the_processors_that_the_process_is_bound_to_count(path: Path) -> None:
    code = """
import os, weebill.config
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(weebill.config.threads())
"""
    assert run(code, path).stdout == "1\n"


@pytest.mark.parametrize("number", [0, -1, 257])
def test_out_of_range(number: int) -> None:
    with pytest.raises(ValueError, match=f"^set_threads: .* from 1 to 256, got {number}"):
        config.set_threads(number)


@pytest.mark.parametrize("number", [2.0, "2", True])
def test_no_integer(number: object) -> None:
    with pytest.raises(TypeError, match="^set_threads: number must be an int or None"):
        config.set_threads(number)  # type: ignore[arg-type]
