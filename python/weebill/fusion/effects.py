"""What a forward changes beside what it returns, and how that is put back.

A fused forward only computes: one that counts its calls, keeps a feature map or moves statistics
would cease to. And neither tracing nor trials may leave anything behind in a module.
"""

from __future__ import annotations

import collections
import contextlib
import operator
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weebill.fusion.spec import joined

_CONTAINERS = frozenset(
    {list, dict, set, collections.OrderedDict, collections.defaultdict, collections.deque}
)
_ATOMS = frozenset({bool, int, float, str})
#: Attributes that every module has.
TORCHS = frozenset(vars(nn.Module()))
#: Those that hold its tensors and modules by name.
TABLES = ("_parameters", "_buffers", "_modules")
_OWN = "_fusion"  # what this library keeps, which is nothing that a forward computes


def attributes_of(module: nn.Module, memo: dict[int, Any]) -> dict[str, Any]:
    """The module's attributes, with its own lists, dictionaries and sets anew, at any depth.

    Args:
        module: The module.
        memo: What is anew already, by the ids of the old.
    """
    held = dict(vars(module))
    for name in own_names(module):
        held[name] = _anew(held[name], memo)
    return held


def own_names(module: nn.Module) -> Iterable[str]:
    """The attributes that are not nn.Module's. None of torch's modules: these only compute."""
    return () if type(module).__module__.startswith("torch.nn.") else vars(module).keys() - TORCHS


def _anew(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) not in _CONTAINERS:
        return value
    if id(value) in memo:
        return memo[id(value)]
    made = memo[id(value)] = value.copy()
    if isinstance(made, dict):
        for name, entry in made.items():
            made[name] = _anew(entry, memo)
    elif not isinstance(made, set):  # of which no entry is a container
        for index, entry in enumerate(made):
            made[index] = _anew(entry, memo)
    return made


class Attributes:
    """A module's attributes as they are now, and what lies in the containers among them.

    Attributes:
        tensors: All tensors among them, with the names of the attributes.
    """

    def __init__(self, module: nn.Module) -> None:
        self._held = vars(module)
        self._before = dict(self._held)
        self._contents: list[tuple[str, Any, Any]] = []
        self.tensors: list[tuple[str, Tensor]] = []
        for table in TABLES:
            entries = self._before[table]
            if type(entries) not in _CONTAINERS:  # those of a shadow: asked for, they become steps
                continue
            self._contents.append((table, entries, entries.copy()))
            if table != "_modules":
                self.tensors += [entry for entry in entries.items() if entry[1] is not None]
        for name in own_names(module):
            self._add(name, self._before[name])

    def _add(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self.tensors.append((name, value))
        elif type(value) in _CONTAINERS:
            if any(value is known for _, known, _ in self._contents):
                return
            self._contents.append((name, value, value.copy()))
            for entry in value.values() if isinstance(value, dict) else value:
                self._add(name, entry)

    def changed(self) -> str:
        """The name of an attribute that is another one now, or holds something else; or empty."""
        before, held = self._before, self._held
        if not _identical(held, before):
            names = (held.keys() ^ before.keys()) - {_OWN}
            if names:
                return min(names)
            for name, value in before.items():
                now = held.get(name)
                if now is not value and name != _OWN and not same(now, value):
                    return name
        for name, container, kept in self._contents:
            if (container or kept) and not _same_contents(container, kept):
                return name
        return ""

    def restore(self) -> None:
        """Puts everything back; the contents of tensors are not looked at."""
        for name in self._held.keys() - self._before.keys() - {_OWN}:
            del self._held[name]
        for name, value in self._before.items():
            if self._held.get(name) is not value and name != _OWN:
                self._held[name] = value
        for _, container, kept in self._contents:
            if _same_contents(container, kept):
                continue
            container.clear()
            container.extend(kept) if hasattr(container, "extend") else container.update(kept)


class State:
    """All that a module and those inside it hold, as it is now."""

    def __init__(self, owner: nn.Module) -> None:
        self._attributes = [(path, Attributes(module)) for path, module in owner.named_modules()]
        self._tensors: dict[int, tuple[str, Tensor, int, Tensor | None]] = {}
        for path, attributes in self._attributes:
            for name, tensor in attributes.tensors:
                if id(tensor) not in self._tensors:
                    kept = tensor.detach().clone() if _is_kept(tensor) else None
                    self._tensors[id(tensor)] = joined(path, name), tensor, _version(tensor), kept

    def changed(self) -> str:
        """The name of something that has changed since then; empty if nothing has."""
        for path, attributes in self._attributes:
            if name := attributes.changed():
                return joined(path, name)
        for name, tensor, version, kept in self._tensors.values():
            # batch_norm moves statistics without counting it
            if _version(tensor) != version or (kept is not None and not _equal(tensor, kept)):
                return name
        return ""

    def restore(self) -> None:
        """Puts everything back but the values of parameters, which nobody's forward changes."""
        for _, attributes in self._attributes:
            attributes.restore()
        with torch.no_grad():
            for _, tensor, version, kept in self._tensors.values():
                if kept is None or (_version(tensor) == version and _equal(tensor, kept)):
                    continue
                if tensor.grad_fn is not None:
                    tensor.detach_()
                tensor.copy_(kept)


@contextlib.contextmanager
def undone(owner: nn.Module) -> Iterator[State]:
    """What is changed inside is put back if it fails: in the modules; and random numbers always."""
    state = State(owner)
    try:
        with random_numbers_kept():
            yield state
    except BaseException:
        state.restore()
        raise


@contextlib.contextmanager
def random_numbers_kept() -> Iterator[None]:
    """What is drawn inside will be drawn again behind."""
    torchs, pythons, numpys = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(torchs)
        random.setstate(pythons)
        np.random.set_state(numpys)


def same(a: Any, b: Any) -> bool:
    """Whether the two are one object, or equal numbers or strings."""
    return a is b or (type(a) is type(b) and type(a) in _ATOMS and a == b)


def _identical(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    """Whether the two hold the same objects under the same names: most do, and this is quick."""
    return a.keys() == b.keys() and all(map(operator.is_, a.values(), b.values()))


def _same_contents(a: Any, b: Any) -> bool:
    if len(a) != len(b):
        return False
    if isinstance(a, dict):
        if _identical(a, b):
            return True
        return all(name in b and same(value, b[name]) for name, value in a.items())
    if isinstance(a, set):
        return bool(a == b)
    return all(map(same, a, b))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else int(tensor._version)


def _is_kept(tensor: Tensor) -> bool:
    return (
        not isinstance(tensor, nn.Parameter)
        and not nn.parameter.is_lazy(tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
    )


def _equal(a: Tensor, b: Tensor) -> bool:
    if torch.equal(a, b):
        return True
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
