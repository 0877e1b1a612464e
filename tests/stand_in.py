"""A stand-in for a CUDA graph on the CPU: what is recorded, and how it is replayed.

A CUDA graph runs the recorded kernels on the recorded addresses. The stand-in does the
same: it notes each operation with the tensors that it read and wrote, and replays them
without any of the step's Python. What Python would have changed from step to step shows as
a difference, and what a GPU would have to be waited for is refused.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal")


class Recorder(TorchDispatchMode):
    """Notes what is computed, from what, into which tensors."""

    def __init__(self):
        super().__init__()
        self.calls, self.fresh = [], True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        if name in WAITS:
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        out = function(*args, **(kwargs or {}))
        # A view is of memory that is there already.
        aliases = [a.alias_info for a in function._schema.returns if a.alias_info]
        if all(alias.is_write for alias in aliases):  # in place, or into `out`
            self.calls.append((function, args, kwargs or {}, out))
        return out

    def replay(self):
        if self.fresh:  # recording computed the step, which a GPU does not do
            self.fresh = False
            return
        with torch.no_grad():
            for function, args, kwargs, out in self.calls:
                again = function(*args, **kwargs)
                for old, new in zip(tensors(out), tensors(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def tensors(tree):
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


class StandIn:
    """Capture for the CPU; keeps its recordings."""

    def __init__(self):
        self.recordings = []

    def __call__(self, function):
        recorder = Recorder()
        with recorder:
            function()
        self.recordings.append(recorder)
        return recorder.replay
