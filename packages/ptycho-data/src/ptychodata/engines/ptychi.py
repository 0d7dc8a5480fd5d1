"""pty-chi, an independent engine, on the same ``Scan``: a check that users trust, and a clock.

pty-chi (PyPI ``ptychi``, Apache-2.0) brings packages that do not live beside ours, so it runs in
an interpreter of its own.  Arrays go there and come back as NPZ; ``scripts/ptychi_worker.py`` is
what runs there.

INPUT: ``counts`` (P, N, N) float32, DC in the middle, background taken off; ``valid`` (N, N)
bool; ``probe`` (M, N, N) complex64 in √photons; ``object`` (H, W) complex64; ``positions_px``
(P, 2) relative to a pixel near the object's middle; ``settings``, JSON.

OUTPUT: ``object``, ``positions_px``, ``probe`` (K, M, N, N), ``opr_weights`` (P, K), ``loss``,
``wall_s`` and ``cpu_s`` (E,) after each epoch, ``snapshots`` (S, H, W) after the epochs
``snapshot_epochs``, ``peak_bytes``, ``versions``.
"""

import json
import os
import queue
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import BackendError, ConfigError, NumericalError
from ptychodata import physics
from ptychodata.contracts import Reconstruction, Scan
from ptychodata.stitching import plan_canvas

__all__ = ["PYTHON_VARIABLE", "PtychiResult", "PtychiSettings", "find_python", "run_ptychi"]

PYTHON_VARIABLE = "PTYCHO_PTYCHI_PYTHON"
"""Environment variable that names the interpreter."""

WORKER = Path(__file__).parent / "scripts" / "ptychi_worker.py"
START_S = 180.0
"""How long the interpreter may take to load pty-chi and the patterns (seconds)."""

_REMEDY = (
    "make one with `python -m nox -s ptychi-env` and name it with --engine-python "
    f".nox/ptychi-env/bin/python or {PYTHON_VARIABLE}"
)
_POLL_S = 0.2
_MARGIN_PX = 2
_MAX_DRIFT_PX = 10

_OUTPUT = (
    *("object", "probe", "positions_px", "opr_weights", "loss", "wall_s", "cpu_s"),
    *("snapshots", "snapshot_epochs", "peak_bytes", "versions"),
)

Epoch = Mapping[str, Any]


@dataclass(frozen=True)
class PtychiSettings:
    """What pty-chi is asked to do.

    Args:
        algorithm: ``lsqml``, ``rpie``, ``epie`` or ``dm``.
        epochs: most passes over the patterns.
        batch_size: patterns per update; in ``dm``, which takes all, patterns computed together.
        modes: incoherent probe modes.
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
    modes: int = 1
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
        opr_modes: (K − 1, N, N) complex64 modes that the first one is varied by.
        opr_weights: (P, K) float32 how much of each in every pattern that was used.
        used: (P,) bool patterns that were reconstructed from.
        loss: (E,) pty-chi's own loss after each epoch.
        wall_s, cpu_s: (E,) seconds since the first epoch began; loading is left out.
        snapshots: (S, H, W) complex64 objects after the epochs ``snapshot_epochs``, (S,).
        peak_bytes: largest memory of the process, 0 if unknown.
        versions: of pty-chi and Torch.
        notes: what had to be changed for pty-chi, one sentence each.
    """

    reconstruction: Reconstruction
    opr_modes: NDArray[np.complex64]
    opr_weights: NDArray[np.float32]
    used: NDArray[np.bool_]
    loss: NDArray[np.float64]
    wall_s: NDArray[np.float64]
    cpu_s: NDArray[np.float64]
    snapshots: NDArray[np.complex64]
    snapshot_epochs: NDArray[np.int64]
    peak_bytes: int
    versions: Mapping[str, str]
    notes: tuple[str, ...]


def find_python(python: str | None = None) -> str:
    """The interpreter that has pty-chi: as given, or as the environment names it.

    Raises:
        BackendError: neither names one, or there is no such file.
    """
    where = "--engine-python" if python else PYTHON_VARIABLE
    named = python or os.environ.get(PYTHON_VARIABLE)
    if not named:
        raise BackendError(
            f"--engine pty-chi: expected an interpreter that has pty-chi, found none; {_REMEDY}"
        )
    if not Path(named).is_file():
        raise BackendError(f"{where}: expected an interpreter, found no file {named}; {_REMEDY}")
    return named


