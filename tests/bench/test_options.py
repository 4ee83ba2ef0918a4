"""The command line: values, refusals, and what has to be set before an import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.options import (
    ISA_ENVIRONMENT,
    native_isa,
    parse_cpus,
    parse_options,
    parse_size,
    thread_environment,
)

ROOT = Path(__file__).resolve().parents[2]


def test_sizes_and_cores() -> None:
    assert parse_size("224") == (224, 224)
    assert parse_size("320x256") == (320, 256)
    assert parse_cpus("0-2,5,5") == (0, 1, 2, 5)
    for wrong in ("0", "12x0", "axb", ""):
        with pytest.raises(ValueError, match=r"positive|invalid literal"):
            parse_size(wrong)


def test_options_with_lists() -> None:
    options = parse_options(
        "bench", "", "network", ["a", "--size", "96,320x256", "--batch", "1,8", "--threads", "1,2"]
    )
    assert options.select == ("a",)
    assert options.sizes == ((96, 96), (320, 256))
    assert options.batches == (1, 8)
    assert options.threads == (1, 2)
    assert set(options.cpus) <= os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "none"], "--size"),
        (["--batch", "0"], "--batch"),
        (["--engine", "torch,tensorrt"], "got 'tensorrt'"),
        (["--cpu", "4096"], "cores must be among"),
        (["--rounds", "0"], "at least 1"),
        (["--isa", "sse2"], "--isa"),
    ],
)
def test_wrong_options_end_in_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_options("bench", "", "network", arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_native_tier_is_one_that_can_be_forced() -> None:
    assert native_isa() in ISA_ENVIRONMENT


def test_passive_waiting_is_only_set_when_asked_for() -> None:
    assert thread_environment(2, "default") == {"OMP_NUM_THREADS": "2"}
    assert thread_environment(2, "passive")["OMP_WAIT_POLICY"] == "PASSIVE"


def test_the_command_imports_no_engine_before_the_environment_is_set() -> None:
    program = (
        "import sys, bench.models, bench.blocks\n"
        "loaded = {'torch', 'openvino', 'onnxruntime'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
