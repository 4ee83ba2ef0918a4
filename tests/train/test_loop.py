"""Training: it learns, it survives being killed, and several processes agree with one."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import weebill
from tests.train.data import Halves, small_network
from tests.train.processes import train
from weebill.models import Weights
from weebill.models._metadata import read_description, replace_file
from weebill.train import Callback, Epoch, Recipe, TensorBoard, evaluate, fit

ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A process of its own that can import the tests; no child of it outlives a timeout."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def measures(history: list[Epoch]) -> list[Epoch]:
    return [dataclasses.replace(epoch, seconds=0) for epoch in history]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Epoch]]:
    """A training that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train(folder, "norm")


def test_it_learns_and_writes_what_it_measured(whole: tuple[Path, list[Epoch]]) -> None:
    folder, history = whole
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4]
    assert history[-1].accuracy > 0.9
    assert history[-1].lr < history[0].lr
    file = folder / "model.safetensors"
    model = small_network(seed=9)
    model.load_state_dict(weights(folder))
    found = evaluate(model, Halves(41, seed=1))
    assert (found.accuracy, found.images) == (history[-1].accuracy, 41)
    assert found.loss == pytest.approx(history[-1].loss, rel=1e-5)
    description = read_description(file)
    assert description is not None
    _, preset, meta = description
    assert preset == Halves(2).preset
    assert meta["categories"] == ["above", "below"]
    assert meta["acc@1"] == pytest.approx(100 * history[-1].accuracy, abs=1e-3)
    assert meta["recipe"]["seed"] == 5
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "model.safetensors"]


@pytest.mark.parametrize("step", [10, 18])
def test_killed_and_resumed_ends_with_the_same_weights(
    tmp_path: Path, whole: tuple[Path, list[Epoch]], step: int
) -> None:
    """Within an epoch, and at its last step, before its checkpoint is written."""
    folder, history = whole
    killed = start(ROOT / "tests/train/processes.py", tmp_path / "run", "norm", "--kill-at", step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (tmp_path / "run" / ".checkpoint.pt.half.part").write_bytes(b"of a run killed while it wrote")
    resumed = train(tmp_path / "run", "norm", resume=True)
    assert measures(resumed) == measures(history)
    expected, found = weights(folder), weights(tmp_path / "run")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert list((tmp_path / "run").glob(".*")) == []


def test_killed_while_it_writes_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys\n"
        "from weebill.models._metadata import replace_file\n"
        "def write(file):\n"
        "    file.write(b'new' * 100_000); file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "replace_file(sys.argv[1], write)\n"
    )
    assert start("-c", code, path).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"

    def fail(file: object) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        replace_file(path, fail)
    assert path.read_bytes() == b"old"
    replace_file(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"


def test_resuming_a_finished_training_changes_nothing(whole: tuple[Path, list[Epoch]]) -> None:
    folder, history = whole
    before = (folder / "checkpoint.pt").read_bytes()
    assert train(folder, "norm", resume=True) == history
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    one = train(tmp_path / "one", "plain")
    script = ROOT / "tests/train/processes.py"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    two = start(*torchrun, script, tmp_path / "two", "plain")
    assert two.returncode == 0, two.stderr
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
    # Nothing is left to do: this reads what the two measured, together.
    with pytest.raises(ValueError, match="processes must be 2 to resume"):
        train(tmp_path / "two", "plain", resume=True)
    checkpoint = torch.load(tmp_path / "two" / "checkpoint.pt", weights_only=True)
    for mine, theirs in zip(one, checkpoint["history"], strict=True):
        for name in ("accuracy", "train_loss", "loss", "lr"):
            assert theirs[name] == pytest.approx(getattr(mine, name), rel=1e-4)


def test_resume_with_what_does_not_fit(tmp_path: Path, whole: tuple[Path, list[Epoch]]) -> None:
    folder, _ = whole
    with pytest.raises(FileNotFoundError, match="resume needs a checkpoint"):
        train(tmp_path / "none", "norm", resume=True)
    with pytest.raises(ValueError, match="output must have no checkpoint"):
        train(folder, "norm")
    with pytest.raises(ValueError, match="epochs must be 4 to resume .*, got 6"):
        train(folder, "norm", resume=True, epochs=6)
    damaged = tmp_path / "checkpoint.pt"
    damaged.write_bytes((folder / "checkpoint.pt").read_bytes()[:-50])
    with pytest.raises(ValueError, match="checkpoint must be one of weebill's"):
        train(tmp_path, "norm", resume=True)


def run(tmp_path: Path, recipe: Recipe, *callbacks: Callback) -> list[Epoch]:
    data, test = Halves(32), Halves(16, seed=1)
    return fit(small_network(), data, test, recipe, output=tmp_path / "out", callbacks=callbacks)


def test_mixed_precision_trains_in_bfloat16(tmp_path: Path) -> None:
    seen = set()
    model = small_network()
    model[3].register_forward_hook(lambda module, x, y: seen.add((y.dtype, module.training)))
    recipe = Recipe(
        epochs=3, batch_size=16, flip=0, lr=0.01, precision="bfloat16", clip_grad_norm=1.0
    )
    history = fit(model, Halves(96), Halves(16, seed=1), recipe, output=tmp_path)
    # What is measured is the network that will run, in float32.
    assert seen == {(torch.bfloat16, True), (torch.float32, False)}
    assert history[-1].accuracy > 0.9
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path).values())


