"""File formats of scans: one small module each, found by what a file holds, not by its name.

A module has ``NAME``, ``SUMMARY``, ``recognises``, ``shapes`` and ``read``; adding a format is
writing one and naming it in ``_MODULES``.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ptychoconfig.errors import DataError, UsageError
from ptychodata.contracts import Scan
from ptychodata.formats import npz, tike
from ptychodata.formats.recorded import to_scan
from ptychodata.formats.source import Source, open_source

if TYPE_CHECKING:
    from types import ModuleType

    from ptychoconfig.schema import DataConfig

__all__ = ["Shapes", "formats", "read", "read_shapes", "write"]

_MODULES = (npz, tike)


class Shapes(NamedTuple):
    """What the headers of a scan file tell.

    Args:
        diffraction: (P, N, N).
        probe: (M, N, N), or None.
    """

    diffraction: tuple[int, ...]
    probe: tuple[int, ...] | None


def formats() -> dict[str, str]:
    """Formats that can be read: name → one line."""
    return {module.NAME: module.SUMMARY for module in _MODULES}


def read(
    path: str | os.PathLike[str],
    *,
    options: "DataConfig | None" = None,
    name: str | None = None,
) -> Scan:
    """Read a scan file of any known format.

    Large uncompressed patterns are mapped, not read.  What was inferred, assumed, dropped or
    overridden stands in ``Scan.notes``.

    Args:
        path: the file.
        options: settings that override what the file records (``domain``, ``nphotons``,
            ``probe_power``); subsampling is not applied here.
        name: what to call the scan; by default the file's name without suffixes.

    Raises:
        DataError: the file is missing, broken, ambiguous, or not what its name says.
    """
    with open_source(path) as source:
        recorded = _module_of(source).read(source)
        return to_scan(recorded, options, name or _stem(Path(path)))


def read_shapes(path: str | os.PathLike[str]) -> Shapes:
    """Shapes of patterns and probe, without reading them.

    Raises:
        DataError: as ``read``.
    """
    with open_source(path) as source:
        return Shapes(*_module_of(source).shapes(source))


def write(scan: Scan, path: str | os.PathLike[str]) -> None:
    """Write a scan as canonical NPZ; reading it gives the same scan.

    Raises:
        UsageError: the name does not end in ``.npz``.
        ConfigError: the place is not writable.
    """
    if Path(path).suffix.lower() != ".npz":
        raise UsageError(f"--output: expected a name ending in .npz, found {path}")
    npz.write(scan, path)


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".bz2")
    return Path(name).stem or name


def _module_of(source: Source) -> "ModuleType":
    for module in _MODULES:
        if module.recognises(source):
            return module
    known = "; ".join(formats().values())
    if source.archive is None:
        found = f"something else, which begins with {source.data[:16].tobytes()!r}"
    else:
        found = f"an archive with the keys {', '.join(sorted(source.members)) or '(none)'}"
    raise DataError(
        f"{source.path}: expected one of these formats: {known}; found {found}; "
        "check that this is the scan"
    )
