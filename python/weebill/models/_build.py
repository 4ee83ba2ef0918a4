"""Building a model with weights: everything is checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from weebill.models._base import StateDict
from weebill.models._registry import model_entries
from weebill.models._state_dict import differences
from weebill.models._weights import Weights, WeightsEnum, WeightsLike, resolve_weights

Model = TypeVar("Model", bound=nn.Module)

_SHOWN = 3


def build(
    make: Callable[[int], Model],
    members: type[WeightsEnum] | None,
    weights: WeightsLike,
    num_classes: int | None,
    progress: bool,
    default_classes: int = 1000,
    classes_of: Callable[[StateDict], int | None] | None = None,
) -> Model:
    """A model, random or with trained weights.

    Args:
        make: Builds the model for a number of classes.
        members: The model's published weights.
        weights: What the user asked for.
        num_classes: None means what the weights have, or the default.
        progress: Show a bar while downloading.
        default_classes: Where neither the user nor the weights tell.
        classes_of: Finds the number of classes in a state dict. Default: a classifier's.
    """
    if weights is None:
        return make(default_classes if num_classes is None else num_classes)
    chosen = resolve_weights(members, weights)
    known = len(chosen.meta["categories"]) if "categories" in chosen.meta else None
    if num_classes is not None and known not in (None, num_classes):
        raise ValueError(
            f"weights: num_classes must be {known} for {chosen.name}, got {num_classes}; "
            "load with all classes, then call reset_classifier"
        )
    state_dict = chosen.get_state_dict(progress=progress)
    if num_classes is None:
        num_classes = known or (classes_of or _classes)(state_dict) or default_classes
    if chosen.arguments:
        # They may be a stranger's: nothing is allocated before the shapes are known to agree.
        with torch.device("meta"):
            _checked(make(num_classes), state_dict, chosen.name)
    model = make(num_classes)
    _load(model, state_dict, chosen.name)
    return model


def merge_arguments(
    weights: Weights | None, given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """What a model's arguments are: the caller's, or else the weights', or else the defaults.

    Args:
        weights: What will be loaded.
        given: The caller's; None is not given.
        defaults: Of each.

    Raises:
        ValueError: the caller's differs from the weights'. Shapes alone would not show all of it: a
            stride leaves no trace in them.
    """
    wanted = weights.arguments if weights else {}
    merged = {}
    for name, default in defaults.items():
        merged[name] = wanted.get(name, default) if given[name] is None else given[name]
        if name in wanted and merged[name] != wanted[name]:
            raise ValueError(
                f"weights: {name} must be {wanted[name]} for {weights}, got {merged[name]}"
            )
    return merged


def load_weights(
    model: nn.Module, weights: Weights | WeightsEnum, *, progress: bool = True
) -> None:
    """Loads trained weights into a model, all or nothing.

    Raises:
        ValueError: keys or shapes differ; the message names the first and, if one is found, the
            model that they would fit. The model is as before.
        OSError: the file cannot be found or fetched.
    """
    chosen = weights.weights if isinstance(weights, WeightsEnum) else weights
    _load(model, chosen.get_state_dict(progress=progress), chosen.name)


def _converted(model: nn.Module, state_dict: StateDict) -> StateDict:
    """With our keys, where the model knows other files."""
    convert: Callable[[StateDict], StateDict] = getattr(model, "convert_state_dict", dict)
    return convert(state_dict)


def _load(model: nn.Module, state_dict: StateDict, name: str) -> None:
    # strict=False for absent num_batches_tracked only: the rest is checked.
    model.load_state_dict(_checked(model, state_dict, name), strict=False)


def _checked(model: nn.Module, state_dict: StateDict, name: str) -> StateDict:
    """The weights with the model's keys.

    Raises:
        ValueError: they do not fit.
    """
    converted = _converted(model, state_dict)
    found = differences(model, converted)
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        fitting = _fitting(state_dict)
        raise ValueError(
            f"weights: {name} must fit the model, but {', '.join(found[:_SHOWN])}{more}; "
            + (f"they fit {fitting}" if fitting else "no known model has such weights")
        )
    return converted


def _classes(state_dict: StateDict) -> int | None:
    """Rows of the last matrix: the linear layer at a classifier's end."""
    matrices = [value for value in state_dict.values() if value.ndim == 2]
    return matrices[-1].shape[0] if matrices else None


def _fitting(state_dict: StateDict) -> str | None:
    """The call of the registered model, or a variant of it, that the weights fit."""
    classes = _classes(state_dict)
    arguments = {} if classes in (None, 1000) else {"num_classes": classes}
    for entry in model_entries():
        for variant in ({}, *entry.variants):
            try:
                # Shapes only: no memory, no random numbers.
                with torch.device("meta"):
                    model: nn.Module = entry.builder(**arguments, **variant)
            except (TypeError, ValueError):  # a user's builder may take other arguments
                continue
            found = differences(model, _converted(model, state_dict))
            if not found:
                shown = ", ".join(f"{k}={v}" for k, v in {**arguments, **variant}.items())
                return f"{entry.name}({shown})"
            if not all(" instead of " in difference for difference in found):
                break  # other layers; variants have the same ones in other widths
    return None