def test_a_loss_that_explodes_is_told(tmp_path: Path) -> None:
    recipe = Recipe(
        epochs=4, batch_size=8, flip=0, lr=1e30, optimizer="sgd", ema_decay=0, warmup_epochs=0
    )
    with pytest.raises(ValueError, match="loss must be finite, got .*lower lr"):
        run(tmp_path, recipe)


def test_data_that_does_not_fit(tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, batch_size=64, flip=0)
    with pytest.raises(ValueError, match="batch_size must not exceed the 32 training images"):
        run(tmp_path, recipe)
    other = Halves(16)
    other.classes = ("left", "right")
    with pytest.raises(ValueError, match="test must have the classes"):
        fit(small_network(), Halves(96), other, recipe, output=tmp_path)


def test_callbacks_hear_everything_and_the_end_of_a_failure(tmp_path: Path) -> None:
    heard: list[object] = []

    class Listener(Callback):
        def on_start(self, recipe: Recipe, *, steps: int, epochs_done: int) -> None:
            heard.append(("start", steps, epochs_done))

        def on_step(self, step: int, loss: float, lr: float) -> None:
            heard.append(step)
            if step == 3:
                raise KeyboardInterrupt

        def on_epoch(self, epoch: Epoch) -> None:
            heard.append(f"epoch {epoch.epoch}")

        def on_end(self) -> None:
            heard.append("end")

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Recipe(epochs=2, batch_size=16, flip=0), Listener())
    assert heard == [("start", 2, 0), 1, 2, "epoch 1", 3, "end"]


def test_tensorboard_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TensorBoard(tmp_path / "log", interval=1)
    history = run(tmp_path, Recipe(epochs=2, batch_size=16, flip=0), log)
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    accuracies = [event.value for event in events.Scalars("test/accuracy")]
    assert accuracies == pytest.approx([epoch.accuracy for epoch in history])


def test_evaluation_is_of_the_converted_network(tmp_path: Path) -> None:
    model = small_network().train()
    data = Halves(41)
    fused = evaluate(model, data, batch_size=7)
    eager = evaluate(model, data, fused=False)
    assert fused.loss == pytest.approx(eager.loss, rel=1e-5)
    assert fused.images == 41
    assert model.training
    # By hand, from the fused network.
    network = weebill.convert(model.eval())
    with torch.inference_mode():
        logits = network((data.images / 255 - 0.5) / 0.25)
    assert fused.accuracy == (logits.argmax(1) == data.labels).sum().item() / 41
    assert fused.loss == pytest.approx(
        nn.functional.cross_entropy(logits, data.labels).item(), rel=1e-5
    )


def test_weights_of_a_training_carry_their_preset(whole: tuple[Path, list[Epoch]]) -> None:
    loaded = Weights.from_file(whole[0] / "model.safetensors").get_state_dict()
    assert loaded.keys() == small_network().state_dict().keys()
