"""``train``, ``infer`` and ``reconstruct`` with TensorFlow, for programs and notebooks."""

from ptychodata.calls import Calls

from .backend import TensorFlowBackend

__all__ = ["infer", "reconstruct", "train"]

_calls = Calls(TensorFlowBackend)

train, infer, reconstruct = _calls.train, _calls.infer, _calls.reconstruct
