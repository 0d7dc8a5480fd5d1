"""Constants and formulas that relate the units in which files keep a geometry."""

__all__ = ["ELEMENTARY_CHARGE_C", "HC_EV_M", "object_pixel_m"]

HC_EV_M = 1.239841984e-6
"""Planck's constant times the speed of light, in eV·m (CODATA 2018)."""

ELEMENTARY_CHARGE_C = 1.602176634e-19
"""Joule per electronvolt (SI, exact)."""


def object_pixel_m(
    side: int,
    photon_energy_eV: float,  # noqa: N803 - the unit's symbol
    detector_distance_m: float,
    detector_pixel_m: float,
) -> float:
    """Object pixel dx = λz / (N·Δ) in metres, of the far field on ``side`` = N detector pixels."""
    wavelength_m = HC_EV_M / photon_energy_eV
    return wavelength_m * detector_distance_m / (side * detector_pixel_m)
