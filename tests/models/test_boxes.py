"""Boxes against definitions written as loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from weebill.models.boxes import (
    BoxCoder,
    batched_nms,
    box_iou,
    clip_boxes_to_image,
    nms,
    resize_boxes,
)


def random_boxes(count: int, extent: float = 100.0) -> Tensor:
    corner = torch.rand(count, 2) * extent
    return torch.cat((corner, corner + torch.rand(count, 2) * 40 + 1), dim=1)


def iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inner = width * height
    area = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return inner / (area - inner)


def greedy(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    rows = boxes.double().tolist()
    left = sorted(range(len(rows)), key=lambda i: -scores[i].item())
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        left = [i for i in left if not iou(rows[best], rows[i]) > threshold]
    return kept


def test_iou() -> None:
    a, b = random_boxes(7), random_boxes(5)
    expected = torch.tensor([[iou(x, y) for y in b.tolist()] for x in a.tolist()])
    torch.testing.assert_close(box_iou(a, b), expected)
    assert box_iou(a, b[:0]).shape == (7, 0)


# Above the size of a block, and dense enough for long chains of overlaps.
@pytest.mark.parametrize(("count", "extent"), [(0, 1), (1, 1), (300, 60), (1500, 400)])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.55, 1.0])
def test_nms_is_the_greedy_one(count: int, extent: float, threshold: float) -> None:
    boxes, scores = random_boxes(count, extent), torch.rand(count)
    assert nms(boxes, scores, threshold).tolist() == greedy(boxes, scores, threshold)


def test_nms_follows_a_chain_of_overlaps() -> None:
    # Each overlaps the next only: every second one stays.
    left = torch.arange(2000.0)[:, None] * 6
    boxes = torch.cat((left, torch.zeros_like(left), left + 10, torch.ones_like(left)), dim=1)
    scores = torch.linspace(1, 0, 2000)
    assert nms(boxes, scores, 0.2).tolist() == list(range(0, 2000, 2))


def test_nms_of_equal_scores_and_boxes_without_area() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [9, 9, 9, 9], [9, 9, 9, 9]])
    assert nms(boxes, torch.ones(4), 0.5).tolist() == [0, 2, 3]


def test_batched_nms() -> None:
    boxes, scores, labels = random_boxes(200, 50), torch.rand(200), torch.randint(3, (200,))
    expected = []
    for label in range(3):
        members = (labels == label).nonzero().flatten()
        expected += members[greedy(boxes[members], scores[members], 0.4)].tolist()
    expected.sort(key=lambda i: -scores[i].item())
    assert batched_nms(boxes, scores, labels, 0.4).tolist() == expected
    assert batched_nms(boxes[:0], scores[:0], labels[:0], 0.4).shape == (0,)


def test_coder() -> None:
    anchors, boxes = random_boxes(50), random_boxes(50)
    coder = BoxCoder()
    offsets = coder.encode(boxes, anchors)
    torch.testing.assert_close(coder.decode(offsets, anchors), boxes, rtol=1e-4, atol=1e-3)
    # by the formula, for one
    x, y, a, b = boxes[3].tolist(), anchors[3].tolist(), offsets[3], 0
    for b in (0, 1):
        size, anchor = x[2 + b] - x[b], y[2 + b] - y[b]
        shift = (x[b] + x[2 + b] - y[b] - y[2 + b]) / 2
        assert a[b].item() == pytest.approx(10 * shift / anchor, rel=1e-3, abs=1e-4)
        log = torch.tensor(size / anchor).log().item()
        assert a[2 + b].item() == pytest.approx(5 * log, rel=1e-3, abs=1e-4)
    assert coder.decode(torch.full((2, 50, 4), 1e6), anchors).isfinite().all()


def test_clip_and_resize() -> None:
    boxes = torch.tensor([[-3.0, 5, 30, 70], [1, 2, 3, 4]])
    assert clip_boxes_to_image(boxes, (50, 20)).tolist() == [[0, 5, 20, 50], [1, 2, 3, 4]]
    resized = resize_boxes(boxes, (100, 10), (50, 40))
    assert resized.tolist() == [[-12, 2.5, 120, 35], [4, 1, 12, 2]]


def test_wrong_arguments() -> None:
    boxes, scores = random_boxes(3), torch.rand(3)
    with pytest.raises(ValueError, match=r"nms: boxes must be \(N, 4\), got \(3, 3\)"):
        nms(boxes[:, :3], scores, 0.5)
    with pytest.raises(ValueError, match=r"nms: scores must be \(3,\), got \(2,\)"):
        nms(boxes, scores[:2], 0.5)
    with pytest.raises(ValueError, match=r"iou_threshold must be within 0..1, got 1.5"):
        nms(boxes, scores, 1.5)
    with pytest.raises(ValueError, match=r"labels must be \(3,\), got \(1,\)"):
        batched_nms(boxes, scores, torch.zeros(1), 0.5)
    with pytest.raises(ValueError, match=r"anchors must be \(N, 4\), got \(3,\)"):
        BoxCoder().decode(boxes, scores)
