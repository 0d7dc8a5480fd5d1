"""What the pretrained network makes of scans that it has never seen, beside what needs no network.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/pretrained.py [--bundle FILE]
        [--star SCAN.npz IMAGE.npz REFERENCE.npz] [--seeds 3]

Amplitude and phase SSIM against the known object, and seconds of processor time, of four rows:

- `pretrained`: the network;
- `untrained`: the same passes, which correct nothing;
- `zero`: one pass of them, the mean of each pattern's first ePIE step;
- `solver`: `ptycho reconstruct` with the probe held fixed, for as long as the network took.

Patterns of 128 x 128 and 256 x 256 pixels have as many photons per pixel of the object as those of
64 x 64; `one object` is the same for each N, with probes in proportion; single shots are made with
`--merge none`.  Objects of `natural-held-out` and the star are in no training; `lines` are of a
kind that is.  The star is scored against a reconstruction of many modes, and takes the probe that
`--probe auto` finds (a reconstruction.npz that holds it).  Prints a line for each, and JSON at the
end.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ptychoconfig.payloads import create_inference_payload, create_solver_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata.beams import make_probe
from ptychodata.bundle import Bundle, read_bundle
from ptychodata.contracts import Reconstruction, Scan
from ptychodata.formats import read
from ptychodata.metrics import score
from ptychodata.objects import held_out_object
from ptychodata.pretrained import PRETRAINED
from ptychodata.simulate import scan_of, simulate
from ptychodata.training.teacher import uncorrected
from ptychotorch.inference import infer
from ptychotorch.solver import solve

DONUT = {"probe_kind": "zone-plate", "central_stop": 0.4, "nphotons": 1e6}
SCANS: dict[str, dict[str, object]] = {
    "lines": {"object_kind": "lines", "overlap": 0.81, "n_patterns": 600, "nphotons": 1e9},
    "lines, 1e4 photons": {
        "object_kind": "lines", "overlap": 0.81, "n_patterns": 600, "nphotons": 1e4,
    },
    "natural": {
        **DONUT, "object_kind": "natural-held-out", "overlap": 0.81, "n_patterns": 600,
        "probe_diameter_px": 30.0, "defocus_rad": 9.0,
    },
    "natural, overlap 0.55": {
        **DONUT, "object_kind": "natural-held-out", "overlap": 0.55, "n_patterns": 200,
        "probe_diameter_px": 30.0, "defocus_rad": 9.0,
    },
    "natural, N = 128": {
        **DONUT, "object_kind": "natural-held-out", "overlap": 0.81, "n_patterns": 600, "N": 128,
        "probe_diameter_px": 60.0, "defocus_rad": 18.0, "nphotons": 4e6,
    },
    "natural, N = 256": {
        **DONUT, "object_kind": "natural-held-out", "overlap": 0.81, "n_patterns": 200, "N": 256,
        "probe_diameter_px": 120.0, "defocus_rad": 36.0, "nphotons": 16e6,
    },
    "lines, single shots, disk": {
        "object_kind": "lines", "overlap": 0.0, "n_patterns": 100, "nphotons": 1e6,
    },
    "lines, single shots, donut": {
        **DONUT, "object_kind": "lines", "overlap": 0.0, "n_patterns": 100,
    },
}  # fmt: skip


SIDES = (64, 128, 256)


def one_object(side: int, seed: int) -> Scan:
    """The window of photographs that every ``side`` of patterns scans, a probe in proportion.

    The box of the probe centres, what is scored, is the same for all.
    """
    object_rng, position_rng, noise_rng = np.random.default_rng(seed).spawn(3)
    truth = held_out_object((480, 480), object_rng)
    scale, extent = side / 64, 480 - max(SIDES)
    config = SimulationConfig.model_validate({
        **DONUT, "N": side, "overlap": 0.81, "probe_diameter_px": 30 * scale,
        "defocus_rad": 9 * scale,
    })  # fmt: skip
    probe, diameter = make_probe(config, object_rng)
    step = (1 - config.overlap) * diameter
    positions = position_rng.uniform(0, extent, (round((extent / step) ** 2), 2))
    truth_at = truth.astype(np.complex64)[(slice((max(SIDES) - side) // 2, None),) * 2]
    photons = config.nphotons * scale**2
    return scan_of(truth_at, probe.astype(np.complex64), positions + side // 2, photons, noise_rng)


def main() -> None:
    """Score every scan and row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=PRETRAINED)
    parser.add_argument("--star", type=Path, nargs=3, metavar=("SCAN", "IMAGE", "REFERENCE"))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bundle, found = read_bundle(arguments.bundle), {}
    for name, settings in SCANS.items():
        runs = []
        for seed in range(9001, 9001 + arguments.seeds):
            config = SimulationConfig.model_validate(
                {"positions_kind": "random", "seed": seed, **settings}
            )
            merge = "none" if "single shots" in name else "scan"
            runs.append(rows(simulate(config), bundle, merge=merge))
        found[name] = mean_of(runs)
        tell(name, found[name])
    for side in SIDES:
        scans = [one_object(side, seed) for seed in range(9001, 9001 + arguments.seeds)]
        name = f"one object, N = {side}"
        found[name] = mean_of([rows(scan, bundle) for scan in scans])
        tell(name, found[name])
    if arguments.star:
        scan, image, reference = arguments.star
        with np.load(image) as solved:
            measured = read(scan).with_probe(solved["probe"])
        found["star"] = rows(measured, bundle, reference)
        tell("star", found["star"])
    print(json.dumps(found, indent=1))


