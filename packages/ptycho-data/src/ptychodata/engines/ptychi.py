"""pty-chi, an independent engine, on the same ``Scan``: a check that users trust, and a clock.

pty-chi (PyPI ``ptychi``, Apache-2.0) brings packages that do not live beside ours, so it runs in
an interpreter of its own.  Arrays go there and come back as NPZ; ``scripts/ptychi_worker.py`` is
what runs there.

INPUT: ``counts`` (K, N, N) float32 of the patterns to learn from, DC in the middle, background
taken off; ``valid`` (N, N) bool; ``probe`` (M, N, N) complex64 in √photons; ``object`` (H, W)
complex64; ``positions_px`` (K, 2) relative to a pixel near the object's middle; ``settings``, JSON.

OUTPUT: ``object``, ``positions_px``, ``probe`` (V, M, N, N), ``opr_weights`` (K, V), ``loss``,
``wall_s`` and ``cpu_s`` (E,) after each epoch, ``snapshots`` (S, H, W) after the epochs
``snapshot_epochs``, ``peak_bytes``, ``versions``.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import ConfigError, NumericalError
from ptychodata import physics
from ptychodata.contracts import Reconstruction, Scan
from ptychodata.engines.process import Epoch, Process, find_python
from ptychodata.solving import SolverPlan

__all__ = ["PtychiResult", "PtychiSettings", "run_ptychi"]


@dataclass(frozen=True)
class PtychiSettings:
    """What pty-chi is asked to do.

    Args:
        algorithm: ``lsqml``, ``rpie``, ``epie`` or ``dm``.
        epochs: most passes over the patterns.
        batch_size: patterns per update; in ``dm``, which takes all, patterns computed together.
        opr_modes: orthogonal relaxation modes, the main one included (``lsqml``, ``rpie``).
        refine_probe, refine_positions: whether these are solved for, too.
        max_time_s: no epoch begins after this time.
        seed: of batches and of added modes.
        threads: of the arithmetic; None leaves it to Torch.
        device: ``cpu``, ``gpu``, or ``auto`` for a GPU where there is one.
        keep_every: keep the object after every so many epochs; 0 keeps the last alone.
        options: any other option of pty-chi, by its dotted name, such as
            ``object_options.alpha``.
    """

    algorithm: Literal["lsqml", "rpie", "epie", "dm"] = "lsqml"
    epochs: int = 100
    batch_size: int = 32
    opr_modes: int = 1
    refine_probe: bool = True
    refine_positions: bool = False
    max_time_s: float | None = None
    seed: int = 0
    threads: int | None = None
    device: Literal["auto", "cpu", "gpu"] = "auto"
    keep_every: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PtychiResult:
    """A reconstruction by pty-chi in our conventions, and how it was reached.

    Args:
        reconstruction: object and probe; a solved probe has the power that it started with.
        opr_modes: (V − 1, N, N) complex64 modes that the first one is varied by.
        opr_weights: (K, V) float32 how much of each in every pattern that was learned from.
        loss: (E,) after each epoch, R of the batches before their updates; in ``dm`` its error.
        wall_s, cpu_s: (E,) seconds since the first epoch began; loading is left out.
        snapshots: (S, H, W) complex64 objects after the epochs ``snapshot_epochs``, (S,).
        peak_bytes: largest memory of the process, 0 if unknown.
        versions: of pty-chi and Torch.
        notes: what had to be changed for pty-chi, one sentence each.
    """

    reconstruction: Reconstruction
    opr_modes: NDArray[np.complex64]
    opr_weights: NDArray[np.float32]
    loss: NDArray[np.float64]
    wall_s: NDArray[np.float64]
    cpu_s: NDArray[np.float64]
    snapshots: NDArray[np.complex64]
    snapshot_epochs: NDArray[np.int64]
    peak_bytes: int
    versions: Mapping[str, str]
    notes: tuple[str, ...]


def run_ptychi(
    scan: Scan,
    plan: SolverPlan,
    settings: PtychiSettings,
    *,
    python: str | None = None,
    report: Callable[[Epoch], None] = lambda epoch: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> PtychiResult:
    """Reconstruct a scan with pty-chi.

    Args:
        scan: the patterns.
        plan: object, probe and positions to start from, and the patterns to learn from.
        settings: what pty-chi is asked to do.
        python: interpreter that has pty-chi; default the one that the environment names.
        report: called after every epoch with ``epoch``, ``loss``, ``wall_s`` and ``cpu_s``.
        should_stop: once True, the run ends after the epoch and returns what it has.

    Raises:
        BackendError: no interpreter, it lacks pty-chi, or the process failed or went silent.
        ConfigError: pty-chi cannot do what was asked.
        NumericalError: the reconstruction is not finite.
    """
    python = find_python(python)
    if settings.opr_modes > 1 and settings.algorithm not in ("lsqml", "rpie"):
        raise ConfigError(
            "--engine pty-chi: expected --engine-algorithm lsqml or rpie with --variable-modes, "
            f"found {settings.algorithm}"
        )
    middle = np.array(plan.obj.shape) // 2  # positions near 0 keep their fractions in float32
    arrays, notes = _inputs(scan, plan.kept)
    told = asdict(settings) | {"origin_px": (middle - 0.5).tolist()}
    arrays |= {
        "probe": plan.probe,
        "object": plan.obj,
        "positions_px": plan.positions_px[plan.kept] - middle,
        "settings": np.array(json.dumps(told)),
    }
    with tempfile.TemporaryDirectory(prefix="ptycho-") as folder:
        np.savez(Path(folder) / "input.npz", allow_pickle=False, **arrays)
        del arrays
        found = Process(python, Path(folder), settings.max_time_s).run(report, should_stop)
    found["positions_px"] = found["positions_px"] + middle
    return _result(scan, plan, settings, found, tuple(notes))


def _inputs(scan: Scan, kept: NDArray[np.int64]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Patterns and mask as pty-chi takes them, and what was changed."""
    counts, notes = scan.counts(kept), []
    valid: Any = scan.valid(kept)
    if scan.background is not None:
        np.maximum(counts - scan.background, 0, out=counts)
        notes.append("pty-chi has no background: it was taken off the patterns, negatives set to 0")
    if valid is None:
        valid = np.ones(counts.shape[1:], dtype=np.bool_)
    elif valid.ndim == 3:
        valid = valid.all(axis=0)
        notes.append("pty-chi has one mask: pixels masked in any pattern are masked in all")
    return {"counts": counts, "valid": valid}, notes


