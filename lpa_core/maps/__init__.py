"""Attention maps as pictures: brought to one size, combined, measured against a mask."""

from lpa_core.maps.attention import combine_maps, mass_on, rescale, resize_maps

__all__ = ["combine_maps", "mass_on", "rescale", "resize_maps"]
