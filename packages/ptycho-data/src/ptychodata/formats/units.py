"""Constants and formulas that relate the units in which files keep a geometry."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptychodata.formats.tree import Tree

__all__ = [
    "ELEMENTARY_CHARGE_C",
    "HC_EV_M",
    "energy_eV_of_joule",
    "object_pixel_m",
    "unit_scale",
]

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


_SCALES = {
    **{"m": 1.0, "meter": 1.0, "metre": 1.0, "mm": 1e-3, "cm": 1e-2, "nm": 1e-9, "pm": 1e-12},
    **{"um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6, "microns": 1e-6, "angstrom": 1e-10},
    **{"ev": 1.0, "kev": 1e3, "mev": 1e6, "j": 1 / ELEMENTARY_CHARGE_C},
    **{"joule": 1 / ELEMENTARY_CHARGE_C, "joules": 1 / ELEMENTARY_CHARGE_C},
}
"""Unit in lower case → its size in m or eV."""


def unit_scale(tree: "Tree", key: str, default: str) -> float:
    """Size in metres or electronvolts of the unit that the attribute ``units`` of ``key`` names.

    Args:
        tree: the file.
        key: array with the attribute.
        default: unit where there is no attribute.

    Raises:
        DataError: the unit is unknown.
    """
    unit = tree.text(key, "units") or default
    scale = _SCALES.get(unit.strip().lower().rstrip("."))
    if scale is None:
        raise tree.refuse(f"{key}@units", "a unit such as m, um, eV or J", unit, "correct it")
    return scale


def energy_eV_of_joule(value: float) -> tuple[float, str | None]:  # noqa: N802 - the unit
    """A photon energy that a file should hold in joule, in eV; above 10⁻¹² it was eV, says a note.

    10⁻¹² J are 6 MeV, beyond any ptychography, and the visible begins at 1 eV.
    """
    if value > 1e-12:
        return value, f"the energy {value:g} cannot be in joule: taken as eV."
    return value / ELEMENTARY_CHARGE_C, None
