"""From what a file stores to what is seen: grey values of any depth, windows, and the ground behind transparent pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from harness.pictures import BadImageError, Window

if TYPE_CHECKING:
    from PIL import Image

Shape = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]

#: Of a transparent picture, what is this bright can hardly be told from a white ground.
PALE = 192
#: A picture of which no more than this share of what is visible is darker than PALE would vanish on white.
VANISHING = 0.01


def levels(values: Any, hidden: Any = None) -> Any:
    """Grey values scaled linearly from their own minimum..maximum to 0..255 (uint8), as viewers do where no window is named.

    Values that are no number and `hidden` ones (a mask) become 0 and do not count, and so does a picture of one value.
    """
    values = np.asarray(values, dtype=np.float64)
    shown = np.isfinite(values)
    if hidden is not None:
        shown &= ~hidden
    low, high = (values[shown].min(), values[shown].max()) if shown.any() else (0.0, 0.0)
    scaled = np.where(shown, values - low, 0) * (255 / (high - low) if high > low else 0)
    return np.rint(scaled).astype(np.uint8)


def windowed(values: Any, window: Window, name: str, *, shape: Shape = "LINEAR_EXACT", whose: str = "the window") -> Any:
    """Grey values through a window, as uint8 (DICOM PS3.3 C.11.2.1). What is no number becomes 0.

    Raises BadImageError where it would show one grey only of a picture that has several.
    """
    values = np.asarray(values, dtype=np.float64)
    center, width = window.center, window.width
    with np.errstate(over="ignore"):
        if shape == "SIGMOID":
            part = 1 / (1 + np.exp(-4 * (values - center) / width))
        elif shape == "LINEAR":
            part = (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5
        else:
            part = (values - center) / width + 0.5
    found = np.rint(np.nan_to_num(np.clip(part, 0, 1), nan=0.0) * 255).astype(np.uint8)
    finite = values[np.isfinite(values)]
    if finite.size and found.min() == found.max() and finite.min() != finite.max():
        raise BadImageError(
            f"{name}: {whose} (center {center:g}, width {width:g}) shows one grey only, as its values run from {finite.min():g} "
            f"to {finite.max():g}; name one that shows them by `window: {{center: C, width: W}}` in the task's YAML"
        )
    return found


def on_ground(image: Image.Image, name: str) -> tuple[Image.Image, str | None]:
    """(RGB, what was done about transparency or None where nothing is transparent).

    The ground is white, as viewers and pages have it; black where the picture would vanish on white, being itself nearly
    white wherever it is visible. Raises BadImageError for a picture of which nothing is visible, though there is one.
    """
    from PIL import Image as pillow

    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")  # Pillow knows no way from La to RGBA
    alpha = rgba.getchannel("A")
    least, most = cast(tuple[int, int], alpha.getextrema())
    if least == 255:
        return rgba.convert("RGB"), None
    if most == 0:
        colours = rgba.convert("RGB").getcolors(maxcolors=1)  # None where there are more
        if colours is None:
            raise BadImageError(f"{name}: holds a picture that is wholly transparent; save it without its alpha channel")
        return pillow.new("RGB", rgba.size, "white"), "wholly transparent, so that only a white ground is seen"
    weights = np.asarray(alpha, dtype=np.float64)
    dark = np.asarray(rgba.convert("RGB").convert("L")) < PALE
    ground = "black" if weights[dark].sum() <= VANISHING * weights.sum() else "white"
    return pillow.alpha_composite(pillow.new("RGBA", rgba.size, ground), rgba).convert(
        "RGB"
    ), f"transparent, on a {ground} ground"
