"""Fixtures: small scans cut out of large ones, and the sidecars that say how and vouch for them.

A fixture is a canonical NPZ of patterns spread over the whole source: pattern i is pattern
floor(i · n / size) of the source's n, and one index vector picks every per-pattern array.  Patterns
are float32 amplitudes (√counts), probe and object complex64, positions float64.  The file is the
same bytes on every run; its sidecar, JSON of the same name, holds its SHA-256.
"""

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ptychodata
from ptychoconfig.errors import ConfigError, DataError, UsageError
from ptychoconfig.schema import DataConfig

from .contracts import Scan
from .files import atomic_path, dump_json, parse_json, sha256_of
from .formats import read, write
from .pairing import Pairing, pairing_of

__all__ = [
    "MIN_SUBSET",
    "SIDECAR_FIELDS",
    "make_fixture",
    "sidecar_of",
    "stratified_index",
    "verify_fixture",
    "verify_sidecar",
]

MIN_SUBSET = 16
"""Fewest patterns of a fixture."""

SIDECAR_FIELDS = (
    "version",
    "created",
    "generator_script",
    "generator_commit",
    "source_dataset",
    "subset_strategy",
    "subset_size",
    "transformations",
    "sha256_checksum",
)
"""What every sidecar has; ours also has the versions, what was checked, and the source's hash."""

_VERSION = "1.0"
_LEAST_COVERAGE = 0.5
_STRATEGY = (
    "stratified: pattern i is pattern floor(i * source_patterns / subset_size) of the source"
)
_PER_PATTERN = ("diffraction", "positions_px", "true_positions_px", "scan_index", "mask")

Index = NDArray[np.int64]


def stratified_index(count: int, size: int) -> Index:
    """floor(i · count / size) for i = 0 … size − 1: (size,) int64, spread over the scan.

    Raises:
        ConfigError: there are fewer patterns than are asked for.
    """
    if not MIN_SUBSET <= size <= count:
        raise ConfigError(
            f"--subset-size: expected {MIN_SUBSET} to {count} patterns, as the source has, "
            f"found {size}"
        )
    return np.arange(size, dtype=np.int64) * count // size


def sidecar_of(path: Path) -> Path:
    """Where the sidecar of a fixture lies unless told otherwise: ``scan.npz`` → ``scan.json``."""
    return path.with_suffix(".json")


def make_fixture(
    source: Path,
    target: Path,
    size: int,
    *,
    options: DataConfig | None = None,
    sidecar: Path | None = None,
) -> dict[str, Any]:
    """Cut a fixture out of a scan file, check it, and write it with its sidecar.

    Args:
        source: scan file of any known format.
        target: NPZ file to write.
        size: patterns to keep, at least 16.
        options: how the numbers in the source are to be understood.
        sidecar: JSON file to write; by default beside the target.

    Returns:
        What the sidecar holds.

    Raises:
        DataError: the source is no scan, its patterns do not belong to its positions, or the
            subset covers half of its extent or less along an axis.
        ConfigError: it has too few patterns, or the place is not writable.
        UsageError: the target is no ``.npz``.
    """
    if target.suffix.lower() != ".npz":
        raise UsageError(f"{target}: expected a fixture's name ending in .npz, found this one")
    scan = read(source, options=options)
    index = stratified_index(len(scan), size)
    origin = {"source": source.name, "source_sha256": sha256_of(source), "subset": _STRATEGY}
    fixture = replace(_canonical(scan, index), provenance={**scan.provenance, "fixture": origin})
    record = _spans(scan, fixture)
    pairing = _paired(source, scan, index)
    write(fixture, target, "npz")
    _compare(target, read(target), scan, index)
    record |= _who(options) | {
        "source_dataset": source.name,
        "source_sha256": origin["source_sha256"],
        "source_patterns": len(scan),
        "subset_strategy": _STRATEGY,
        "subset_size": size,
        "transformations": _transformations(scan, size),
        "sha256_checksum": sha256_of(target),
        "pairing": pairing.as_dict(),
        "validation_notes": _validation_notes(pairing),
    }
    with atomic_path(sidecar or sidecar_of(target)) as temporary:
        temporary.write_text(dump_json(record), encoding="utf-8")
    return record


