"""Folds BatchNorm into the convolution before it: torch's eager mode at its strongest."""

from __future__ import annotations

import copy
import itertools

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A copy of `module` with every BatchNorm folded that directly follows a convolution.

    "Follows" means: is the next child of the same parent and has as many channels, which is
    how torchvision and timm write it.  timm's BatchNorm carries its activation, which stays.
    The caller compares the result with float64, so a wrong guess cannot pass unseen.
    """
    folded = copy.deepcopy(module).eval()
    for parent in list(folded.modules()):
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in itertools.pairwise(children):
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if conv.out_channels != norm.num_features:
                continue
            setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))
    return folded