def run_ptychi(
    scan: Scan,
    settings: PtychiSettings,
    *,
    python: str | None = None,
    exclude: NDArray[np.integer[Any]] | None = None,
    start: NDArray[np.complexfloating] | None = None,
    report: Callable[[Epoch], None] = lambda epoch: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> PtychiResult:
    """Reconstruct a scan with pty-chi.

    Args:
        scan: patterns, positions and a probe.
        settings: what pty-chi is asked to do.
        python: interpreter that has pty-chi; default the one that the environment names.
        exclude: patterns that object and probe must not see.
        start: (H, W) object to start from, on the canvas that ``canvas_of`` plans; default 1.
        report: called after every epoch with ``epoch``, ``loss``, ``wall_s`` and ``cpu_s``.
        should_stop: once True, the run ends after the epoch and returns what it has.

    Raises:
        BackendError: no interpreter, it lacks pty-chi, or the process failed or went silent.
        ConfigError: pty-chi cannot do what was asked.
        DataError: the scan has no probe.
        NumericalError: the reconstruction is not finite.
    """
    python = find_python(python)
    _check(scan, settings)
    used = np.ones(len(scan), dtype=np.bool_)
    if exclude is not None:
        used[exclude] = False
    shape, origin = canvas_of(scan, settings)
    if start is not None and start.shape != shape:
        raise ConfigError(
            f"--engine pty-chi: expected a start of {shape[0]}×{shape[1]} pixels, found "
            f"{start.shape[0]}×{start.shape[1]}"
        )
    middle = origin + np.array(shape) // 2  # positions near 0 keep their fractions in float32
    arrays, notes = _inputs(scan, used)
    arrays |= {
        "object": np.ones(shape, np.complex64) if start is None else start.astype(np.complex64),
        "positions_px": scan.positions_px[used] - middle,
        "settings": np.array(
            json.dumps(asdict(settings) | {"origin_px": (middle - origin - 0.5).tolist()})
        ),
    }
    with tempfile.TemporaryDirectory(prefix="ptycho-") as folder:
        np.savez(Path(folder) / "input.npz", allow_pickle=False, **arrays)
        del arrays
        process = _Process(python, Path(folder), settings.max_time_s)
        found = process.run(report, should_stop)
    found["positions_px"] = found["positions_px"] + middle
    return _result(scan, settings, used, origin, found, tuple(notes))


def canvas_of(scan: Scan, settings: PtychiSettings) -> tuple[tuple[int, int], NDArray[np.int64]]:
    """Shape (H, W) of the object, and the position (2,) of its pixel [0, 0]."""
    shape, origin = plan_canvas(scan.positions_px, scan.N)
    margin = _MARGIN_PX + _MAX_DRIFT_PX * settings.refine_positions
    return (shape[0] + 2 * margin, shape[1] + 2 * margin), origin - margin


def _check(scan: Scan, settings: PtychiSettings) -> None:
    """Refuse what pty-chi would refuse later, or quietly not do."""
    varied = settings.algorithm in ("lsqml", "rpie")
    if settings.opr_modes > 1 and not varied:
        raise ConfigError(
            "--engine pty-chi: expected --engine-algorithm lsqml or rpie with orthogonal probe "
            f"relaxation, found {settings.algorithm}"
        )
    if settings.modes < 1 or settings.opr_modes < 1 or settings.batch_size < 1:
        raise ConfigError(
            "--engine pty-chi: expected at least one mode and one pattern per batch, found "
            f"{settings.modes}, {settings.opr_modes} and {settings.batch_size}"
        )
    scan.photon_probe  # noqa: B018 - raises where there is none


def _inputs(scan: Scan, used: NDArray[np.bool_]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Patterns, mask and probe as pty-chi takes them, and what was changed."""
    index, notes = np.flatnonzero(used), []
    counts = scan.counts(index)
    valid: Any = scan.valid(index)
    if scan.background is not None:
        np.maximum(counts - scan.background, 0, out=counts)
        notes.append("pty-chi has no background: it was taken off the patterns, negatives set to 0")
    if valid is None:
        valid = np.ones(counts.shape[1:], dtype=np.bool_)
    elif valid.ndim == 3:
        valid = valid.all(axis=0)
        notes.append("pty-chi has one mask: pixels masked in any pattern are masked in all")
    return {"counts": counts, "valid": valid, "probe": scan.photon_probe}, notes


def _result(
    scan: Scan,
    settings: PtychiSettings,
    used: NDArray[np.bool_],
    origin: NDArray[np.int64],
    found: dict[str, NDArray[Any]],
    notes: tuple[str, ...],
) -> PtychiResult:
    """In our conventions: a solved probe is brought back to its power, the object along."""
    obj, probe = found["object"], found["probe"]
    if not (np.isfinite(obj).all() and np.isfinite(probe).all()):
        raise NumericalError(
            f"{scan.name}: expected a finite object from pty-chi, found NaN or infinity after "
            f"{len(found['loss'])} epochs; check the scan with `ptycho inspect`, or take another "
            "--engine-algorithm"
        )
    factor = _power_factor(scan, probe) if settings.refine_probe else 1.0
    positions = scan.positions_px.copy()
    positions[used] = found["positions_px"]
    modes = (probe * np.float32(factor)).astype(np.complex64)
    obj = (obj / np.float32(factor)).astype(np.complex64)
    return PtychiResult(
        reconstruction=Reconstruction(
            obj=obj,
            coverage=_coverage(modes[0], positions - origin, obj.shape),
            origin_yx_px=origin.astype(np.float64),
            positions_px=positions,
            probe=modes[0],
            pixel_size_m=scan.object_pixel_m,
            probe_source="pty-chi" if settings.refine_probe else "file",
        ),
        opr_modes=modes[1:, 0],
        opr_weights=found["opr_weights"].astype(np.float32),
        used=used,
        loss=found["loss"],
        wall_s=found["wall_s"],
        cpu_s=found["cpu_s"],
        snapshots=(found["snapshots"] / np.float32(factor)).astype(np.complex64),
        snapshot_epochs=found["snapshot_epochs"].astype(np.int64),
        peak_bytes=int(found["peak_bytes"]),
        versions=json.loads(str(found["versions"])),
        notes=notes,
    )


def _power_factor(scan: Scan, probe: NDArray[Any]) -> float:
    """What brings the first relaxation mode, (K, M, N, N), to the power of the scan's probe."""
    power, wanted = (
        float(np.sum(np.abs(modes.astype(np.complex128)) ** 2))
        for modes in (probe[0], scan.photon_probe)
    )
    if not power > 0:
        raise NumericalError(
            f"{scan.name}: expected a probe with power above 0 from pty-chi, found {power}"
        )
    return float(np.sqrt(wanted / power))


def _coverage(
    probe: NDArray[np.complex64], positions_px: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Illumination Σ_j Σ_m |P_m|² over its maximum, to the pixel: (H, W)."""
    power = np.sum(np.abs(probe) ** 2, axis=0, dtype=np.float64)
    total = np.zeros(shape)
    side = power.shape[-1]
    for y, x in physics.split_positions(positions_px)[0] - side // 2:
        total[y : y + side, x : x + side] += power
    return np.asarray(total / total.max(), dtype=np.float32)


class _Process:
    """The other interpreter at work: its messages, its end, and what it leaves."""

    def __init__(self, python: str, folder: Path, max_time_s: float | None) -> None:
        self.python, self.folder, self.max_time_s = python, folder, max_time_s
        self.messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.loaded = False

    def run(
        self, report: Callable[[Epoch], None], should_stop: Callable[[], bool]
    ) -> dict[str, NDArray[Any]]:
        """Run to the end, and read the output."""
        names = [str(self.folder / name) for name in ("input.npz", "output.npz", "stop")]
        # Our packages' path must not lead there; a session of its own keeps Ctrl-C from it, so
        # that a stop leaves a result.
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        with open(self.folder / "stderr", "wb") as errors:
            try:
                process = subprocess.Popen(
                    [self.python, "-P", str(WORKER), *names],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise BackendError(
                    f"--engine-python: expected an interpreter, found that {self.python} does "
                    f"not run: {error.strerror}; {_REMEDY}"
                ) from error
        try:
            self._follow(process, report, should_stop)
        finally:
            process.kill()
            process.wait()
            process.stdout and process.stdout.close()
        return self._output(process.returncode)

    def _follow(
        self,
        process: "subprocess.Popen[bytes]",
        report: Callable[[Epoch], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Pass on messages until the process ends."""
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        heard = time.monotonic()
        while True:
            if should_stop():
                (self.folder / "stop").touch()
            try:
                message = self.messages.get(timeout=_POLL_S)
            except queue.Empty:
                self._check_silence(time.monotonic() - heard)
                continue
            if message is None:
                process.wait(timeout=START_S)
                return
            heard = time.monotonic()
            self.loaded = self.loaded or "ptychi" in message
            if "epoch" in message:
                report(message)

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        """Put each line of JSON into the queue, and None at the end; other lines are not ours."""
        assert process.stdout is not None
        for line in process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict):
                self.messages.put(message)
        self.messages.put(None)

    def _check_silence(self, silent_s: float) -> None:
        if not self.loaded and silent_s > START_S:
            raise BackendError(
                f"--engine pty-chi: expected {self.python} to load pty-chi within {START_S:g} s, "
                f"found no answer{self._last_words()}; {_REMEDY}"
            )
        if self.max_time_s is not None and silent_s > self.max_time_s + START_S:
            raise BackendError(
                f"--engine pty-chi: expected an epoch to end within --max-time, found none after "
                f"{silent_s:.0f} s{self._last_words()}; give more time, or fewer patterns"
            )

    def _output(self, status: int) -> dict[str, NDArray[Any]]:
        path = self.folder / "output.npz"
        if not self.loaded:
            raise BackendError(
                f"--engine pty-chi: expected {self.python} to have pty-chi, found that it ended "
                f"with status {status}{self._last_words()}; {_REMEDY}"
            )
        if not path.is_file():
            raise BackendError(
                f"--engine pty-chi: expected a reconstruction, found that {self.python} ended "
                f"with status {status}{self._last_words()}"
            )
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in _OUTPUT}
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BackendError(
                f"--engine pty-chi: expected a readable result of {self.python}, found: {error}"
            ) from error

    def _last_words(self) -> str:
        text = (self.folder / "stderr").read_text(errors="replace").strip()
        return f": {text.splitlines()[-1]}" if text else ""
