"""Cold starts, each in a process of its own."""

from __future__ import annotations

from pathlib import Path

from tests.bench.small import small_case
from weebill.bench.cold import measure_cold
from weebill.bench.engines import make_engine
from weebill.bench.options import Options


def test_cold_start_of_an_engine_and_of_one_that_nobody_asked_for(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    chosen = Options("models", backends=("weebill_native", "inductor"), cache=tmp_path)
    native, inductor = measure_cold([case], chosen, lambda _what, _share: None)
    assert native["reason"] == ""
    assert min(native["import_ms"], native["load_ms"], native["first_ms"]) > 0.0
    assert native["peak_mib"] > native["model_mib"] > 0.0
    assert inductor["reason"] == make_engine("inductor").slow
    assert inductor["first_ms"] == 0.0
