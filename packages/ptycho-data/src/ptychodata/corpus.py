"""An endless stream of simulated scans to pretrain on: a pure function of (seed, index).

    scan = draw_scan(index, seed, CorpusRanges())       # a Scan, its truth kept for scoring only
    manifest(seed, CorpusRanges())                      # what it draws from, as JSON values

Every draw is small, so that simulating it costs far less than training on it.  Objects are windows
of large ones, which are made once for every 2000 draws and kept; any index can be drawn at any
time.  The probe, the positions and the noise are made by ``beams`` and ``simulate``, as those of
``ptycho simulate`` are.  What is varied:

- object: lines, natural images, dead leaves, random fields; one of eight flips, and conjugated in
  half of the draws.  Its contrast is that of ``objects``, or it is made a weak phase, a strong
  phase, or an absorber of the same pattern;
- probe: disk, zone plate with central stop, Gaussian beam, both curved and aberrated, one of eight
  flips and conjugated or not, in one to four modes;
- scan: jittered raster, spiral or random, overlapping or single shots; N; dose;
- what is recorded: a probe of absolute or relative power, in some draws one that is a little out of
  focus and shifted; positions that are a little off.

Nothing of ``RESERVED`` occurs in any draw, in any role: no such image is opened, no such object
made, no measured probe used, and zone plates leave a gap around the central stop that
``ptycho simulate`` has by default, so that its donut is new to whoever is trained here.
"""

import hashlib
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.schema import SimulationConfig

from . import physics
from .beams import ABERRATIONS, aberrated, make_probe, most_defocus_rad
from .contracts import Scan
from .inspection import probe_diameter_px
from .objects import (
    HELD_OUT_IMAGES,
    NATURAL_IMAGES,
    dead_leaves_object,
    lines_of,
    natural_object,
    original_lines_object,
    packaged_file,
    random_field_object,
)
from .simulate import scan_of, scan_positions
from .stitching import plan_canvas

__all__ = [
    "CORPUS_IMAGES",
    "CORPUS_VERSION",
    "RESERVED",
    "CorpusRanges",
    "draw_scan",
    "in_generator",
    "manifest",
]

CORPUS_VERSION = 2
"""Raised with every change of what a (seed, index) gives."""

CORPUS_IMAGES = (*NATURAL_IMAGES, "hubble_deep_field.jpg")
"""Images of scikit-image's wheel that the natural objects are made of."""

RESERVED: dict[str, tuple[str, ...]] = {
    "images": (*HELD_OUT_IMAGES, "phantom.png"),
    "object_kinds": ("natural-held-out", "phantom", "siemens-star"),
    "probes": ("every measured one, the star scan's among them, raw or refined",),
}
"""What is kept for evaluation."""

Complex = NDArray[np.complex128]
Range = tuple[float, float]

_PERIOD = 2000
_SIDE = 1024
_KINDS = ("dead-leaves", "lines", "natural", "random-field")
_BORDER = 0.01
"""Share of a probe's power on its border above which it is made again, smaller."""


