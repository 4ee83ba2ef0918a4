"""The instruction set in use, and what `info` and `show` tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from weebill import config


def python(code: str, isa: str | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, with WEEBILL_ISA as given."""
    environment = {k: v for k, v in os.environ.items() if k != "WEEBILL_ISA"}
    if isa is not None:
        environment["WEEBILL_ISA"] = isa
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_isas_end_with_scalar() -> None:
    isas = config.isas()
    assert isas[-1] == "scalar"
    assert len(set(isas)) == len(isas)
    assert set(isas) <= set(config.info()["built_isas"])


def test_isas_are_what_the_machine_has() -> None:
    cpu = config.info()["cpu"]
    for name in ("avx2", "avx512", "neon"):
        assert (name in config.isas()) <= bool(cpu[name])


def test_set_isa(isa: str) -> None:
    assert config.isa() == isa
    before = config.isa()
    with config.use_isa("scalar"):
        assert config.isa() == "scalar"
    assert config.isa() == before


def test_use_isa_restores_after_an_exception() -> None:
    before = config.isa()
    with pytest.raises(RuntimeError), config.use_isa("scalar"):
        raise RuntimeError
    assert config.isa() == before


@pytest.mark.parametrize("name", ["sse9", "", "AVX2", "scalar "])
def test_unknown_isa(name: str) -> None:
    before = config.isa()
    with pytest.raises(ValueError, match=f"^set_isa: .* must be one of .*, got '{name}'"):
        config.set_isa(name)
    assert config.isa() == before


def test_close_match() -> None:
    with pytest.raises(ValueError, match="got 'scaler'; did you mean 'scalar'\\?"):
        config.set_isa("scaler")


def test_isa_of_another_machine() -> None:
    absent = next(name for name in ("neon", "avx2") if name not in config.isas())
    with pytest.raises(ValueError, match="^set_isa: "):
        config.set_isa(absent)


def test_set_isa_takes_a_string() -> None:
    with pytest.raises(TypeError, match="^set_isa: name must be a string, got int"):
        config.set_isa(2)  # type: ignore[arg-type]


def test_environment_chooses(isa: str) -> None:
    result = python("import weebill.config; print(weebill.config.isa())", isa)
    assert result.stdout.strip() == isa, result.stderr


def test_best_isa_without_environment() -> None:
    result = python("import weebill.config; print(weebill.config.isa())")
    assert result.stdout.strip() == config.isas()[0], result.stderr


def test_bad_environment_is_an_error_where_it_matters() -> None:
    code = """
import numpy, weebill.config
for call in (
    weebill.config.isa,
    lambda: weebill._C.run(
        numpy.zeros((1, 2, 3, 3), "f4"), weebill._C.pack_global_avg_pool2d(2)
    ),
):
    try:
        call()
    except ValueError as error:
        print(error)
weebill.config.set_isa("scalar")
print(weebill.config.isa())
"""
    lines = python(code, "mmx").stdout.splitlines()
    assert len(lines) == 3, lines
    assert "WEEBILL_ISA must be one of" in lines[0]
    assert "got 'mmx'" in lines[0]
    assert lines[1] == lines[0]
    assert lines[2] == "scalar"


def test_info_is_plain_data() -> None:
    facts = config.info()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["isa"] in facts["isas"]
    assert facts["threads"] >= 1
    assert facts["cpu"]["l1d_bytes"] > 0
    assert facts["versions"]["weebill"] == "0.1.0"
    assert facts["versions"]["numpy"]
    assert "pointwise_f32" in [kernel["name"] for kernel in facts["kernels"]]


def test_show_tells_the_essentials() -> None:
    text = config.show()
    for part in ("weebill 0.1.0", f"isa: {config.isa()}", "threads:", "caches: L1d", "processor:"):
        assert part in text
