"""Maps of where a network looks, and the maps that they are compared with.

Attention maps are resized, combined and compared with masks. Other maps are
activation-based maps, Grad-CAM, two kinds of saliency and the centre prior. Statistics
describe the shape of maps.
"""

from lpa_core.maps.activation import activation_map, activation_maps
from lpa_core.maps.arrays import rescale
from lpa_core.maps.attention import (
    combine_maps,
    mass_on,
    multiply_maps,
    resize_maps,
)
from lpa_core.maps.cam import grad_cam
from lpa_core.maps.prior import CENTRE_SIGMA, centre_prior
from lpa_core.maps.saliency import (
    boolean_map_objects,
    boolean_map_saliency,
    lab_channels,
    markov_chain_saliency,
)
from lpa_core.maps.statistics import (
    density_on,
    discs,
    diversity,
    effective_share,
    entropy,
    similarity,
)

__all__ = [
    "CENTRE_SIGMA",
    "activation_map",
    "activation_maps",
    "boolean_map_objects",
    "boolean_map_saliency",
    "centre_prior",
    "combine_maps",
    "density_on",
    "discs",
    "diversity",
    "effective_share",
    "entropy",
    "grad_cam",
    "lab_channels",
    "markov_chain_saliency",
    "mass_on",
    "multiply_maps",
    "rescale",
    "resize_maps",
    "similarity",
]
