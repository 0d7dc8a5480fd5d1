r"""Recorded vectors of the reference physics, which every backend is held to.

A case is one NPZ file of float64 and complex128 arrays, inputs and outputs, so that a backend needs
nothing of this package's to be compared: ``in_*`` are inputs, ``out_<function>`` what that function
of ``ptychodata.physics`` makes of them, ``grad_<input>_<loss>`` gradients of the three losses.
Inputs are exact in float32 too.  ``fixtures/README.md`` lists the keys with their shapes.

Gradients follow the convention dL/dRe z + i dL/dIm z, which is 2 ∂L/∂z*; it is what a step of
descent subtracts and what Torch keeps in ``.grad``.  With λ = Σ|ψ|² they are

.. math::

    \chi_m = F^{-1}\Bigl[2 \psi_m \frac{\partial L}{\partial\lambda}\Bigr], \quad
    \nabla_O L = \sum_j E_j^{T} \sum_m (S_f P_m)^* \chi_m, \quad
    \nabla_{P_m} L = \sum_j S_{-f} \bigl( O[n_j]^* \chi_m \bigr)

with E_j the extraction of window j (P. Thibault & M. Guizar-Sicairos, New J. Phys. 14, 063004
(2012), eq. 13 and 14).
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError

from . import physics

__all__ = ["LOSSES", "case_inputs", "evaluate", "gradients", "load_cases", "record_cases"]

Case = dict[str, NDArray[Any]]

LOSSES = ("poisson_deviance", "amplitude_mse", "amplitude_mae")

_CASES: dict[str, dict[str, Any]] = {
    "one_mode": {"modes": 1, "photons": 1e4},
    "three_modes": {"modes": 3, "photons": 1e5},
    "mask_and_background": {"modes": 2, "photons": 1e4, "mask": "one", "background": 0.5},
    "mask_per_pattern": {"modes": 1, "photons": 1e3, "mask": "each", "background": 0.1},
    "whole_pixels": {"modes": 1, "photons": 1e6, "resolution_px": 1.0},
    "high_dose": {"modes": 1, "photons": 1e9},
    "low_dose": {"modes": 2, "photons": 20.0},
    "larger": {"modes": 1, "photons": 1e6, "background": 1.0, "side": 32, "patterns": 1},
}


def case_inputs(
    seed: int,
    *,
    modes: int,
    photons: float,
    side: int = 12,
    patterns: int = 3,
    resolution_px: float = 2.0**-10,
    mask: str | None = None,
    background: float = 0.0,
) -> Case:
    """Draw the inputs of a case: counts of one object, and another object to explain them with.

    Args:
        seed: of every draw.
        modes: M.
        photons: mean of Σ counts.
        side: N.
        patterns: B.
        resolution_px: positions are multiples of this.
        mask: ``one`` for all patterns, ``each`` its own, or None.
        background: scale of the expected background counts per pixel.
    """
    rng = np.random.default_rng(seed)
    shape = (side + 7, side + 11)  # neither square nor symmetric
    low = np.full(2, side // 2)
    positions = low + rng.uniform(0, np.array(shape) - side - 0.51, size=(patterns, 2))
    probe = _smooth(rng, (modes, side, side)) * 0.6 ** np.arange(modes)[:, None, None]
    probe *= np.sqrt(photons / np.sum(np.abs(probe) ** 2))
    inputs = {
        "in_positions_px": np.round(positions / resolution_px) * resolution_px,
        "in_probe": probe,
        "in_patches": rng.normal(size=(patterns, side, side, 2)) @ [1, 1j],
        "in_obj": 1 + 0.5 * _smooth(rng, shape),
    }
    if background:
        inputs["in_background"] = background * rng.uniform(0.5, 1.5, size=(side, side))
    inputs = {name: _rounded(value) for name, value in inputs.items()}
    other = inputs["in_obj"] + 0.3 * _smooth(rng, shape)
    rate = physics.forward(other, probe, inputs["in_positions_px"], inputs.get("in_background"))
    counts = _rounded(rng.poisson(rate).astype(np.float64))
    if mask is not None:
        whole = (side, side) if mask == "one" else counts.shape
        inputs["in_valid"] = (rng.random(whole) > 0.1).astype(np.float64)
        counts = np.where(inputs["in_valid"] > 0, counts, _rounded(np.full(counts.shape, 1e6)))
    photons_seen = np.sum(counts * inputs.get("in_valid", 1.0), axis=(1, 2))
    return inputs | {"in_counts": counts, "in_mean_photons": _rounded(photons_seen.mean())}


def _smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex128]:
    """A random complex field of low spatial frequencies, of modulus 1 in the mean square."""
    noise = rng.normal(size=(*shape, 2)) @ [1, 1j]
    k = [np.fft.fftfreq(side) for side in shape[-2:]]
    filtered = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-60 * (k[0][:, None] ** 2 + k[1] ** 2)))
    return np.asarray(filtered / np.sqrt(np.mean(np.abs(filtered) ** 2)))


def _rounded(value: Any) -> NDArray[Any]:
    """The nearest number that float32 can hold, as float64."""
    single, double = (
        (np.complex64, np.complex128) if np.iscomplexobj(value) else (np.float32, np.float64)
    )
    return np.asarray(value, dtype=single).astype(double)


def evaluate(inputs: Mapping[str, NDArray[Any]]) -> Case:
    """Every function of the reference physics, and the gradients of the losses, on a case."""
    obj, probe, positions = inputs["in_obj"], inputs["in_probe"], inputs["in_positions_px"]
    counts, mean_photons = inputs["in_counts"], float(inputs["in_mean_photons"])
    valid, background = inputs.get("in_valid"), inputs.get("in_background")
    pixel, fraction = physics.split_positions(positions)
    shifted = physics.shift_probe(probe, fraction)
    windows = physics.extract(obj, pixel, probe.shape[-1])
    exits = physics.exit_waves(shifted, windows)
    waves = physics.far_field(exits)
    rate = physics.forward(obj, probe, positions, background)
    out: dict[str, Any] = {
        "pixel": pixel,
        "fraction": fraction,
        "shift_probe": shifted,
        "shift_object": physics.shift_object(inputs["in_patches"], fraction),
        "extract": windows,
        "assemble": physics.assemble(inputs["in_patches"], pixel, obj.shape),
        "laplacian": physics.laplacian(inputs["in_patches"]),
        "exit_waves": exits,
        "far_field": waves,
        "inverse_far_field": physics.inverse_far_field(inputs["in_patches"]),
        "intensity": physics.intensity(waves, background),
        "forward": rate,
        "object_update": physics.object_update(windows, shifted, counts, valid, background),
        "coverage": physics.coverage(shifted),
        "network_input": physics.network_input(counts, probe),
        "r_factor": physics.r_factor(rate, counts, valid),
    }
    for loss in LOSSES:
        out[loss] = getattr(physics, loss)(rate, counts, mean_photons, valid)
    case = {f"out_{name}": np.asarray(value) for name, value in out.items()}
    for loss in LOSSES:
        case[f"grad_obj_{loss}"], case[f"grad_probe_{loss}"] = gradients(inputs, loss)
    return case


def _slopes(loss: str, rate: NDArray[Any], counts: NDArray[Any], mean: float) -> NDArray[Any]:
    """∂L/∂λ of each pixel, without its weight: (B, N, N)."""
    root = np.sqrt(rate + physics.EPSILON)
    mae_scale = np.sqrt(mean) * counts.shape[-1]
    slopes: dict[str, Callable[[], NDArray[Any]]] = {
        "poisson_deviance": lambda: (1 - counts / root**2) / mean,
        "amplitude_mse": lambda: (1 - np.sqrt(counts) / root) / mean,
        "amplitude_mae": lambda: np.sign(root - np.sqrt(counts)) / (2 * root) / mae_scale,
    }
    return slopes[loss]() / len(counts)


def gradients(
    inputs: Mapping[str, NDArray[Any]], loss: str
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Gradients of a loss with respect to object (H, W) and probe (M, N, N).

    Args:
        inputs: the ``in_*`` arrays of a case.
        loss: one of ``LOSSES``.
    """
    obj, probe = inputs["in_obj"], inputs["in_probe"]
    pixel, fraction = physics.split_positions(inputs["in_positions_px"])
    shifted = physics.shift_probe(probe, fraction)
    windows = physics.extract(obj, pixel, probe.shape[-1])
    waves = physics.far_field(physics.exit_waves(shifted, windows))
    rate = physics.intensity(waves, inputs.get("in_background"))
    slope = _slopes(loss, rate, inputs["in_counts"], float(inputs["in_mean_photons"]))
    slope = slope * inputs.get("in_valid", np.ones(1))
    chi = physics.inverse_far_field(2 * waves * slope[:, None])
    to_obj = physics.assemble(np.sum(shifted.conj() * chi, axis=1), pixel, obj.shape)
    to_probe = windows[:, None].conj() * chi  # (B, M, N, N)
    back = [
        physics.shift_probe(one, -f[None])[0] for one, f in zip(to_probe, fraction, strict=True)
    ]
    return to_obj, np.sum(back, axis=0)


def record_cases(folder: str | os.PathLike[str]) -> None:
    """Draw every case anew and write it to ``folder``, one NPZ each."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for seed, (name, settings) in enumerate(_CASES.items()):
        inputs = case_inputs(seed, **settings)
        arrays: dict[str, Any] = inputs | evaluate(inputs)
        np.savez_compressed(Path(folder) / f"{name}.npz", **arrays)


def load_cases(folder: str | os.PathLike[str]) -> dict[str, Case]:
    """Read recorded cases: name → key → array.

    Raises:
        DataError: the folder holds no cases.
    """
    cases = {}
    for path in sorted(Path(folder).glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            cases[path.stem] = {key: file[key] for key in file.files}
    if not cases:
        raise DataError(
            f"{folder}: expected recorded cases, *.npz, found none; "
            "record them with ptychodata.golden.record_cases"
        )
    return cases
