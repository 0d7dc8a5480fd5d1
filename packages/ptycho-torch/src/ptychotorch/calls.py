"""``train``, ``infer`` and ``reconstruct`` with Torch, for programs and notebooks."""

from ptychodata.calls import Calls

from .backend import TorchBackend

__all__ = ["infer", "reconstruct", "train"]

_calls = Calls(TorchBackend)

train, infer, reconstruct = _calls.train, _calls.infer, _calls.reconstruct