def rows(
    scan: Scan, bundle: Bundle, reference: Path | None = None, merge: str = "scan"
) -> dict[str, tuple[float, float, float]]:
    """Amplitude SSIM, phase SSIM and seconds of each row."""
    still = uncorrected(bundle)
    one = {**still.config, "model": {**still.config["model"], "unrolled_steps": 1}}
    began = time.monotonic()
    made = {"pretrained": timed(bundle, scan, merge)}
    wall = time.monotonic() - began  # of a machine that others may use, as the solver's limit is
    made |= {
        "untrained": timed(still, scan, merge),
        "zero": timed(replace(still, config=one), scan, merge),
    }
    flags = {"refine_probe": "off", "max_time": wall, "held_out_fraction": 0.0}
    started = time.process_time()
    payload = create_solver_payload(flags=flags, environment={})
    solved = solve(scan, payload, lambda progress: None, lambda: False)
    made["solver"] = solved.reconstruction, time.process_time() - started
    return {name: (*scores(image, scan, reference), took) for name, (image, took) in made.items()}


def timed(bundle: Bundle, scan: Scan, merge: str = "scan") -> tuple[Reconstruction, float]:
    """The network's image, and the processor's time."""
    flags = {"precision": "32-true", "held_out_fraction": 0.0, "merge": merge}
    payload = create_inference_payload(bundle_config=bundle.config, flags=flags, environment={})
    started = time.process_time()
    image = infer(bundle, scan, payload, lambda progress: None)
    return image, time.process_time() - started


def scores(image: Reconstruction, scan: Scan, reference: Path | None) -> tuple[float, float]:
    """Against the scan's known object, or another reconstruction of it."""
    truth, origin = scan.truth, np.zeros(2)
    if reference is not None:
        with np.load(reference) as other:
            offset = np.median(scan.positions_px - other["positions_px"], axis=0)
            truth, origin = other["object"], other["origin_yx_px"] + offset
    found = score(
        image.obj, image.origin_yx_px, truth, scan.positions_px, truth_origin_yx_px=origin
    )
    return found["amplitude_ssim"], found["phase_ssim"]


def mean_of(
    runs: list[dict[str, tuple[float, float, float]]],
) -> dict[str, tuple[float, float, float]]:
    """The mean over seeds."""
    return {
        name: tuple(float(x) for x in np.mean([run[name] for run in runs], axis=0))
        for name in runs[0]
    }


def tell(name: str, found: Mapping[str, tuple[float, float, float]]) -> None:
    """One line."""
    each = (f"{row} {a:.3f}/{p:.3f} in {s:.1f} s" for row, (a, p, s) in found.items())
    print(f"{name:24} {'; '.join(each)}", flush=True)


if __name__ == "__main__":
    main()
