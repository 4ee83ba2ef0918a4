"""`pytest tests/wheel --wheel FILE`: what a wheel must be, for each FILE given."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--wheel", type=Path, action="append", default=[], metavar="FILE", help="a wheel to check"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "wheel" in metafunc.fixturenames:
        # not registered when tests/ as a whole was asked for: then the checks are skipped
        wheels = metafunc.config.getoption("--wheel", default=[])
        metafunc.parametrize("wheel", wheels, ids=lambda path: path.name, scope="session")
