"""The centre prior: a Gaussian in the middle, which ignores the image.

Photographers put their object in the middle. A map shows that it has learned something
only if it scores above this prior. The paper has no such control.
"""

import numpy as np

from lpa_core.shapes import Float

__all__ = ["CENTRE_SIGMA", "centre_prior"]

# The standard deviation as a fraction of each side. With a quarter, the border is two
# standard deviations from the middle, so that nearly all of the Gaussian is in the image.
CENTRE_SIGMA = 1 / 4


def centre_prior(
    height: int, width: int, sigma: float = CENTRE_SIGMA
) -> Float[np.ndarray, "h w"]:
    """A Gaussian in the middle of an image, with maximum 1.

    Args:
        height, width: pixels.
        sigma: its standard deviation as a fraction of each side, so that it has the
            image's aspect ratio.

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
