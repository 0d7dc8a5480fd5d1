"""Bounds on gradients."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

__all__ = ["clip_adaptively", "clip_gradients"]

_SMALLEST_NORM = 1e-3  # so that weights that start at zero can move


def clip_gradients(parameters: Iterable[nn.Parameter], algorithm: str, bound: float) -> None:
    """Bound gradients in place: ``norm`` the whole, ``value`` each entry, ``agc`` each unit."""
    if algorithm == "norm":
        nn.utils.clip_grad_norm_(parameters, bound)
    elif algorithm == "value":
        nn.utils.clip_grad_value_(parameters, bound)
    else:
        clip_adaptively(parameters, bound)


@torch.no_grad()
def clip_adaptively(parameters: Iterable[nn.Parameter], bound: float) -> None:
    """Bound the gradient's norm of each output channel to ``bound`` times its weights' norm.

    A. Brock et al., "High-performance large-scale image recognition without normalization",
    ICML (2021), eq. 3.
    """
    for parameter, gradient in _with_gradient(parameters):
        allowed = bound * _unit_norm(parameter).clamp_min(_SMALLEST_NORM)
        found = _unit_norm(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
        gradient.mul_((allowed / found).clamp_max(1.0))


def _with_gradient(parameters: Iterable[nn.Parameter]) -> Iterator[tuple[Tensor, Tensor]]:
    return ((p.detach(), p.grad) for p in parameters if p.grad is not None)


def _unit_norm(tensor: Tensor) -> Tensor:
    """Norm over all axes but the first; of each entry by itself in a vector."""
    if tensor.ndim < 2:
        return tensor.abs()
    return tensor.flatten(1).norm(dim=1).view(-1, *[1] * (tensor.ndim - 1))
