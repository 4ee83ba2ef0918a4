"""Models by name: registering, listing and creating them."""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from weebill.models._base import Classifier, FeatureExtractor
from weebill.models._weights import Weights, WeightsEnum, resolve_weights

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class ModelEntry:
    """A registered model.

    Attributes:
        name: What `create_model` calls it.
        builder: The function that builds it.
        weights: Its published weights.
        variants: Arguments of common variants, tried when weights do not fit.
        summary: The first line of the builder's docstring.
    """

    name: str
    builder: Callable[..., nn.Module]
    weights: type[WeightsEnum] | None
    variants: tuple[Mapping[str, Any], ...]
    summary: str


_models: dict[str, ModelEntry] = {}


def register_model(
    name: str | None = None,
    *,
    weights: type[WeightsEnum] | None = None,
    variants: Sequence[Mapping[str, Any]] = (),
) -> Callable[[Builder], Builder]:
    """Decorator that makes a builder known to `create_model` and `list_models`.

    Args:
        name: Default: the function's name.
        weights: The model's published weights.
        variants: Arguments of common variants; the error for weights that do not fit tries them.

    Raises:
        ValueError: the name is taken by another function.

    Example:
        >>> @register_model()
        ... def tiny_net(*, num_classes: int = 10) -> nn.Module:
        ...     return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
        >>> create_model("tiny_net")
    """

    def register(builder: Builder) -> Builder:
        function: Any = builder
        key = name or function.__name__
        origin = (function.__module__, function.__qualname__)
        if key in _models:
            other: Any = _models[key].builder
            if (other.__module__, other.__qualname__) != origin:
                raise ValueError(
                    f"register_model: name must be new, got {key!r}, which is "
                    f"{other.__module__}.{other.__qualname__}"
                )
        summary = (function.__doc__ or "").strip().partition("\n")[0]
        _models[key] = ModelEntry(key, builder, weights, tuple(variants), summary)
        return builder

    return register


def list_models(pattern: str | None = None) -> list[str]:
    """The registered names in alphabetical order.

    Args:
        pattern: Shell-style, such as "mobilenet*"; default: all.
    """
    names = sorted(_models)
    return fnmatch.filter(names, pattern) if pattern is not None else names


def model_entry(name: str) -> ModelEntry:
    """What is registered under a name.

    Raises:
        ValueError: nothing is; the message names the closest.
    """
    if name not in _models:
        close = difflib.get_close_matches(name, _models, 1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(list_models())}"
        raise ValueError(f"create_model: name must be a registered model, got {name!r}; {hint}")
    return _models[name]


def model_entries() -> list[ModelEntry]:
    """All registered models in the order of their registration."""
    return list(_models.values())


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **arguments: Any,
) -> nn.Module:
    """Builds a registered model.

    Args:
        name: See `list_models`.
        pretrained: Short for `weights="DEFAULT"`.
        features_only: Return a `FeatureExtractor` of the model instead.
        out_indices: Which resolutions that returns.
        arguments: Of the model's function: `weights`, `num_classes`, `in_channels` ...

    Raises:
        ValueError: no model has that name, or an argument's value does not fit.
        TypeError: the model has no such argument.
        NotImplementedError: `features_only` of a model that is no `Classifier`.
        OSError: weights cannot be found or fetched.
    """
    entry = model_entry(name)
    if pretrained and arguments.get("weights") is None:
        arguments["weights"] = "DEFAULT"
    if out_indices is not None and not features_only:
        raise ValueError("create_model: out_indices must be given with features_only=True")
    try:
        model = entry.builder(**arguments)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise TypeError(f"create_model: {error}") from None
    if not features_only:
        return model
    if not isinstance(model, Classifier):
        raise NotImplementedError(
            f"create_model: features_only must be False for {name}, which is no Classifier"
        )
    return FeatureExtractor(model, out_indices)


def get_model_weights(name: str) -> tuple[WeightsEnum, ...]:
    """The published weights of a model, without aliases such as DEFAULT.

    Raises:
        ValueError: no model has that name.
    """
    return tuple(model_entry(name).weights or ())


def get_weights(name: str, choice: WeightsEnum | Weights | str | os.PathLike[str]) -> Weights:
    """What `create_model(name, weights=choice)` would load.

    Raises:
        ValueError, TypeError, FileNotFoundError: see `weebill.models.Weights`.
    """
    return resolve_weights(model_entry(name).weights, choice)
