"""What training and inference know of a network."""

import torch
from torch import Tensor, nn

from ptychotorch import physics
from ptychotorch.batches import Batch

__all__ = ["Network", "PatternNetwork"]


class Network(nn.Module):
    """A network that improves object patches in a number of steps.

    ``forward(step, patches, shifted_probe, batch)`` takes the current patches, (B, N, N)
    complex64 windows O[n], the shifted probe, (B, M, N, N), and the batch of patterns that they
    belong to, and returns better windows of the same shape; the caller merges them between steps.

    Attributes:
        steps: number of update steps, each followed by a merge.
        group_size: patterns that must stand together in a batch; 1 = it looks at each alone.
        compute_dtype: arithmetic of the layers; the physics stays in float32.
    """

    steps: int
    group_size: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.compute_dtype = torch.float32

    def forward(self, step: int, patches: Tensor, shifted_probe: Tensor, batch: Batch) -> Tensor:
        """Improve the patches of a batch: (B, N, N) complex64 → (B, N, N) complex64."""
        raise NotImplementedError


class PatternNetwork(Network):
    """A network that makes patches out of the patterns of a group in one step.

    It centres each patch on the exact position of its pattern, which it need not know for that;
    the patch is then brought into its window by a bilinear shift of the fraction.  Where it
    returns one patch for the whole group, that patch is centred on the mean position.

    Args:
        generator: (G, C, N, N) float amplitudes, DC in the centre, to complex64 patches,
            (G, C, N, N) or (G, 1, N, N).
        group_size: C.
    """

    steps = 1

    def __init__(self, generator: nn.Module, group_size: int) -> None:
        super().__init__()
        self.generator = generator
        self.group_size = group_size
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, step: int, patches: Tensor, shifted_probe: Tensor, batch: Batch) -> Tensor:
        """Predict the windows of a batch, whatever the current ``patches`` are."""
        amplitude = physics.network_input(batch.counts, shifted_probe[0].detach())
        if batch.valid is not None:
            amplitude = amplitude * batch.valid
        amplitude = torch.fft.fftshift(amplitude, dim=(-2, -1))
        groups = amplitude.unflatten(0, (-1, self.group_size))
        narrow = self.compute_dtype != torch.float32
        with torch.autocast(groups.device.type, self.compute_dtype, enabled=narrow):
            made: Tensor = self.generator(groups)
        shift = batch.fraction
        if made.shape[1] < self.group_size:
            made, shift = made.expand_as(groups), self._to_mean(batch)
        return physics.shift_object(made.flatten(0, 1), shift)

    def _to_mean(self, batch: Batch) -> Tensor:
        """From the centre of each window to the mean position of its group: (B, 2)."""
        own = batch.pixel.unflatten(0, (-1, self.group_size))
        exact = own + batch.fraction.unflatten(0, (-1, self.group_size))
        return (exact.mean(1, keepdim=True) - own).flatten(0, 1).to(batch.fraction.dtype)
