"""An emulated board with torch: `python -m tests.emulated.with_torch FOLDER [--quick]`. The ops
register themselves and compute what torch does; converted networks with the weights of the package,
saved in FOLDER by make_models.py, give the bits of the PC's runtime, in Python and by the command
line. --quick: the command line in this process, because another one would import torch again."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import weebill
from tests.emulated.board import check_doctor, check_runtime, compare_classes, weebill_command
from tests.emulated.make_models import TRAINED
from tests.ops.cases import PLAIN_OPS, arguments, in_double, op, reference
from weebill import config


def check_registration() -> str:
    """By one library for torch's stable ABI where torch has one; through Python before that."""
    by_library = any("_torch_ops" in path for path in torch.ops.loaded_libraries)
    assert by_library == (torch.__version__ >= "2.10"), torch.ops.loaded_libraries
    return "stable ABI" if by_library else "registered through Python"


def check_ops() -> None:
    """Every op on every instruction set, and its gradients."""
    torch.manual_seed(0)
    for isa in config.isas():
        with config.use_isa(isa):
            for name in PLAIN_OPS:
                check_op(name)


def check_op(name: str) -> None:
    values = arguments(name, requires_grad=True)
    exact_values = in_double(values)
    got, exact = op(name)(*values), reference(name)(*exact_values)
    compare(got, exact, name)
    got.square().sum().backward()
    exact.square().sum().backward()
    for i, (value, exact_value) in enumerate(zip(values, exact_values, strict=True)):
        if isinstance(value, torch.Tensor):
            compare(value.grad, exact_value.grad, f"{name}: gradient by argument {i}")


def compare(got: Any, exact: Any, what: str) -> None:
    np.testing.assert_allclose(
        got.detach().numpy(), exact.detach().numpy(), rtol=1e-4, atol=1e-5, err_msg=what
    )


def check_network(folder: Path, name: str, weights: str) -> None:
    data = np.load(folder / f"{name}.npz")
    x = torch.from_numpy(data["x"])
    fused = weebill.convert(weebill.models.create_model(name, weights=weights).eval())
    with torch.inference_mode():
        for layout in (torch.contiguous_format, torch.channels_last):
            got = fused(x.contiguous(memory_format=layout))
            np.testing.assert_array_equal(got.numpy(), data["y"], name, strict=True)


def command_here(*arguments: str) -> Any:
    """What the command prints with --json, run in this process."""
    from weebill.cli._app import run

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run([*arguments, "--json"])
    assert code == 0, f"{' '.join(arguments)}: {code}"
    return json.loads(printed.getvalue())


def check_classify(folder: Path, name: str, weights: str, *, quick: bool) -> None:
    photo = str(folder / "photo.png")
    options = ("--model", name, "--weights", weights, "--threads", "1")
    found = (command_here if quick else weebill_command)("classify", photo, *options)
    compare_classes(found["results"], json.loads((folder / f"{name}.json").read_text()))


def main(folder: Path, *, quick: bool) -> None:
    assert config.isa().startswith("neon")
    torch.set_num_threads(1)
    way = check_registration()
    check_ops()
    check_runtime(folder)
    for name, weights in TRAINED.items():
        check_network(folder, name, weights)
        check_classify(folder, name, weights, quick=quick)
    if not quick:
        check_doctor()
    print(
        f"torch {torch.__version__}, {way}: {len(PLAIN_OPS)} ops on {', '.join(config.isas())}, "
        f"{len(TRAINED)} networks"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), quick="--quick" in sys.argv)
