"""Fused modules in programs of torch.export: saved, loaded, compiled ahead of time, decomposed."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import weebill
from tests.fusion.networks import Net
from weebill.nn import InvertedResidual, unfused

SIZES = ({0: Dim("n"), 2: Dim("h", min=8, max=512), 3: Dim("w", min=8, max=512)},)
SHAPES = ((2, 3, 21, 17), (1, 3, 8, 40), (5, 3, 32, 32))


def export(model: nn.Module, *, strict: bool = False) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            model, (torch.randn(2, 3, 21, 17),), dynamic_shapes=SIZES, strict=strict
        )


def ops(program: ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def fused_calls(program: ExportedProgram) -> int:
    return ops(program).count("weebill.run.default")


def assert_same(program: Any, model: nn.Module) -> None:
    with torch.no_grad():
        for shape in SHAPES:
            x = torch.randn(shape)
            torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strict", [False, True])
def test_one_call_with_dynamic_shapes(strict: bool) -> None:
    model = weebill.convert(Net())
    program = export(model, strict=strict)
    assert fused_calls(program) == 1
    assert not [name for name in ops(program) if "conv" in name]
    assert_same(program, model)


def test_saved_and_loaded() -> None:
    model = weebill.convert(Net())
    file = io.BytesIO()
    torch.export.save(export(model), file)
    file.seek(0)
    program = torch.export.load(file)
    assert fused_calls(program) == 1
    assert_same(program, model)


def test_without_conversion_or_a_call_before() -> None:
    model = Net().eval()  # the block is fused by itself
    program = export(model)
    assert fused_calls(program) == 1
    assert_same(program, model)


def test_gradients_switched_on() -> None:
    model = weebill.convert(Net())
    program = torch.export.export(model, (torch.randn(2, 3, 16, 16),))
    assert fused_calls(program) == 1


@pytest.mark.parametrize("strict", [False, True])
def test_the_weights_are_those_of_the_moment(strict: bool) -> None:
    model = weebill.convert(Net())
    with torch.no_grad():
        model(torch.randn(1, 3, 16, 16))
        model.stem.weight.mul_(2)
        first = export(model, strict=strict)
        model.stem.bias = nn.Parameter(torch.ones(8))
        second = export(model, strict=strict)
        assert_same(second, model)
        expected = weebill.convert(model)
        model.head.weight.mul_(-1)  # a program is a snapshot
        assert_same(second, expected)
        x = torch.randn(1, 3, 16, 16)
        assert not torch.allclose(first.module()(x), second.module()(x))
        assert torch.equal(model(x), weebill.convert(model)(x))  # fused as before


def test_a_module_with_several_names() -> None:
    block = InvertedResidual(3, 8, 3)
    model = nn.ModuleDict({"a": block, "b": block})

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = model

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.blocks["b"](self.blocks["a"](x)).sigmoid()
            return y

    twice = Twice().eval()
    program = export(twice)
    assert fused_calls(program) == 2
    assert_same(program, twice)


def test_training_and_unfused_export_the_plain_forward() -> None:
    model = weebill.convert(Net())
    with unfused():
        program = export(model)
    assert fused_calls(program) == 0
    assert_same(program, model)
    assert not [name for name in ops(export(model.train())) if "weebill" in name]
