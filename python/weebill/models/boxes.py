"""Boxes: overlap, coding relative to anchors, non-maximum suppression. Plain torch.

Boxes are rows (x1, y1, x2, y2) in pixels with x1 <= x2 and y1 <= y2.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

__all__ = [
    "BoxCoder",
    "batched_nms",
    "box_iou",
    "clip_boxes_to_image",
    "nms",
    "resize_boxes",
]

# Boxes whose overlaps are computed at once in `nms`.
_BLOCK = 1024


def _check_boxes(op: str, **boxes: Tensor) -> None:
    for name, value in boxes.items():
        if value.ndim != 2 or value.shape[1] != 4:
            raise ValueError(f"{op}: {name} must be (N, 4), got {tuple(value.shape)}")


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each pair.

    Shapes: (N, 4), (M, 4) -> (N, M). NaN for pairs without any area.

    Raises:
        ValueError: a shape is another.
    """
    _check_boxes("box_iou", a=a, b=b)
    area_a, area_b = ((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b))
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = (high - low).clamp(min=0).prod(dim=2)
    return inner / (area_a[:, None] + area_b[None] - inner)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression.

    The best box is kept, those that overlap it by more than the threshold are dropped, and so on
    with what is left.

    Args:
        boxes: (N, 4).
        scores: (N).
        iou_threshold: A box is dropped if its IoU with a kept one is greater.

    Returns:
        Indices of the kept boxes, int64, by decreasing score; equal scores in their order.

    Raises:
        ValueError: a shape does not fit, or the threshold is not within 0..1.

    Source: as `torchvision.ops.nms`.
    """
    _check_boxes("nms", boxes=boxes)
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"nms: scores must be ({len(boxes)},), got {tuple(scores.shape)}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"nms: iou_threshold must be within 0..1, got {iou_threshold}")
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    kept = order[:0]
    for start in range(0, len(boxes), _BLOCK):
        block = boxes[start : start + _BLOCK]
        free = ~(box_iou(boxes[kept], block) > iou_threshold).any(dim=0)
        overlaps = (box_iou(block, block) > iou_threshold).triu(diagonal=1)
        # A box is kept if no kept box before it overlaps it. Repeated from any start, this settles
        # from the first box on; it ends after as many rounds as the longest chain of overlaps.
        keep = free
        while True:
            settled = free & ~overlaps[keep].any(dim=0)
            if torch.equal(settled, keep):
                break
            keep = settled
        kept = torch.cat((kept, start + keep.nonzero().flatten()))
    return order[kept]


def batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each label; boxes of different labels do not suppress each other.

    Args:
        boxes, scores, iou_threshold: As in `nms`.
        labels: (N), integers.

    Returns, Raises:
        As `nms`.
    """
    if labels.shape != scores.shape:
        raise ValueError(
            f"batched_nms: labels must be {tuple(scores.shape)}, got {tuple(labels.shape)}"
        )
    kept = [scores.new_zeros((0,), dtype=torch.int64)]
    for label in set(labels.tolist()):
        members = (labels == label).nonzero().flatten()
        kept.append(members[nms(boxes[members], scores[members], iou_threshold)])
    found = torch.cat(kept).sort().values
    return found[scores[found].argsort(descending=True, stable=True)]


def clip_boxes_to_image(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes (..., 4) moved into an image of (height, width)."""
    height, width = size
    limits = boxes.new_tensor((width, height, width, height))
    return torch.minimum(boxes.clamp(min=0), limits)


def resize_boxes(boxes: Tensor, size: Sequence[int], new_size: Sequence[int]) -> Tensor:
    """Boxes (N, 4) of an image of (height, width), on the image resized to `new_size`."""
    height, width = (boxes.new_tensor(new) / old for old, new in zip(size, new_size, strict=True))
    return boxes * torch.stack((width, height, width, height))


class BoxCoder:
    """Boxes as offsets from anchors, and back.

        (wx (x - xa) / wa,  wy (y - ya) / ha,  ww log(w / wa),  wh log(h / ha))

    with centres x, y and sizes w, h of the box, and xa, ya, wa, ha of the anchor.

    Args:
        weights: (wx, wy, ww, wh).

    Source: Faster R-CNN, arXiv:1506.01497, equation 2; the weights are of SSD's implementations.
    """

    #: Limit of log(w / wa) when decoding, so that exp does not overflow.
    CLIP = log(1000 / 16)

    def __init__(self, weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0)) -> None:
        self.weights = tuple(weights)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """(N, 4) and (N, 4) -> offsets (N, 4)."""
        _check_boxes("BoxCoder.encode", boxes=boxes, anchors=anchors)
        size, anchor_size = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
        centre = boxes[:, :2] + 0.5 * size
        anchor_centre = anchors[:, :2] + 0.5 * anchor_size
        weights = boxes.new_tensor(self.weights)
        offsets = (centre - anchor_centre) / anchor_size
        return torch.cat((offsets, (size / anchor_size).log()), dim=1) * weights

    def decode(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """(..., N, 4) and (N, 4) -> boxes (..., N, 4)."""
        _check_boxes("BoxCoder.decode", anchors=anchors)
        anchor_size = anchors[:, 2:] - anchors[:, :2]
        anchor_centre = anchors[:, :2] + 0.5 * anchor_size
        offsets = offsets / offsets.new_tensor(self.weights)
        centre = offsets[..., :2] * anchor_size + anchor_centre
        half = 0.5 * offsets[..., 2:].clamp(max=self.CLIP).exp() * anchor_size
        return torch.cat((centre - half, centre + half), dim=-1)
