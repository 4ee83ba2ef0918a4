"""Boxes, masks and their names on a photo."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = ["draw_boxes", "draw_masks"]

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]


def _colour(index: int) -> Colour:
    """A colour per class; neighbours are far apart on the colour circle."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _scale(photo: Image.Image) -> int:
    """Width of a line, so that pictures of any size show it."""
    return max(1, round(min(photo.size) / 200))


class _Labels:
    def __init__(self, photo: Image.Image) -> None:
        self.draw = ImageDraw.Draw(photo)
        self.photo = photo
        self.font = ImageFont.load_default(size=max(10, 6 * _scale(photo)))

    def write(self, x: float, y: float, text: str, colour: Colour) -> float:
        """A name on its colour, moved into the picture if need be; returns its lower edge."""
        left, top, right, bottom = self.draw.textbbox((0, 0), text, font=self.font)
        width, height = right + left, bottom + top
        x = max(0.0, min(x, self.photo.width - width))
        y = max(0.0, min(y, self.photo.height - height))
        self.draw.rectangle((x, y, x + width, y + height), fill=colour)
        dark = sum(colour) < 380
        self.draw.text((x, y), text, fill="white" if dark else "black", font=self.font)
        return y + height


def draw_boxes(pixels: Pixels, detections: Sequence[Mapping[str, Any]]) -> Image.Image:
    """The photo with a frame and a name for each detection, the best on top.

    Args:
        pixels: (H, W, 3).
        detections: With "box" (x1, y1, x2, y2), "index", "label" and "score".
    """
    photo = Image.fromarray(pixels)
    labels = _Labels(photo)
    for found in reversed(detections):
        colour = _colour(found["index"])
        x1, y1, x2, y2 = found["box"]
        labels.draw.rectangle(
            (x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=_scale(photo)
        )
        labels.write(x1, y1, f"{found['label']} {found['score']:.0%}", colour)
    return photo


def draw_masks(
    pixels: Pixels, mask: npt.NDArray[Any], classes: Sequence[Mapping[str, Any]]
) -> Image.Image:
    """The photo with every class but the background in a colour, half transparent, and a legend.

    Args:
        pixels: (H, W, 3).
        mask: (H, W), the class of every pixel.
        classes: Those on the photo, with "index" and "label".
    """
    blended = pixels.astype(np.uint16)
    shown = [entry for entry in classes if entry["index"] != 0]
    for entry in shown:
        area = mask == entry["index"]
        blended[area] = (blended[area] + np.array(_colour(entry["index"]), np.uint16)) // 2
    photo = Image.fromarray(blended.astype(np.uint8))
    labels = _Labels(photo)
    y = 0.0
    for entry in shown:
        y = labels.write(0, y, entry["label"], _colour(entry["index"]))
    return photo
