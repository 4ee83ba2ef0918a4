"""What the native engine runs: one record for a block, or one for each operator in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.small import SMALL, small_case
from weebill import _C
from weebill.bench.case import make_case
from weebill.bench.engines import make_engine
from weebill.bench.records import block_spec, describe, pack_blocks, unfused_specs
from weebill.bench.reference import relative_error
from weebill.bench.suites import unrolled
from weebill.fusion.spec import BlockSpec
from weebill.runtime import load
from weebill.runtime.nodes import Add, Run

WITHOUT_UNITS = [block for block in unrolled(SMALL) if block.kind != "shuffle_unit"]


def spec_of(name: str) -> BlockSpec:
    (block,) = (block for block in SMALL if block.name == name)
    return block_spec(block, name)


def test_every_kind_of_block_is_a_record(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    kinds = [block_spec(block, "b").kind for block in case.blocks]
    assert len(set(kinds)) == 6
    records = pack_blocks(case.blocks, case.weights())
    assert _C.output_shape(case.shape, records) == (1, 7, 1, 1)
    description = describe(case.blocks, case.shape)
    description.check()
    assert [len(blocks) for blocks in description.programs] == [len(case.blocks)]
    assert description.nodes == (Run((0,), 0, flatten=True),)


def test_operators_of_a_block_in_their_order() -> None:
    parts = unfused_specs(spec_of("second"))
    assert [part.kind for part in parts] == ["conv2d", "conv2d", "squeeze_excite", "conv2d"]
    assert [layer.path for part in parts for layer in part.layers()] == [
        f"second.{role}" for role in ("expand", "depthwise", "squeeze", "excite", "project")
    ]
    assert [part.kind for part in unfused_specs(spec_of("first"))] == ["conv2d"] * 2
    assert unfused_specs(spec_of("stem")) == (spec_of("stem"),)
    with pytest.raises(NotImplementedError, match="shuffle unit"):
        unfused_specs(spec_of("split"))


def test_unfused_is_the_same_network(tmp_path: Path) -> None:
    case = make_case("no units", WITHOUT_UNITS, tmp_path, batch=2)
    engine = make_engine("weebill_unfused")
    session = engine.load(case.exported(engine), case.input(), 1)
    session.run()
    assert relative_error(session.output(), case.reference()) < 1e-5
    description = describe(case.blocks, case.shape, fused=False)
    assert sum(isinstance(node, Add) for node in description.nodes) == 3
    assert sum(len(program) for program in description.programs) > len(case.blocks) + 4
    model = load(case.exported(engine) / "model.weebill")
    assert model.output_shapes() == (2, 7)


def test_a_shuffle_unit_is_not_taken_apart(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    assert "shuffle unit" in str(make_engine("weebill_unfused").refuses(case, 1))
    assert make_engine("weebill_native").refuses(case, 1) is None
