"""What was tried in the solver, on a table of scans, losers included.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/solver_variants.py [--epochs 12]

Prints a Markdown table: amplitude/phase SSIM after so many epochs, where the truth is known, and
R_free.  Scans are simulated on the spot; ``--scan FILE`` adds measured ones.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from ptychoconfig.errors import NumericalError
from ptychoconfig.payloads import create_solver_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata.contracts import Scan
from ptychodata.formats import read
from ptychodata.metrics import score
from ptychodata.simulate import simulate
from ptychodata.solving import plan_solution
from ptychotorch.solver import solve, steps

RUN = solve.__module__  # the module whose steps are replaced
COMMON: dict[str, Any] = {"N": 64, "n_patterns": 900, "overlap": 0.75, "positions_kind": "random"}


def scans() -> Iterator[tuple[str, Scan]]:
    """Simulated scans: name, scan."""
    lines, natural = {"object_kind": "lines"}, {"object_kind": "natural"}
    donut = {"probe_kind": "zone-plate"}
    cases: dict[str, dict[str, Any]] = {
        "lines, disk, 10⁹": lines | {"nphotons": 1e9},
        "natural, disk, 10⁹": natural | {"nphotons": 1e9},
        "natural, donut, 10⁶": natural | donut | {"nphotons": 1e6},
        "lines, disk, 10⁴": lines | {"nphotons": 1e4},
        "natural, disk, 10⁴": natural | {"nphotons": 1e4},
        "natural, N = 128, 10⁶": natural | {"nphotons": 1e6, "N": 128, "n_patterns": 300},
        "overlap 30 %": natural | {"nphotons": 1e6, "overlap": 0.3, "positions_kind": "jittered"},
        "overlap 80 %": natural | {"nphotons": 1e6, "overlap": 0.8},
    }
    for name, case in cases.items():
        yield name, simulate(SimulationConfig(**COMMON | case))
    plain = simulate(SimulationConfig(**COMMON | natural | {"nphotons": 1e6}))
    yield "probe half too wide", with_wide_probe(plain)
    errors = {"position_error_px": 2.0, "nphotons": 1e6}
    yield "positions off by 2 px", simulate(SimulationConfig(**COMMON | natural | errors))


def with_wide_probe(scan: Scan) -> Scan:
    """The same scan with a disk of half again the diameter for a probe."""
    r = np.arange(scan.N) - scan.N // 2
    disk = np.hypot(r[:, None], r) < 1.5 * 0.22 * scan.N
    return replace(scan, probe=disk[None].astype(np.complex64), probe_power="relative")


def adam(estimate, momentum, sums, length, likelihood, prior) -> None:
    """Adam with step 0.03 in place of the preconditioned step."""
    gradient = -sums.obj
    state = adam.__dict__.setdefault("state", {})
    if state.get("of") is not momentum:
        state.update(of=momentum, square=torch.zeros_like(sums.light), step=0)
    state["step"] += 1
    momentum.mul_(0.9).add_(gradient, alpha=0.1)
    state["square"].mul_(0.99).add_(gradient.abs().square(), alpha=0.01)
    first = momentum / (1 - 0.9 ** state["step"])
    second = (state["square"] / (1 - 0.99 ** state["step"])).sqrt()
    estimate.obj.sub_(first / (second + 1e-8 * second.max()), alpha=0.03 * length)


def everywhere(estimate, momentum, sums, length, likelihood, prior) -> None:
    """Plain heavy ball: momentum is spent where the batch has no light, too."""
    scale = steps._POISSON_LENGTH if likelihood == "poisson" else 1.0
    floor = steps._FLOOR["object"]
    curvature = (1 - floor) * sums.light + floor * sums.light.max()
    momentum.mul_(steps.MOMENTUM).add_(sums.obj / curvature)
    estimate.obj.add_(momentum, alpha=scale * length)


@contextmanager
def constants(**values: Any) -> Iterator[None]:
    """Other constants in ``steps``, for a while."""
    with patch.multiple(steps, **values):
        yield


VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "as it is": (nullcontext, {}),
    "no momentum (batched rPIE)": (lambda: constants(MOMENTUM=0.0), {}),
    "momentum 0.9": (lambda: constants(MOMENTUM=0.9), {}),
    "momentum everywhere": (lambda: patch(f"{RUN}.object_step", everywhere), {}),
    "floor 0.3": (lambda: constants(_FLOOR={"object": 0.3, "probe": 0.5}), {}),
    "Adam 0.03": (lambda: patch(f"{RUN}.object_step", adam), {}),
    "batch ÷ 4": (nullcontext, {"batch": 0.25}),
    "batch × 4": (nullcontext, {"batch": 4.0}),
    "amplitudes": (nullcontext, {"likelihood": "amplitude"}),
    "counts": (nullcontext, {"likelihood": "poisson"}),
    "no prior": (nullcontext, {"smoothness": 0.0}),
    "positions refined": (nullcontext, {"refine_positions": True}),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--scan", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| scan | " + " | ".join(VARIANTS) + " |\n|" + "---|" * (len(VARIANTS) + 1))
    measured = [(path.stem, read(path)) for path in arguments.scan]
    for name, scan in [*scans(), *measured]:
        cells = [cell(scan, variant, arguments.epochs) for variant in VARIANTS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def cell(scan: Scan, variant: str, epochs: int) -> str:
    """One run, in a few characters."""
    context, flags = VARIANTS[variant]
    flags = {"epochs": epochs, **flags}
    if "batch" in flags:
        usual = plan_solution(scan, create_solver_payload(flags={}).solver, None).batch_size
        flags["batch_size"] = max(1, round(flags.pop("batch") * usual))
    try:
        with context():
            solution = solve(scan, create_solver_payload(flags=flags), lambda progress: None)
    except NumericalError:
        return "diverges"
    free = f"{solution.history['r_free'][-1]:.3g}"
    if scan.truth is None:
        return free
    image = solution.reconstruction
    found = score(image.obj, image.origin_yx_px, scan.truth, scan.positions_px)
    return f"{found['amplitude_ssim']:.2f}/{found['phase_ssim']:.3f} ({free})"


if __name__ == "__main__":
    main()
