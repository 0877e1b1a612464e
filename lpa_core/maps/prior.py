"""The centre prior: a Gaussian in the middle, which has not looked at the image.

Photographers put their object in the middle. A map has learned something about an image
only as far as it scores above this one; the paper has no such control.
"""

import numpy as np

from lpa_core.shapes import Float

__all__ = ["CENTRE_SIGMA", "centre_prior"]

# The deviation as a share of each side. A quarter leaves the border two deviations away
# from the middle, so that the whole bell lies within the image.
CENTRE_SIGMA = 1 / 4


def centre_prior(
    height: int, width: int, sigma: float = CENTRE_SIGMA
) -> Float[np.ndarray, "h w"]:
    """A Gaussian in the middle of an image, 1 at its highest.

    Args:
        height, width: pixels.
        sigma: its deviation as a share of each side, so that it takes the image's shape.

    Raises:
        ValueError: there are no pixels, or sigma is not above zero.
    """
    if height < 1 or width < 1:
        raise ValueError(f"{height} x {width}: give at least 1 pixel a side")
    if not sigma > 0:
        raise ValueError(f"sigma {sigma!r}: give a share of the side above 0, e.g. 0.25")
    down, across = (
        np.exp(-0.5 * (((np.arange(n) + 0.5) / n - 0.5) / sigma) ** 2)
        for n in (height, width)
    )
    return np.outer(down / down.max(), across / across.max())
