"""SSD: one network, thousands of anchors, one box and one set of scores for each.

Source: SSD: Single Shot MultiBox Detector, arXiv:1512.02325.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weebill.models.boxes import BoxCoder, box_iou, clip_boxes_to_image, nms, resize_boxes

__all__ = ["SSD", "DefaultBoxGenerator", "SSDHead"]

#: "boxes" (N, 4) in pixels of the image, "labels" (N) int64, and for results "scores" (N).
Detections: TypeAlias = dict[str, Tensor]


class DefaultBoxGenerator:
    """SSD's anchors: at every pixel of every map, boxes of the map's scale and some aspect ratios.

    Map k has the scale s_k = min_ratio + (max_ratio - min_ratio) k / (m - 1) of the image, and the
    boxes (s_k, s_k), (s'_k, s'_k) with s'_k = sqrt(s_k s_(k+1)), and for each ratio a
    (s_k sqrt(a), s_k / sqrt(a)) and its transpose. Sides are at most the image's.

    Args:
        aspect_ratios: For each map.
        min_ratio, max_ratio: Scales of the first and the last map.

    Source: SSD, section 2.2.
    """

    def __init__(
        self,
        aspect_ratios: Sequence[Sequence[float]],
        min_ratio: float = 0.2,
        max_ratio: float = 0.95,
    ) -> None:
        if len(aspect_ratios) < 2:
            raise ValueError(
                "DefaultBoxGenerator: aspect_ratios must be of two maps or more, "
                f"got {aspect_ratios!r}"
            )
        step = max_ratio - min_ratio
        last = len(aspect_ratios) - 1
        scales = [*(min_ratio + step * k / last for k in range(last + 1)), 1.0]
        self.sizes: list[list[tuple[float, float]]] = []
        for k, ratios in enumerate(aspect_ratios):
            between = sqrt(scales[k] * scales[k + 1])
            sizes = [(scales[k], scales[k]), (between, between)]
            for root in map(sqrt, ratios):
                wide, narrow = scales[k] * root, scales[k] / root
                sizes += [(wide, narrow), (narrow, wide)]
            self.sizes.append([(min(w, 1.0), min(h, 1.0)) for w, h in sizes])

    def num_anchors_per_location(self) -> list[int]:
        """Anchors at a pixel, for each map."""
        return [len(sizes) for sizes in self.sizes]

    def __call__(self, size: Sequence[int], maps: Sequence[Tensor]) -> Tensor:
        """Anchors of an image of (height, width) with such feature maps, (number, 4)."""
        like = maps[0]
        found = []
        for sizes, grid in zip(self.sizes, maps, strict=True):
            rows, columns = grid.shape[-2:]
            y = (torch.arange(rows, device=like.device) + 0.5) / rows
            x = (torch.arange(columns, device=like.device) + 0.5) / columns
            y, x = torch.meshgrid(y.to(like.dtype), x.to(like.dtype), indexing="ij")
            centres = torch.stack((x, y), dim=-1).reshape(-1, 1, 2)
            half = 0.5 * like.new_tensor(sizes)
            found.append(torch.cat((centres - half, centres + half), dim=-1).reshape(-1, 4))
        height, width = size
        return torch.cat(found) * like.new_tensor((width, height, width, height))


class _Scores(nn.Module):
    """A small network per feature map; all results in one tensor, `columns` per anchor."""

    def __init__(self, modules: Sequence[nn.Module], columns: int) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(modules)
        self.columns = columns

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        found = []
        for module, x in zip(self.module_list, maps, strict=True):
            y = module(x)
            n, channels, height, width = y.shape
            # (N, A * columns, H, W) -> (N, H * W * A, columns)
            y = y.view(n, channels // self.columns, self.columns, height, width)
            y = y.permute(0, 3, 4, 1, 2).reshape(n, -1, self.columns)
            found.append(y)
        return torch.cat(found, dim=1)


class SSDHead(nn.Module):
    """Scores and box offsets of every anchor.

    Args:
        classification, regression: For each map a module; num_classes and 4 channels per anchor.
        num_classes: With the background, class 0.

    Shapes: maps (N, C_k, H_k, W_k) -> offsets (N, anchors, 4), logits (N, anchors, num_classes).
    """

    def __init__(
        self,
        classification: Sequence[nn.Module],
        regression: Sequence[nn.Module],
        num_classes: int,
    ) -> None:
        super().__init__()
        self.classification_head = _Scores(classification, num_classes)
        self.regression_head = _Scores(regression, 4)
        self.num_classes = num_classes

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.regression_head(maps), self.classification_head(maps)


class SSD(nn.Module):
    """Single-shot detector: backbone, head, anchors, and the way to the image and back.

    Images are normalised and resized to `size`; boxes are given in pixels of the image as it came.

    Args:
        backbone: Image -> feature maps, the finest first.
        head: Feature maps -> offsets, logits.
        anchors: One generator for the maps.
        size: (height, width) that images are resized to.
        mean, std: Per channel; images are in 0..1.
        score_thresh: Boxes below it are dropped.
        nms_thresh: IoU above which the weaker of two boxes of a class is dropped.
        detections_per_img: Most boxes of an image.
        topk_candidates: Most boxes of a class before the suppression.
        iou_thresh: In training: least IoU of an anchor with a target that it learns.
        positive_fraction: In training: share of the anchors in the loss that have a target.

    Call: `model(images)` with a list of (C, H, W) of any sizes or a batch (N, C, H, W) gives a list
    of {"boxes": (D, 4), "scores": (D), "labels": (D)}, by decreasing score. In training
    `model(images, targets)`, a list of {"boxes": (T, 4), "labels": (T)}, gives the losses
    {"bbox_regression", "classification"}.

    Raises:
        ValueError: a shape does not fit, targets are missing in training or have empty boxes.
        TypeError: images are not floating point.

    Source: SSD, arXiv:1512.02325; as torchvision's class of this name, whose keys it has.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: SSDHead,
        anchors: DefaultBoxGenerator,
        *,
        size: tuple[int, int] = (320, 320),
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        score_thresh: float = 0.001,
        nms_thresh: float = 0.55,
        detections_per_img: int = 300,
        topk_candidates: int = 300,
        iou_thresh: float = 0.5,
        positive_fraction: float = 0.25,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.anchors = anchors
        self.box_coder = BoxCoder()
        self.size = size
        self.mean, self.std = tuple(mean), tuple(std)
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_img = detections_per_img
        self.topk_candidates = topk_candidates
        self.iou_thresh = iou_thresh
        self.negatives_per_positive = (1 - positive_fraction) / positive_fraction

    @property
    def num_classes(self) -> int:
        """With the background."""
        return self.head.num_classes

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[Detections] | None = None
    ) -> list[Detections] | dict[str, Tensor]:
        if self.training and targets is None:
            raise ValueError("SSD: targets must be given in training")
        if len(images) == 0:
            return []
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        maps = self.backbone(self.transform(images))
        offsets, logits = self.head(maps)
        anchors = self.anchors(self.size, maps)
        if self.training:
            assert targets is not None
            resized = self._resized(targets, sizes)
            return self._losses(offsets, logits, anchors, resized)
        found = self.postprocess(offsets, logits, anchors)
        for result, size in zip(found, sizes, strict=True):
            result["boxes"] = resize_boxes(result["boxes"], self.size, size)
        return found

    def transform(self, images: Sequence[Tensor] | Tensor) -> Tensor:
        """Images (C, H, W) in 0..1 -> the batch that the backbone sees, normalised and resized."""
        batch = []
        for index, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != len(self.mean) or image.numel() == 0:
                raise ValueError(
                    f"SSD: images must be ({len(self.mean)}, H, W) each, "
                    f"got {tuple(image.shape)} at {index}"
                )
            if not image.is_floating_point():
                raise TypeError(f"SSD: images must be floating point in 0..1, got {image.dtype}")
            mean, std = image.new_tensor(self.mean), image.new_tensor(self.std)
            x = (image - mean[:, None, None]) / std[:, None, None]
            batch.append(
                F.interpolate(x[None], size=self.size, mode="bilinear", align_corners=False)
            )
        return torch.cat(batch)

    def postprocess(self, offsets: Tensor, logits: Tensor, anchors: Tensor) -> list[Detections]:
        """What the head says as detections, boxes in pixels of `size`."""
        boxes = clip_boxes_to_image(self.box_coder.decode(offsets, anchors), self.size)
        scores = logits.softmax(dim=-1)
        return [self._detections(*image) for image in zip(boxes, scores, strict=True)]

    def _detections(self, boxes: Tensor, scores: Tensor) -> Detections:
        indices, labels = [], []
        for label in range(1, self.num_classes):
            candidates = (scores[:, label] > self.score_thresh).nonzero().flatten()
            if len(candidates) == 0:
                continue
            count = min(self.topk_candidates, len(candidates))
            best = candidates[scores[candidates, label].topk(count).indices]
            kept = best[nms(boxes[best], scores[best, label], self.nms_thresh)]
            indices.append(kept)
            labels.append(torch.full_like(kept, label))
        if not indices:
            empty = torch.zeros(0, dtype=torch.int64, device=boxes.device)
            return {"boxes": boxes[empty], "scores": scores[empty, 0], "labels": empty}
        index, label_of = torch.cat(indices), torch.cat(labels)
        score = scores[index, label_of]
        order = score.argsort(descending=True, stable=True)[: self.detections_per_img]
        return {
            "boxes": boxes[index[order]],
            "scores": score[order],
            "labels": label_of[order],
        }

    def _resized(
        self, targets: Sequence[Detections], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """The targets in pixels of the resized image, checked."""
        if len(targets) != len(sizes):
            raise ValueError(f"SSD: targets must be one per image, got {len(targets)}")
        found = []
        for index, (target, size) in enumerate(zip(targets, sizes, strict=True)):
            boxes, labels = target["boxes"], target["labels"]
            if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
                raise ValueError(
                    "SSD: targets must have boxes (T, 4) and labels (T), got "
                    f"{tuple(boxes.shape)} and {tuple(labels.shape)} at {index}"
                )
            if (boxes[:, 2:] <= boxes[:, :2]).any():
                raise ValueError(f"SSD: targets must have boxes with an area, got none at {index}")
            found.append({"boxes": resize_boxes(boxes, size, self.size), "labels": labels})
        return found

    def _losses(
        self, offsets: Tensor, logits: Tensor, anchors: Tensor, targets: Sequence[Detections]
    ) -> dict[str, Tensor]:
        classes = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
        box_loss = offsets.sum() * 0
        matches = 0
        for index, target in enumerate(targets):
            matched = self._match(target["boxes"], anchors)
            taken = (matched >= 0).nonzero().flatten()
            matches += len(taken)
            wanted = self.box_coder.encode(target["boxes"][matched[taken]], anchors[taken])
            box_loss = box_loss + F.smooth_l1_loss(offsets[index, taken], wanted, reduction="sum")
            classes[index, taken] = target["labels"][matched[taken]]
        loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none")
        loss = loss.view_as(classes)
        positive = classes > 0
        # Of the background only the anchors that look most like something.
        limit = self.negatives_per_positive * positive.sum(dim=1, keepdim=True)
        order = loss.detach().masked_fill(positive, -torch.inf).argsort(dim=1, descending=True)
        negative = order.argsort(dim=1) < limit
        total = loss[positive].sum() + loss[negative].sum()
        count = max(1, matches)
        return {"bbox_regression": box_loss / count, "classification": total / count}

    def _match(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Index of the target that each anchor learns, -1 for none."""
        if len(boxes) == 0:
            return torch.full((len(anchors),), -1, device=anchors.device)
        overlaps = box_iou(boxes, anchors)
        best, index = overlaps.max(dim=0)
        index[best < self.iou_thresh] = -1
        # Every target is learnt by its best anchor, however small the overlap.
        index[overlaps.argmax(dim=1)] = torch.arange(len(boxes), device=anchors.device)
        return index
