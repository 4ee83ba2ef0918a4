"""Reading weight files without running code, and checking them before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from weebill.models._base import StateDict

# Under which key training scripts keep the weights inside a checkpoint.
_WRAPPERS = ("state_dict", "model")


def read_state_dict(path: Path) -> StateDict:
    """Reads a safetensors file or a torch file (`weights_only=True`) of weights.

    The kind is told by the content, not by the name. A checkpoint that keeps the weights under
    "state_dict" or "model" is unwrapped, and the prefix "module." of DistributedDataParallel is
    dropped.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: there is no readable file.
        ValueError: the file is truncated, is no weight file, or needs code to be run.
        ModuleNotFoundError: it is a safetensors file and safetensors is not installed.
    """
    if path.is_dir():
        raise IsADirectoryError(f"read_state_dict: path must be a file, got the folder '{path}'")
    if not path.exists():
        raise FileNotFoundError(f"read_state_dict: path must be an existing file, got '{path}'")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except PermissionError:
        raise PermissionError(
            f"read_state_dict: path must be a readable file, got '{path}'"
        ) from None
    # safetensors: the length of the header in 8 bytes, little end first, then JSON. Its first byte
    # may look like a pickle's.
    if start[5:9] == b"\x00\x00\x00{":
        content = _read_safetensors(path)
    elif start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        content = _read_torch(path)
    else:
        raise ValueError(
            "read_state_dict: path must be a safetensors file or a torch state dict, "
            f"got '{path}' ({'an empty file' if not start else 'of another kind'})"
        )
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    ):
        raise ValueError(
            f"read_state_dict: path must hold tensors by name, got '{path}' with something else"
        )
    return {key.removeprefix("module."): value for key, value in content.items()}


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # Damage shows as RuntimeError, EOFError, UnpicklingError, KeyError, OSError ...
    except Exception:
        raise ValueError(
            "read_state_dict: path must be an intact torch file that loads with "
            f"weights_only=True, got '{path}'; it is truncated or holds more than weights"
        ) from None


def _read_safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"read_state_dict: '{path}' is a safetensors file; pip install safetensors"
        ) from None
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"read_state_dict: path must be an intact safetensors file, got '{path}' "
            f"({' '.join(str(error).split())})"
        ) from None


def differences(model: nn.Module, state_dict: Mapping[str, Tensor]) -> list[str]:
    """How the weights differ from what the model needs, one phrase a key; empty if they fit.

    `num_batches_tracked` may be absent, as in files of other frameworks.
    """
    own = model.state_dict()
    found = []
    for key, value in own.items():
        if key not in state_dict:
            if not key.endswith("num_batches_tracked"):
                found.append(f"{key} is missing")
        elif state_dict[key].shape != value.shape:
            found.append(f"{key} is {tuple(state_dict[key].shape)} instead of {tuple(value.shape)}")
    found.extend(f"{key} is unknown" for key in state_dict if key not in own)
    return found