def _canonical(scan: Scan, index: Index) -> Scan:
    """The patterns ``index`` as float32 amplitudes; the object, the probe and the rest follow."""
    return replace(
        scan.subset(index),
        diffraction=scan.amplitude(index),
        domain="amplitude",
        intensity_scale=1.0 if scan.has_dose else None,
    )


def _transformations(scan: Scan, size: int) -> list[str]:
    """What was done to the source's arrays, in order."""
    return [
        *scan.notes,
        f"kept {size} of {len(scan)} patterns; one index vector for every per-pattern array",
        f"patterns: {scan.domain} in {scan.diffraction.dtype} -> amplitude (sqrt of counts), "
        "float32, axes (pattern, y, x)",
        "probe and object: complex64; positions: float64, object pixels, (y, x)",
    ]


def _spans(scan: Scan, fixture: Scan) -> dict[str, Any]:
    """Extent of source and fixture along y and x, and what share the fixture covers."""
    whole, part = (np.ptp(s.positions_px, axis=0) for s in (scan, fixture))
    covered = np.divide(part, whole, out=np.ones(2), where=whole > 0)
    for axis, share in zip("yx", covered, strict=True):
        if not share > _LEAST_COVERAGE:
            raise DataError(
                f"{scan.name}: expected a subset that covers more than {_LEAST_COVERAGE:.0%} of "
                f"the positions along {axis}, found {share:.1%} with {len(fixture)} of {len(scan)} "
                "patterns; the subset keeps step with the scan's rows: try another --subset-size"
            )
    return {
        "source_span_yx_px": whole.tolist(),
        "span_yx_px": part.tolist(),
        "coverage_yx": [round(share, 4) for share in covered.tolist()],
    }


def _paired(path: Path, scan: Scan, index: Index) -> Pairing:
    pairing = pairing_of(scan, index)
    if not pairing.holds:
        raise DataError(
            f"{path}: expected each pattern to belong to its position, found them no liker than by "
            f"chance ({pairing.method}: likeness {pairing.likeness:.3f}, {pairing.shuffled:.3f} if "
            f"moved, {pairing.placed:.0%} in place); check that patterns and positions are in one "
            "order, and that there are photons enough to tell"
        )
    return pairing


def _validation_notes(pairing: Pairing) -> str:
    against = (
        "the forward model of the known object"
        if pairing.method == "forward"
        else "the patterns measured nearest to them"
    )
    return (
        f"{pairing.n_patterns} patterns agree with {against} better than under 99 shuffles; every "
        "per-pattern array was read back and equals the source's at the index."
    )


def _who(options: DataConfig | None) -> dict[str, Any]:
    """When, with what, and how the source was read."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)
    return {
        "version": _VERSION,
        "created": now.isoformat(timespec="seconds"),
        "generator_script": "ptycho make-fixture",
        "generator_commit": _commit(),
        "versions": {
            "ptycho-data": ptychodata.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "data_settings": {} if options is None else options.model_dump(exclude_defaults=True),
    }


def _commit() -> str | None:
    """The commit of the checkout that this package runs from; None if it is installed."""
    command = ("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _compare(path: Path, fixture: Scan, scan: Scan, index: Index) -> None:
    """Hold what was written against the source, array by array."""
    expected = _canonical(scan, index)
    for name in (*_PER_PATTERN, "probe", "truth", "background"):
        ours, theirs = getattr(fixture, name), getattr(expected, name)
        same = ours is theirs is None or np.array_equal(ours, theirs)
        if not same:
            raise DataError(
                f"{path}: expected {name} to be the source's at the patterns of the subset, found "
                "it different; make the fixture again"
            )


def verify_sidecar(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Hold a file against the SHA-256 in the sidecar beside it.

    Returns:
        A note that they agree; nothing if there is no sidecar.

    Raises:
        DataError: they differ.
    """
    sidecar = sidecar_of(Path(path))
    if sidecar == Path(path) or not sidecar.is_file():
        return ()
    try:
        record = parse_json(sidecar.read_bytes())
    except (OSError, ValueError):
        return ()  # some other JSON is no concern of ours
    expected = record.get("sha256_checksum") if isinstance(record, dict) else None
    if not isinstance(expected, str):
        return ()
    _check_sum(Path(path), sidecar, expected)
    return (f"the SHA-256 agrees with the sidecar {sidecar.name}.",)