def _result(
    scan: Scan,
    plan: SolverPlan,
    settings: PtychiSettings,
    found: dict[str, NDArray[Any]],
    notes: tuple[str, ...],
) -> PtychiResult:
    """In our conventions: a solved probe is brought back to its power, the object along."""
    obj, probe = found["object"], found["probe"]
    if not all(np.isfinite(values).all() for values in (obj, probe, found["loss"])):
        raise NumericalError(
            f"{scan.name}: expected a finite object from pty-chi, found NaN or infinity after "
            f"{len(found['loss'])} epochs; check the scan with `ptycho inspect`, or take another "
            "--engine-algorithm"
        )
    positions = plan.positions_px.copy()
    positions[plan.kept] = found["positions_px"]
    corner = physics.split_positions(positions)[0] - scan.N // 2
    if (corner < 0).any() or (corner + scan.N > obj.shape).any():
        raise NumericalError(
            f"{scan.name}: expected pty-chi to keep the positions on the object, found some beyond "
            "its edge; leave out --refine-positions"
        )
    factor = _power_factor(probe[0], plan.probe) if settings.refine_probe else 1.0
    modes = (probe * np.float32(factor)).astype(np.complex64)
    obj = (obj / np.float32(factor)).astype(np.complex64)
    return PtychiResult(
        reconstruction=Reconstruction(
            obj=obj,
            coverage=_coverage(modes[0], corner, obj.shape),
            origin_yx_px=plan.origin_yx_px,
            positions_px=positions + plan.origin_yx_px,
            probe=modes[0],
            pixel_size_m=scan.object_pixel_m,
            probe_source="solved" if settings.refine_probe else plan.probe_source,
        ),
        opr_modes=modes[1:, 0],
        opr_weights=found["opr_weights"].astype(np.float32),
        loss=found["loss"],
        wall_s=found["wall_s"],
        cpu_s=found["cpu_s"],
        snapshots=(found["snapshots"] / np.float32(factor)).astype(np.complex64),
        snapshot_epochs=found["snapshot_epochs"].astype(np.int64),
        peak_bytes=int(found["peak_bytes"]),
        versions=json.loads(str(found["versions"])),
        notes=notes,
    )


def _power_factor(probe: NDArray[Any], start: NDArray[Any]) -> float:
    """What brings a probe, (M, N, N), to the power of the one that it started from."""
    power, wanted = (
        float(np.sum(np.abs(modes.astype(np.complex128)) ** 2)) for modes in (probe, start)
    )
    if not power > 0:
        raise NumericalError(f"expected a probe with power above 0 from pty-chi, found {power}")
    return float(np.sqrt(wanted / power))


def _coverage(
    probe: NDArray[np.complex64], corner: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Illumination Σ_j Σ_m |P_m|² over its maximum, to the pixel: (H, W)."""
    power = np.sum(np.abs(probe) ** 2, axis=0, dtype=np.float64)
    total = np.zeros(shape)
    side = power.shape[-1]
    for y, x in corner:
        total[y : y + side, x : x + side] += power
    return np.asarray(total / total.max(), dtype=np.float32)