@dataclass(frozen=True)
class CorpusRanges:
    """What scans are drawn from: weights of choices, and ranges, (low, high), of numbers.

    Args:
        N: side of a pattern → weight.
        n_patterns: of a scan, as many as ``most_pixels`` allows.
        most_pixels: detector pixels of a scan, which bounds the time that it takes.
        object_kinds, contrasts, probe_kinds, positions_kinds: choice → weight.
        members: large objects of each kind for every 2000 draws.
        nphotons: mean photons per pattern, drawn evenly in their logarithm.
        overlap: linear, of the diameter that holds 90 % of the probe's power.
        single_shot: share of scans whose probes do not overlap, with ``apart`` for an overlap.
        apart: overlap of those: 0 or less, probes side by side or apart.
        diameter: of the probe, over N.
        defocus_rad: as ``SimulationConfig`` has it.
        central_stop: of zone plates, in one of these ranges.
        aberrated: share of probes that are, with a root mean square of ``aberration_rad``.
        modes: number of probe modes → weight; ``mode_decay`` as ``SimulationConfig`` has it.
        relative_power: share of scans whose probe is of relative power.
        probe_error: share of scans that record a probe that is a little wrong: out of focus by a
            root mean square of up to ``probe_error_rad``, shifted by up to ``probe_error_px``.
        position_error: share of scans that record positions that are off by up to
            ``position_error_px`` (standard deviation along an axis).
    """

    N: dict[int, float] = field(default_factory=lambda: {64: 0.88, 128: 0.1, 256: 0.02})
    n_patterns: tuple[int, int] = (49, 256)
    most_pixels: int = 2**20
    object_kinds: dict[str, float] = field(
        default_factory=lambda: {
            "lines": 0.3, "natural": 0.3, "dead-leaves": 0.2, "random-field": 0.2,
        }
    )  # fmt: skip
    contrasts: dict[str, float] = field(
        default_factory=lambda: {
            "own": 0.4, "weak-phase": 0.2, "strong-phase": 0.2, "absorbing": 0.2,
        }
    )  # fmt: skip
    members: int = 4
    probe_kinds: dict[str, float] = field(
        default_factory=lambda: {"disk": 0.35, "gaussian": 0.25, "zone-plate": 0.4}
    )
    positions_kinds: dict[str, float] = field(
        default_factory=lambda: {"jittered": 0.5, "spiral": 0.25, "random": 0.25}
    )
    nphotons: Range = (1e3, 1e9)
    overlap: Range = (0.3, 0.85)
    single_shot: float = 0.05
    apart: Range = (-0.2, 0.0)
    diameter: Range = (0.25, 0.5)
    defocus_rad: Range = (0.0, 12.0)
    central_stop: tuple[Range, ...] = ((0.2, 0.35), (0.45, 0.6))
    aberrated: float = 0.4
    aberration_rad: Range = (0.1, 0.8)
    modes: dict[int, float] = field(default_factory=lambda: {1: 0.7, 2: 0.12, 3: 0.12, 4: 0.06})
    mode_decay: Range = (0.05, 0.5)
    relative_power: float = 0.5
    probe_error: float = 0.2
    probe_error_rad: float = 0.5
    probe_error_px: float = 1.0
    position_error: float = 0.15
    position_error_px: float = 0.5


def draw_scan(index: int, seed: int, ranges: CorpusRanges) -> Scan:
    """The scan of number ``index``; what was drawn stands in its ``provenance["corpus"]``.

    Args:
        index: 0, 1, 2, … without end.
        seed: of the corpus.
        ranges: what to draw from.
    """
    streams = np.random.default_rng((CORPUS_VERSION, seed, index)).spawn(5)
    object_rng, probe_rng, position_rng, noise_rng, error_rng = streams
    side = _choice(ranges.N, probe_rng)
    probe, optics = _probe(side, ranges, probe_rng)
    positions, layout = _positions(side, probe_diameter_px(probe), ranges, position_rng)
    spread = 0.0
    if error_rng.random() < ranges.position_error:
        spread = ranges.position_error_px * error_rng.random()
    true = positions + spread * error_rng.standard_normal(positions.shape)
    shape, origin = plan_canvas(np.concatenate([positions, true]), side)
    obj, made = _object(shape, seed, index // _PERIOD, ranges, object_rng)
    nphotons = float(np.exp(noise_rng.uniform(*np.log(ranges.nphotons))))
    scan = scan_of(
        obj.astype(np.complex64), probe, true - origin, nphotons, noise_rng, name=f"corpus-{index}"
    )
    assert scan.probe is not None
    recorded, power, error = _recorded(scan, ranges, error_rng)
    drawn = {
        "version": CORPUS_VERSION, "seed": seed, "index": index, "N": side, "nphotons": nphotons,
        "probe_photons": float(np.sum(np.abs(scan.probe) ** 2)),
        **made, **optics, **layout, "position_error_px": spread, **error,
    }  # fmt: skip
    return replace(
        scan,
        positions_px=positions - origin,
        true_positions_px=scan.positions_px if spread else None,
        probe=recorded,
        probe_power=power,
        provenance={"corpus": drawn},
    )


def in_generator(scan: Scan) -> bool:
    """Whether a scan's object is of a kind that the corpus draws from: such a score flatters."""
    made = scan.provenance.get("simulation", scan.provenance.get("corpus", {}))
    return made.get("object_kind") in _KINDS and made.get("probe_file") is None


def manifest(seed: int, ranges: CorpusRanges) -> dict[str, Any]:
    """What a corpus draws from, as JSON values: to be kept with what is trained on it."""
    digest = {
        name: hashlib.sha256(packaged_file(name).read_bytes()).hexdigest()
        for name in CORPUS_IMAGES + RESERVED["images"]
    }
    return {
        "version": CORPUS_VERSION,
        "seed": seed,
        "ranges": asdict(ranges),
        "objects": list(_KINDS),
        "images": {name: digest[name] for name in CORPUS_IMAGES},
        "probes": sorted(ranges.probe_kinds),
        "augmentation": "eight flips and conjugation of the object, and of the probe",
        "reserved": {
            **{name: list(kept) for name, kept in RESERVED.items()},
            "images": {name: digest[name] for name in RESERVED["images"]},
        },
    }


def _choice(weights: dict[Any, float], rng: np.random.Generator) -> Any:
    share = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(share, rng.random() * share[-1], side="right"))]