def _check_sum(path: Path, sidecar: Path, expected: str) -> None:
    if (found := sha256_of(path)) != expected:
        raise DataError(
            f"{path}: expected the SHA-256 {expected} that {sidecar.name} records, found {found}; "
            "the file has changed: restore it, or make it anew with ptycho make-fixture"
        )


def verify_fixture(
    path: Path, *, source: Path | None = None, sidecar: Path | None = None
) -> dict[str, Any]:
    """Check an existing fixture again, against its sidecar, itself and, if given, its source.

    Returns:
        What the sidecar holds, with ``pairing`` as found now.

    Raises:
        DataError: a check fails.
    """
    record, where = _record(path, sidecar)
    _check_sum(path, where, str(record["sha256_checksum"]))
    fixture = read(path)
    try:
        wrong = list(_contradictions(fixture, record))
        settings = DataConfig.model_validate(record.get("data_settings", {}))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: expected what make-fixture writes, found a field of another kind ({error}); "
            "make the fixture anew"
        ) from error
    if wrong:
        raise DataError(f"{where}: {'; '.join(wrong)}; make the fixture anew")
    if source is not None:
        return {**record, **_against_source(path, fixture, source, settings, record)}
    if fixture.probe is not None and fixture.truth is not None:
        found = _paired(path, fixture, np.arange(len(fixture), dtype=np.int64))
        return {**record, "pairing": found.as_dict()}
    return record  # neighbours are too far apart in a subset: what was found with the source holds


def _record(path: Path, sidecar: Path | None) -> tuple[dict[str, Any], Path]:
    where = sidecar or sidecar_of(path)
    try:
        record = parse_json(where.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{where}: expected the sidecar of {path}, found none that can be read ({error}); name "
            "it with --metadata-out"
        ) from error
    needed = {*SIDECAR_FIELDS, "span_yx_px", "source_span_yx_px", "source_patterns", "pairing"}
    missing = sorted(needed - record.keys()) if isinstance(record, dict) else sorted(needed)
    if missing:
        raise DataError(
            f"{where}: expected the fields of a fixture's sidecar, found no {', '.join(missing)}; "
            "make the fixture anew"
        )
    return record, where


def _contradictions(fixture: Scan, record: Mapping[str, Any]) -> Iterator[str]:
    """What the fixture or its sidecar lacks, each as ``expected …, found …``."""
    count, span = len(fixture), np.ptp(fixture.positions_px, axis=0)
    if record["subset_size"] != count or count < MIN_SUBSET:
        yield f"expected {record['subset_size']} patterns, at least {MIN_SUBSET}, found {count}"
    if fixture.diffraction.dtype != np.float32 or fixture.domain != "amplitude":
        yield f"expected float32 amplitudes, found {fixture.domain} in {fixture.diffraction.dtype}"
    if not np.allclose(span, np.asarray(record["span_yx_px"], dtype=np.float64)):
        yield f"expected positions spanning {record['span_yx_px']} px, found {span.tolist()}"
    whole = np.asarray(record["source_span_yx_px"], dtype=np.float64)
    if not (span > _LEAST_COVERAGE * whole)[whole > 0].all():
        yield f"expected positions over half of {whole.tolist()} px, found {span.tolist()}"
    paths = [text for text in _texts(record) if Path(text).is_absolute() or ":\\" in text]
    if paths:
        yield f"expected no absolute paths, found {paths}"


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _against_source(
    path: Path, fixture: Scan, source: Path, settings: DataConfig, record: Mapping[str, Any]
) -> dict[str, Any]:
    if (found := sha256_of(source)) != record.get("source_sha256"):
        raise DataError(
            f"{source}: expected the source of {path}, whose SHA-256 is "
            f"{record.get('source_sha256')}, found {found}; give that file"
        )
    scan = read(source, options=settings)
    index = stratified_index(len(scan), len(fixture))
    _compare(path, fixture, scan, index)
    return {"pairing": _paired(source, scan, index).as_dict()}
