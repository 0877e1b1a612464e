"""lpa_core: the tested code behind the "Learn to Pay Attention" book."""

from lpa_core.networks import build_network, list_networks

__version__ = "0.1.0"
__all__ = ["__version__", "build_network", "list_networks"]
