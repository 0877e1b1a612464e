"""Hooks that observe modules while they compute and are removed afterwards."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["evaluating", "forward_hooks"]


@contextmanager
def forward_hooks(
    modules: Mapping[str, nn.Module], call: Callable[[str, tuple[Any, ...], Any], None]
) -> Iterator[None]:
    """Within the context, `call(name, inputs, output)` after each module's forward pass.

    Passes of other threads through the same modules are ignored.
    """
    caller = threading.get_ident()

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if threading.get_ident() == caller:
                call(name, inputs, output)

        return hook

    hooks = [m.register_forward_hook(hook_of(name)) for name, m in modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module is back in its previous mode."""
    in_training = [m for network in networks for m in network.modules() if m.training]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module in in_training:  # a part that was frozen stays frozen
            module.training = True
