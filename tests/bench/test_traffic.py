"""Fused blocks against layers: the right rows are subtracted, in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import traffic

COUNTED = {"D1mr": 5, "D1mw": 2, "DLmr": 3, "DLmw": 0}


def test_lines_become_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []

    def callgrind(
        binary: Path, arguments: Sequence[str], tool: Sequence[str]
    ) -> dict[str, dict[str, int]]:
        asked.extend((arguments, tool))
        return {"net/first": COUNTED}

    monkeypatch.setattr(traffic, "callgrind", callgrind)
    found = traffic.traffic(Path("bench_kernels"), "avx2", "net", 256, layers=True)
    assert found == {"first": (7 * 64, 3 * 64)}
    assert asked[0] == ["--isa", "avx2", "--filter", "net/", "--layers"]
    assert "--LL=262144,8,64" in asked[1]
