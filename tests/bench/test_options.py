"""The command line's values: what they mean, and what is refused."""

from __future__ import annotations

import os
from typing import Any

import pytest

from weebill import config
from weebill.bench.options import ISA_ENVIRONMENT, parse_cpus, parse_size, worker_environment
from weebill.bench.session import list_choices, make_options


def given(**changes: Any) -> dict[str, Any]:
    """What the command line passes on by default."""
    defaults = {
        "select": None,
        "size": "224",
        "batch": "1",
        "threads": "1",
        "backend": None,
        "isa": None,
        "cpu": None,
        "min_time": 0.3,
        "budget": 0.0,
        "turn_ms": 10.0,
        "wait_policy": "default",
        "tolerance": 1e-4,
        "cache": None,
        "cold": False,
        "single_stream": False,
        "stages": False,
        "format_": "table",
    }
    return defaults | changes


def test_sizes_and_cores() -> None:
    assert parse_size("224") == (224, 224)
    assert parse_size("320x256") == (320, 256)
    core = max(os.sched_getaffinity(0))
    assert parse_cpus(f"{core},{core}") == (core,)
    for wrong in ("0", "12x0", "axb", ""):
        with pytest.raises(ValueError, match="--size must be positive integers"):
            parse_size(wrong)


def test_options_with_lists() -> None:
    options = make_options("models", given(size="96,320x256", batch="1,8", min_time=1.0))
    assert options.sizes == ((96, 96), (320, 256))
    assert options.batches == (1, 8)
    assert options.rounds == 100
    assert set(options.cpus) <= os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "none"}, "--size"),
        ({"batch": "0"}, "--batch must be positive integers, such as 1,2, got '0'"),
        ({"threads": "9999"}, "--threads must be at most the number of cores"),
        ({"backend": "caffe"}, "--backend must be one of weebill, .*, got 'caffe'"),
        ({"isa": "mmx"}, "--isa must be one of .*, got 'mmx'"),
        ({"cpu": "4096"}, "--cpu must be among the cores"),
        ({"cpu": "a"}, "--cpu must be cores"),
        ({"wait_policy": "eager"}, "--wait-policy must be one of default, passive"),
        ({"format_": "xml"}, "--format must be one of table, csv, markdown"),
        ({"select": ["vgg16"]}, "network must be one of .*, got 'vgg16'"),
        ({"cold": True, "single_stream": True}, "give one of them"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_options("models", given(**changes))


def test_environment_of_a_worker() -> None:
    assert worker_environment(None, 2, "default") == {"OMP_NUM_THREADS": "2"}
    limited = worker_environment("scalar", 1, "passive")
    assert limited["WEEBILL_ISA"] == "scalar"
    assert limited["OMP_WAIT_POLICY"] == "PASSIVE"
    assert set(ISA_ENVIRONMENT) >= set(config.isas())


@pytest.mark.parametrize("kind", ["models", "blocks", "ops"])
def test_the_list_names_cases_and_engines(kind: str) -> None:
    columns, rows = list_choices(make_options(kind, given()))
    assert all(len(row) == len(columns) for row in rows)
    kinds = {row[0] for row in rows}
    assert "back end" in kinds
    assert {"models": "network", "blocks": "block", "ops": "op"}[kind] in kinds
