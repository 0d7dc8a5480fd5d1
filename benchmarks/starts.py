"""How many passes the solver saves that starts from the network's object.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/starts.py [--seeds 3]

Held-out photographs under a donut, 64 x 64 pixels, at an overlap of 0.7 and of 0.3.  The solver,
with the probe held fixed, starts from free space and from the object of ``ptycho infer``.  With
R(free) what 100 passes from free space come to, the shortest run that ends at R <= 1.05 R(free) is
looked for from either start (a run of n passes refines its batches over these n, so that the n-th
pass of a longer one is no measure).  R is that of all patterns with the object at the end: what is
met during a pass of small batches is larger.  Prints both, the R of the network's object over
R(free), the SSIM of amplitude and phase of the network's image and of what the shortest runs end
at, and JSON at the end.
"""

import argparse
import json
from pathlib import Path

import torch
from pretrained import DONUT, timed

from ptychoconfig.payloads import create_solver_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata.bundle import read_bundle
from ptychodata.contracts import Reconstruction, Scan, Solution
from ptychodata.metrics import score
from ptychodata.pretrained import PRETRAINED
from ptychodata.residuals import solution_misfit
from ptychodata.simulate import simulate
from ptychotorch.solver import solve

SCAN = {
    **DONUT, "object_kind": "natural-held-out", "n_patterns": 300, "probe_diameter_px": 30.0,
    "defocus_rad": 9.0, "positions_kind": "jittered",
}  # fmt: skip


RUNS = (1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 45, 64, 100)
"""Passes of a run."""


def main() -> None:
    """Both overlaps, all seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=PRETRAINED)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bundle, found = read_bundle(arguments.bundle), []
    for overlap in (0.7, 0.3):
        for seed in range(9001, 9001 + arguments.seeds):
            config = SimulationConfig.model_validate({**SCAN, "overlap": overlap, "seed": seed})
            scan = simulate(config)
            image, _ = timed(bundle, scan)
            found.append({"overlap": overlap, "seed": seed, **compared(scan, image)})
            print(found[-1], flush=True)
    print(json.dumps(found, indent=1))


def compared(scan: Scan, image: Reconstruction) -> dict[str, object]:
    """Passes that either start needs, and what it comes to."""
    longest = solved(scan, None, RUNS[-1])
    reached = residual(longest, scan)
    found: dict[str, object] = {"ssim_network": ssim(image, scan), "ssim_100": of(longest, scan)}
    found["r_network"] = residual(Solution(image), scan) / reached
    for name, start in (("free", None), ("network", Solution(image))):
        for passes in RUNS:
            run = solved(scan, start, passes)
            if residual(run, scan) <= 1.05 * reached:
                found |= {f"passes_{name}": passes, f"ssim_{name}_start": of(run, scan)}
                break
    return found


def residual(solution: Solution, scan: Scan) -> float:
    """R of all patterns."""
    return solution_misfit(solution, scan).residuals["r_factor"]


def of(solution: Solution, scan: Scan) -> tuple[float, float]:
    """SSIM of what was solved."""
    return ssim(solution.reconstruction, scan)


def solved(scan: Scan, start: Solution | None, epochs: int) -> Solution:
    """So many passes of the solver, the probe held."""
    flags = {"refine_probe": "off", "epochs": epochs, "held_out_fraction": 0.0, "max_time": None}
    payload = create_solver_payload(flags=flags, environment={})
    return solve(scan, payload, lambda progress: None, lambda: False, start)


def ssim(image: Reconstruction, scan: Scan) -> tuple[float, float]:
    """Of amplitude and phase, against the known object."""
    assert scan.truth is not None
    found = score(image.obj, image.origin_yx_px, scan.truth, scan.positions_px)
    return round(found["amplitude_ssim"], 3), round(found["phase_ssim"], 3)


if __name__ == "__main__":
    main()
