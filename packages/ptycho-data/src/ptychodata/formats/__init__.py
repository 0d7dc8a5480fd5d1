"""File formats of scans: one small module each, found by what a file holds, not by its name.

A module has ``NAME``, ``SUMMARY``, ``recognises``, ``shapes`` and ``read``; one that can write has
``SUFFIXES``, which stand for it where no format is named, and ``write``.  A format of two files has
``partner``, which finds the other of a given one, and ``companions``, which names those that are
written besides.  Adding a format is writing one and naming it in ``_MODULES``.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ptychoconfig.errors import DataError, UsageError
from ptychodata.contracts import Scan
from ptychodata.formats import (
    cxi,
    foldslice,
    npz,
    nxcxi,
    ptychodus,
    ptychovit,
    ptyd,
    ptylab,
    tike,
)
from ptychodata.formats.recorded import to_scan
from ptychodata.formats.source import Source, open_source

if TYPE_CHECKING:
    from types import ModuleType

    from ptychoconfig.schema import DataConfig

__all__ = ["Shapes", "formats", "inputs", "outputs", "read", "read_shapes", "writable", "write"]

_MODULES = (npz, tike, ptychodus, ptychovit, nxcxi, cxi, ptyd, ptylab, foldslice)


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


def writable() -> dict[str, str]:
    """Formats that can be written: name → one line."""
    return {module.NAME: module.SUMMARY for module in _MODULES if hasattr(module, "write")}


def read(
    path: str | os.PathLike[str],
    *,
    options: "DataConfig | None" = None,
    name: str | None = None,
) -> Scan:
    """Read a scan file of any known format.

    Large patterns are mapped, or read when asked for.  What was inferred, assumed, dropped or
    overridden stands in ``Scan.notes``.

    Args:
        path: the file.
        options: settings that override what the file records, and how its frames lie;
            subsampling is not applied here.
        name: what to call the scan; by default the file's name without suffixes.

    Raises:
        DataError: the file is missing, broken, ambiguous, or not what its name says.
        ConfigError: the patterns cannot be cropped or binned as asked.
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


def inputs(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The files that ``read`` reads: the given one, and the other of a pair.

    Raises:
        DataError: as ``read``.
    """
    with open_source(path) as source:
        module = _module_of(source)
        other = module.partner(source) if hasattr(module, "partner") else None
    return (Path(path),) if other is None else (Path(path), other)


def write(scan: Scan, path: str | os.PathLike[str], format: str | None = None) -> tuple[str, ...]:
    """Write a scan; reading it gives the same scan, as far as the format can hold it.

    Args:
        scan: the scan.
        path: file to write.
        format: one of ``writable()``; by default the one that the suffix of ``path`` stands for.

    Returns:
        What was assumed or dropped, one sentence each.

    Raises:
        UsageError: there is no such format, or the suffix tells none.
        DataError: the scan lacks what the format cannot be without.
        ConfigError: the place is not writable.
    """
    notes: tuple[str, ...] = _writer(Path(path), format).write(scan, Path(path))
    return notes


def outputs(path: str | os.PathLike[str], format: str | None = None) -> tuple[Path, ...]:
    """The files that ``write`` would write.

    Raises:
        UsageError: as ``write``.
    """
    module = _writer(Path(path), format)
    more = module.companions(Path(path)) if hasattr(module, "companions") else ()
    return (Path(path), *more)


def _writer(path: Path, name: str | None) -> "ModuleType":
    able = [module for module in _MODULES if hasattr(module, "write")]
    for module in able:
        if name == module.NAME or (name is None and path.suffix.lower() in module.SUFFIXES):
            return module
    known = ", ".join(module.NAME for module in able)
    if name is None:
        suffixes = " or ".join(suffix for module in able for suffix in module.SUFFIXES)
        raise UsageError(
            f"--output: expected a name ending in {suffixes}, or a format named with --format "
            f"({known}), found {path}"
        )
    raise UsageError(f"--format: expected one of {known}, found {name!r}")


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".bz2")
    return Path(name).stem or name


def _module_of(source: Source) -> "ModuleType":
    for module in _MODULES:
        if module.recognises(source):
            return module
    known = "; ".join(formats().values())
    if source.tree is None:
        found = f"something else, which begins with {source.data[:16].tobytes()!r}"
    else:
        kind = "an archive" if source.hdf5 is None else "an HDF5 file"
        found = f"{kind} with the keys {', '.join(sorted(source.tree.names())[:30]) or '(none)'}"
    raise DataError(
        f"{source.path}: expected one of these formats: {known}; found {found}; "
        "check that this is the scan"
    )
