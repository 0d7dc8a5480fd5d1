"""The forward model and the losses in Torch: the same names as ``ptychodata.physics``.

That module defines each function, with its equation, shapes and units; this one is held to
vectors recorded from it, values and gradients.  Everything here is differentiable, written once,
and shared by losses, networks and inference.  Physics runs in float32/complex64, outside autocast.

Functions of a detector plane take ``corner``: with ``corner=True`` patterns have DC at ``[0, 0]``
and the transforms leave out all their shifts, which is what the hot loops use.  Waves then differ
from the centred ones by a sign per pixel that no intensity and no update sees.
"""

import torch
from torch import Tensor

__all__ = [
    "EPSILON",
    "amplitude_mae",
    "amplitude_mse",
    "assemble",
    "coverage",
    "exit_waves",
    "extract",
    "far_field",
    "forward",
    "intensity",
    "inverse_far_field",
    "laplacian",
    "network_input",
    "object_update",
    "poisson_deviance",
    "r_factor",
    "shift_object",
    "shift_probe",
    "shift_ramp",
    "split_positions",
]

EPSILON = 1e-3

_PLANE = (-2, -1)


def split_positions(positions_px: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels n = ⌊r + ½⌋ (int64) and fractions f = r − n, each (B, 2)."""
    pixel = torch.floor(positions_px + 0.5)
    return pixel.long(), positions_px - pixel


def far_field(exit_wave: Tensor, corner: bool = False) -> Tensor:
    """ψ = F{exit wave}, orthonormal: (…, N, N) → (…, N, N)."""
    if corner:
        return torch.fft.fft2(exit_wave, norm="ortho")
    centred = torch.fft.fft2(torch.fft.ifftshift(exit_wave, dim=_PLANE), norm="ortho")
    return torch.fft.fftshift(centred, dim=_PLANE)


def inverse_far_field(wave: Tensor, corner: bool = False) -> Tensor:
    """The inverse, and adjoint, of ``far_field``: (…, N, N) → (…, N, N)."""
    if corner:
        return torch.fft.ifft2(wave, norm="ortho")
    centred = torch.fft.ifft2(torch.fft.ifftshift(wave, dim=_PLANE), norm="ortho")
    return torch.fft.fftshift(centred, dim=_PLANE)


def shift_ramp(fraction_px: Tensor, side: int) -> Tensor:
    """What shifts the transform of a probe, e^{−2πi k·f}: (B, 2) shifts → (B, 1, N, N)."""
    k = torch.fft.fftfreq(side, dtype=fraction_px.dtype, device=fraction_px.device)
    angle = -2 * torch.pi * fraction_px[..., None] * k  # (B, 2, N)
    ramp = torch.polar(torch.ones_like(angle), angle)
    return (ramp[:, 0, :, None] * ramp[:, 1, None, :])[:, None]  # separable


def shift_probe(probe: Tensor, fraction_px: Tensor) -> Tensor:
    """(S_f P)(u) = P(u − f): (M, N, N) modes, (B, 2) shifts → (B, M, N, N)."""
    return torch.fft.ifft2(torch.fft.fft2(probe)[None] * shift_ramp(fraction_px, probe.shape[-1]))


def shift_object(patches: Tensor, shift_px: Tensor) -> Tensor:
    """(T_d O)(u) = O(u − d), bilinear: (B, N, N) patches, (B, 2) shifts → (B, N, N)."""
    u = torch.arange(patches.shape[-1], dtype=shift_px.dtype, device=patches.device)
    hat = (1 - ((u[:, None] - u) - shift_px[..., None, None]).abs()).clamp_min(0)  # (B, 2, N, N)
    rows, columns = hat[:, 0], hat[:, 1].mT
    moved = [rows @ part @ columns for part in (patches.real, patches.imag)]
    return torch.complex(*moved)


def window_index(pixel: Tensor, side: int, shape: tuple[int, int]) -> Tensor:
    """Where the windows lie in a flat canvas: (B, 2) centres → (B, N, N) int64.

    Raises:
        IndexError: a window leaves the canvas of ``shape`` (H, W).
    """
    corner = pixel - side // 2
    low, high = corner.amin(0).tolist(), (corner.amax(0) + side).tolist()
    if min(low) < 0 or high[0] > shape[0] or high[1] > shape[1]:
        raise IndexError(f"expected windows inside the object {shape}, found {low} to {high}")
    r = torch.arange(side, device=pixel.device)
    rows = (corner[:, 0, None] + r) * shape[1]
    columns = corner[:, 1, None] + r
    return rows[:, :, None] + columns[:, None, :]


def gather(canvas: Tensor, index: Tensor) -> Tensor:
    """Read the windows ``index`` (B, N, N) from a canvas (H, W)."""
    return canvas.reshape(-1)[index]


def scatter(patches: Tensor, index: Tensor, shape: tuple[int, int]) -> Tensor:
    """Add patches (B, N, N), or (B, N, N, F) fields, into a canvas (H, W) or (H, W, F).

    Adjoint of ``gather``; ``index`` are the windows.
    """
    flat = torch.view_as_real(patches) if patches.is_complex() else patches
    flat = flat.reshape(index.numel(), -1)
    canvas = flat.new_zeros(shape[0] * shape[1], flat.shape[-1])
    canvas = canvas.index_add(0, index.reshape(-1), flat)
    canvas = torch.view_as_complex(canvas) if patches.is_complex() else canvas
    return canvas.view(*shape, *patches.shape[3:])


def add_windows(canvas: Tensor, patches: Tensor, index: Tensor, pixel: Tensor) -> None:
    """Add patches to a canvas in place, as ``scatter`` does.

    On a CPU a slice per patch is three times faster than an indexed sum; elsewhere it is not.

    Args:
        canvas: (H, W) or (H, W, F); changes.
        patches: (B, N, N) or (B, N, N, F), real or complex as the canvas.
        index: (B, N, N) the windows, from ``window_index``.
        pixel: (B, 2) their centres.
    """
    if canvas.device.type != "cpu":
        canvas += scatter(patches.to(canvas), index, (canvas.shape[0], canvas.shape[1]))
        return
    side = patches.shape[1]
    corners = (pixel - side // 2).tolist()
    for patch, (y, x) in zip(patches.unbind(), corners, strict=True):
        canvas.narrow(0, y, side).narrow(1, x, side).add_(patch)


def extract(obj: Tensor, pixel: Tensor, side: int) -> Tensor:
    """Windows O[n] of the object: (H, W), (B, 2) centres → (B, N, N).

    Raises:
        IndexError: a window leaves the object.
    """
    return gather(obj, window_index(pixel, side, (obj.shape[0], obj.shape[1])))


def assemble(patches: Tensor, pixel: Tensor, shape: tuple[int, int]) -> Tensor:
    """Add patches into a canvas, the adjoint of ``extract``: (B, N, N) → (H, W)."""
    return scatter(patches, window_index(pixel, patches.shape[-1], shape), shape)


def laplacian(obj: Tensor) -> Tensor:
    """Sum of differences to the (up to four) neighbours: (…, H, W) → (…, H, W)."""
    rows, columns = obj.diff(dim=-2), obj.diff(dim=-1)
    result = torch.zeros_like(obj)
    result[..., :-1, :] += rows
    result[..., 1:, :] -= rows
    result[..., :-1] += columns
    result[..., 1:] -= columns
    return result


def exit_waves(shifted_probe: Tensor, patches: Tensor) -> Tensor:
    """(S_f P_m) · O[n]: (B, M, N, N) modes, (B, N, N) patches → (B, M, N, N)."""
    return shifted_probe * patches[:, None]


def _power(field: Tensor) -> Tensor:
    """Σ_m |field_m|²: (B, M, N, N) → (B, N, N)."""
    squares = torch.view_as_real(field).square()
    return (squares[..., 0] + squares[..., 1]).sum(1)  # five times faster than one sum over both


def intensity(waves: Tensor, background: Tensor | None = None) -> Tensor:
    """λ = Σ_m |ψ_m|² + b: (B, M, N, N) → (B, N, N)."""
    rate = _power(waves)
    return rate if background is None else rate + background


def forward(
    obj: Tensor, probe: Tensor, positions_px: Tensor, background: Tensor | None = None
) -> Tensor:
    """Expected counts λ, (B, N, N), of an object (H, W) under a probe (M, N, N)."""
    pixel, fraction = split_positions(positions_px)
    patches = extract(obj, pixel, probe.shape[-1])
    shifted = shift_probe(probe, fraction.to(probe.real.dtype))
    return intensity(far_field(exit_waves(shifted, patches)), background)


def object_update(
    patches: Tensor,
    shifted_probe: Tensor,
    counts: Tensor,
    valid: Tensor | None = None,
    background: Tensor | None = None,
    corner: bool = False,
) -> Tensor:
    """The ePIE step of unit length that pattern and probe imply: (B, N, N), dimensionless."""
    waves = far_field(exit_waves(shifted_probe, patches), corner)
    # The root of the quotient would have the gradient 0·∞ where no photon fell.
    factor = torch.sqrt(counts) * torch.rsqrt(intensity(waves, background) + EPSILON) - 1
    factor = factor if valid is None else factor * valid
    back = inverse_far_field(waves * factor[:, None], corner)
    peak = coverage(shifted_probe).amax(_PLANE, keepdim=True)
    return (shifted_probe.conj() * back).sum(1) / peak


def coverage(shifted_probe: Tensor) -> Tensor:
    """Illumination Σ_m |S_f P_m|²: (B, M, N, N) → (B, N, N), photons."""
    return _power(shifted_probe)


def network_input(counts: Tensor, probe: Tensor) -> Tensor:
    """Dimensionless amplitudes √I · (N/2) / √Σ|P|²: (B, N, N)."""
    scale = (counts.shape[-1] / 2) / torch.view_as_real(probe).square().sum().sqrt()
    return counts.sqrt() * scale


def poisson_deviance(
    rate: Tensor, counts: Tensor, mean_photons: float, valid: Tensor | None = None
) -> Tensor:
    """Poisson deviance per pattern over the scan's mean photons, in its stable form."""
    delta = (rate - counts) / (counts + EPSILON)
    return _per_pattern(
        counts * (delta - torch.log1p(delta)) + EPSILON * delta, mean_photons, valid
    )


def amplitude_mse(
    rate: Tensor, counts: Tensor, mean_photons: float, valid: Tensor | None = None
) -> Tensor:
    """Σ w(√(λ+ε) − √n)² per pattern over the scan's mean photons."""
    error = torch.sqrt(rate + EPSILON) - torch.sqrt(counts)
    return _per_pattern(error.square(), mean_photons, valid)


def amplitude_mae(
    rate: Tensor, counts: Tensor, mean_photons: float, valid: Tensor | None = None
) -> Tensor:
    """Σ w|√(λ+ε) − √n| per pattern over √(N² mean photons)."""
    error = (torch.sqrt(rate + EPSILON) - torch.sqrt(counts)).abs()
    return _per_pattern(error, mean_photons**0.5 * counts.shape[-1], valid)


def _per_pattern(error: Tensor, scale: float, valid: Tensor | None) -> Tensor:
    weighted = error if valid is None else error * valid
    return weighted.sum() / (scale * error.shape[0])


def r_factor(rate: Tensor, counts: Tensor, valid: Tensor | None = None) -> Tensor:
    """Residual R = Σ w|√I − √λ| / Σ w√I."""
    amplitude = counts.sqrt()
    error = (amplitude - rate.sqrt()).abs()
    if valid is not None:
        error, amplitude = error * valid, amplitude * valid
    return error.sum() / amplitude.sum()
