"""Trained weights that come inside this package; `trained/README.md` tells how they were made."""

from __future__ import annotations

from typing import Any

from weebill.data import FASHION_MNIST, FASHION_MNIST_CATEGORIES
from weebill.models._weights import PackageFile, Weights

__all__ = ["fashion_mnist_weights"]


def fashion_mnist_weights(
    file: str, *, sha256: str, width_mult: float | None = None, **meta: Any
) -> Weights:
    """Weights for grey 28 x 28 pictures of clothing.

    Args:
        file: In the folder `trained`.
        sha256: Of the file.
        width_mult: Of the network, where its function has that argument.
        meta: num_params, multiply_adds, acc@1, acc@5.
    """
    arguments: dict[str, Any] = {"stem_stride": 1, "in_channels": 1}
    if width_mult is not None:
        arguments["width_mult"] = width_mult
    return Weights(
        package=PackageFile("weebill", f"models/trained/{file}", "weebill"),
        sha256=sha256,
        preset=FASHION_MNIST,
        arguments=arguments,
        meta={
            "categories": FASHION_MNIST_CATEGORIES,
            "min_size": (1, 1),
            "license": "Apache-2.0; trained on Fashion-MNIST, MIT, (c) 2017 Zalando SE",
            "recipe": "weebill/models/trained/README.md",
            **meta,
        },
    )
