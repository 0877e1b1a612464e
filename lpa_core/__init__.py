"""lpa_core: the tested code behind the "Learn to Pay Attention" book."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpa_core.networks import build_network, list_networks

__version__ = "0.1.0"
__all__ = ["__version__", "build_network", "list_networks"]


def __getattr__(name: str) -> Any:
    """Import torch when a network is first asked for: `--help` needs none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lpa_core import networks

    return getattr(networks, name)
