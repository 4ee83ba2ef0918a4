"""Shared by all Python tests: the seed, and the instruction sets of this machine.

Every test starts from a seed made of the run's seed and the test's name. The run's seed is random
and printed at the top; WEEBILL_SEED=... replays it.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator

import pytest

from weebill import config


def pytest_configure() -> None:
    # In the environment, so that the workers of a parallel run have the same.
    os.environ.setdefault("WEEBILL_SEED", str(random.SystemRandom().randrange(2**32)))


def pytest_report_header() -> str:
    return f"weebill: WEEBILL_SEED={os.environ['WEEBILL_SEED']}, isas: {' '.join(config.isas())}"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """The tensors of these tests are small, and threads that wait for each other on a busy machine
    cost more than they do. Tests about threads ask for them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    config.set_threads(1)
    yield
    torch.set_num_threads(before)
    config.set_threads(None)


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """The test's own seed; torch starts from it too."""
    import torch

    name = f"{os.environ['WEEBILL_SEED']}:{request.node.nodeid}"
    value = zlib.crc32(name.encode())
    torch.manual_seed(value)
    return value


def _apart() -> list[str]:
    """The instruction sets, but of those that share most kernels ("avx512", "avx512_256") the best
    one: the C++ tests run every kernel of all."""
    best: dict[str, str] = {}
    for name in config.isas():
        best.setdefault(name.split("_")[0], name)
    return list(best.values())


@pytest.fixture(params=_apart())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once on every instruction set of this machine."""
    with config.use_isa(request.param):
        yield request.param