def _probe(
    side: int, ranges: CorpusRanges, rng: np.random.Generator
) -> tuple[NDArray[np.complex64], dict[str, Any]]:
    """Modes (M, N, N) in any unit, whose power does not reach the border, and what they are."""
    kind = _choice(ranges.probe_kinds, rng)
    stops = ranges.central_stop[int(rng.integers(len(ranges.central_stop)))]
    bad = rng.uniform(*ranges.aberration_rad) if rng.random() < ranges.aberrated else 0.0
    config = SimulationConfig(
        N=side,
        probe_kind=kind,
        probe_diameter_px=side * rng.uniform(*ranges.diameter),
        defocus_rad=rng.uniform(*ranges.defocus_rad),
        central_stop=rng.uniform(*stops),
        aberration_rad=bad,
        probe_modes=_choice(ranges.modes, rng),
        probe_mode_decay=rng.uniform(*ranges.mode_decay),
    )
    turn, conjugate = int(rng.integers(8)), bool(rng.random() < 0.5)
    stream = int(rng.integers(2**63))
    probe = None
    while probe is None or _border(probe) > _BORDER:
        if probe is not None:
            config = _smaller(config)
        probe, _ = make_probe(_fitting(config), np.random.default_rng(stream))
    config = _fitting(config)
    names = ("probe_kind", "defocus_rad", "aberration_rad", "probe_modes", "probe_mode_decay")
    drawn = {name: getattr(config, name) for name in names}
    drawn |= {"central_stop": config.central_stop} if kind == "zone-plate" else {}
    drawn |= {"probe_flip": turn, "probe_conjugated": conjugate}
    probe = _flipped(probe, turn)
    return (probe.conj() if conjugate else probe).astype(np.complex64), drawn


def _smaller(config: SimulationConfig) -> SimulationConfig:
    """Settings of a smaller probe, more in focus."""
    assert config.probe_diameter_px is not None
    change = {"probe_diameter_px": 0.9 * config.probe_diameter_px}
    return config.model_copy(update={**change, "aberration_rad": config.aberration_rad / 2})


def _fitting(config: SimulationConfig) -> SimulationConfig:
    """The settings with no more defocus than lets the zone plate's pupil fit the detector."""
    assert config.probe_diameter_px is not None and config.defocus_rad is not None
    if config.probe_kind != "zone-plate":
        return config
    most = most_defocus_rad(config.probe_diameter_px)
    return config.model_copy(update={"defocus_rad": min(config.defocus_rad, most)})


def _border(probe: NDArray[np.complexfloating]) -> float:
    power = np.sum(np.abs(probe) ** 2, axis=0)
    frame = len(power) // 32
    return float(1 - power[frame:-frame, frame:-frame].sum() / power.sum())


