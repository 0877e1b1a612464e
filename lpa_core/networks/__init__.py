"""The networks of the paper, by its names for them."""

from lpa_core.networks.attach import Attachment, attach, build_attached, check_backbone
from lpa_core.networks.base import AttentionOutput, Network
from lpa_core.networks.initialise import Initialisation, initialise
from lpa_core.networks.prune import drop_query_branch
from lpa_core.networks.zoo import (
    CONTROLS,
    build_network,
    check_network,
    check_options,
    list_networks,
)

__all__ = [
    "CONTROLS",
    "Attachment",
    "AttentionOutput",
    "Initialisation",
    "Network",
    "attach",
    "build_attached",
    "build_network",
    "check_backbone",
    "check_network",
    "check_options",
    "drop_query_branch",
    "initialise",
    "list_networks",
]
