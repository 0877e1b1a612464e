"""The networks of the paper, by its names for them."""

from lpa_core.networks.base import Attended, Network
from lpa_core.networks.zoo import build_network, check_network, list_networks

__all__ = ["Attended", "Network", "build_network", "check_network", "list_networks"]