def _positions(
    side: int, diameter: float, ranges: CorpusRanges, rng: np.random.Generator
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Positions (P, 2) whose windows fit into a large object, and how they lie."""
    single = bool(rng.random() < ranges.single_shot)
    overlap = float(rng.uniform(*(ranges.apart if single else ranges.overlap)))
    step = (1 - overlap) * diameter
    low, high = ranges.n_patterns
    count = min(int(rng.integers(low, high + 1)), ranges.most_pixels // side**2)
    room = (_SIDE - side - 4) / step  # in steps; a spiral is 2/√π times as wide as a square
    count = max(1, min(count, int((room * np.sqrt(np.pi) / 2) ** 2)))
    kind = _choice(ranges.positions_kinds, rng)
    return scan_positions(kind, count, step, rng), {"positions_kind": kind, "overlap": overlap}


def _object(
    shape: tuple[int, int], seed: int, period: int, ranges: CorpusRanges, rng: np.random.Generator
) -> tuple[Complex, dict[str, Any]]:
    """An object (H, W) of one of the kinds, contrasts and flips, and which they are."""
    kind, contrast = _choice(ranges.object_kinds, rng), _choice(ranges.contrasts, rng)
    turn, conjugate = int(rng.integers(8)), bool(rng.random() < 0.5)
    wanted = shape[::-1] if turn >= 4 else shape
    if kind == "natural":
        made = natural_object(wanted, rng, CORPUS_IMAGES)
    else:
        large = _large(kind, seed, period, int(rng.integers(ranges.members)))
        y, x = (int(rng.integers(_SIDE - length + 1)) for length in wanted)
        made = large[y : y + wanted[0], x : x + wanted[1]].astype(np.complex128)
        made = lines_of(made.real) if kind == "lines" else made
    obj, strength = _contrasted(made, contrast, rng)
    obj = _flipped(obj, turn)
    drawn = {"object_kind": kind, "contrast": contrast, **strength}
    drawn |= {"object_flip": turn, "object_conjugated": conjugate}
    return np.asarray(obj.conj() if conjugate else obj), drawn


@lru_cache(maxsize=24)
def _large(kind: str, seed: int, period: int, member: int) -> NDArray[np.complex64]:
    """A large object to cut windows out of, read-only."""
    code = _KINDS.index(kind)
    rng = np.random.default_rng((CORPUS_VERSION, seed, code, period, member))
    shape = (_SIDE, _SIDE)
    if kind == "lines":
        made = original_lines_object(shape, rng, int(np.exp(rng.uniform(*np.log((600, 3000))))))
    elif kind == "random-field":
        made = random_field_object(shape, rng, float(np.exp(rng.uniform(*np.log((3, 30))))))
    else:
        made = dead_leaves_object(shape, rng)
    large = made.astype(np.complex64)
    large.flags.writeable = False
    return large


def _contrasted(
    made: Complex, contrast: str, rng: np.random.Generator
) -> tuple[Complex, dict[str, float]]:
    """The pattern of an object in another contrast, and how strong that is.

    With u and v its modulus and phase, stretched to 0 … 1: (1 − a(1 − u)) exp(iφ(v − ½)) for weak
    phases (φ ≤ 0.5 rad) and strong ones (up to 2π), exp(−(β + i)δv) for absorbers.
    """
    if contrast == "own":
        return made, {}
    v = _stretched(np.angle(made))
    if contrast == "absorbing":
        delta, beta = rng.uniform(0.2, 2), rng.uniform(0.2, 1.5)
        return np.exp(-(beta + 1j) * delta * v), {"delta_rad": delta, "beta_over_delta": beta}
    weak = contrast == "weak-phase"
    depth = rng.uniform(0, 0.1 if weak else 0.3)
    phase = rng.uniform(0.05, 0.5) if weak else rng.uniform(1.5, 2 * np.pi)
    obj = (1 - depth * (1 - _stretched(np.abs(made)))) * np.exp(1j * phase * (v - 0.5))
    return obj, {"depth": depth, "phase_rad": phase}


def _stretched(image: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = image.min(), image.max()
    return np.asarray((image - low) / max(high - low, 1e-12))


def _flipped(array: NDArray[Any], turn: int) -> NDArray[Any]:
    """One of the eight flips, about the pixel [N//2, N//2] of the last two axes."""
    array = array.swapaxes(-1, -2) if turn >= 4 else array
    for axis in (-2, -1):
        if turn >> (axis + 2) & 1:
            array = np.roll(np.flip(array, axis), 1, axis)
    return array


def _recorded(
    scan: Scan, ranges: CorpusRanges, rng: np.random.Generator
) -> tuple[NDArray[np.complex64], Any, dict[str, Any]]:
    """The probe that the scan records, its power, and what is wrong with it."""
    assert scan.probe is not None
    probe, error = scan.probe, {}
    if rng.random() < ranges.probe_error:
        defocus = float(rng.uniform(-1, 1)) * ranges.probe_error_rad
        shift = rng.uniform(-1, 1, (1, 2)) * ranges.probe_error_px
        coefficients = np.array([defocus * (name == "defocus") for name, *_ in ABERRATIONS])
        probe = physics.shift_probe(aberrated(probe, coefficients), shift)[0].astype(np.complex64)
        error = {"probe_defocus_error_rad": defocus, "probe_shift_px": shift[0].tolist()}
    relative = bool(rng.random() < ranges.relative_power)
    if relative:
        probe = probe * np.float32(np.exp(rng.uniform(-3, 3)))
    return probe, "relative" if relative else "absolute", error
