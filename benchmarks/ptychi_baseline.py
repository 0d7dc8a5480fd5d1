"""What pty-chi makes of a scan, and how fast: the other side of the solver's bars.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive PTYCHO_PTYCHI_PYTHON=… \
        python benchmarks/ptychi_baseline.py SCAN --algorithm lsqml --batch-size 16 --epochs 30 \
        [--option object_options.alpha=0.3] [--reference OTHER.npz] [--output RESULT.npz]

Prints JSON.  Time is the processor time of one thread since the first epoch began, which other
processes disturb least; loading is left out, and so is keeping the object after every
``--keep-every`` epochs, from which the curve of scores comes.  Scores are against the scan's known
object or ``--reference``.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.schema import SolverConfig
from ptychodata import physics
from ptychodata.contracts import Scan
from ptychodata.engines.ptychi import PtychiResult, PtychiSettings, run_ptychi
from ptychodata.formats import read
from ptychodata.metrics import score
from ptychodata.results import read_solution
from ptychodata.solving import SolverPlan, plan_solution

GOAL = 0.99


def main() -> None:
    """Run once, print the figures, and keep the result."""
    arguments = parse()
    scan = read(arguments.scan)
    plan = plan_of(scan, arguments)
    settings = PtychiSettings(
        algorithm=arguments.algorithm,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        opr_modes=arguments.opr_modes,
        refine_probe=not arguments.fixed_probe,
        refine_positions=arguments.refine_positions,
        seed=arguments.seed,
        threads=1,
        device="cpu",
        keep_every=arguments.keep_every,
        options={k: json.loads(v) for k, v in (o.split("=", 1) for o in arguments.option)},
    )
    result = run_ptychi(scan, plan, settings)
    figures = speeds(result, len(plan.kept)) | residuals(scan, plan, result)
    figures |= scores(scan, result, arguments.reference)
    print(json.dumps(vars(arguments) | figures, indent=1))
    if arguments.output:
        save(Path(arguments.output), plan, result, figures)


def plan_of(scan: Scan, arguments: argparse.Namespace) -> SolverPlan:
    """Where it starts, and the patterns that it may see: those that our solver would."""
    config = SolverConfig(modes=arguments.modes, held_out_fraction=arguments.held_out_fraction)
    start = read_solution(arguments.start) if arguments.start else None
    plan = plan_solution(scan, config, start)
    if not arguments.held_out:
        return plan
    held_out = np.load(arguments.held_out)
    return replace(plan, kept=np.setdiff1d(np.arange(len(scan)), held_out), held_out=held_out)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan")
    parser.add_argument("--algorithm", default="lsqml")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--modes", type=int)
    parser.add_argument("--opr-modes", type=int, default=1)
    parser.add_argument("--fixed-probe", action="store_true")
    parser.add_argument("--refine-positions", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-every", type=int, default=1)
    parser.add_argument("--option", action="append", default=[], help="NAME.OF.OPTION=JSON")
    parser.add_argument("--held-out-fraction", type=float, default=0.0)
    parser.add_argument("--held-out", help=".npy of the numbers of patterns to leave out instead")
    parser.add_argument("--start", help="reconstruction.npz or RESULT.npz to go on from")
    parser.add_argument("--reference", help="NPZ with object, origin_yx_px to score against")
    parser.add_argument("--output")
    return parser.parse_args()


def speeds(result: PtychiResult, patterns: int) -> dict[str, Any]:
    """Time per epoch and in all, and memory."""
    epochs, cpu = len(result.loss), float(result.cpu_s[-1])
    return {
        "epochs_run": epochs,
        "cpu_s": cpu,
        "wall_s": float(result.wall_s[-1]),
        "cpu_s_per_epoch": cpu / epochs,
        "patterns_per_cpu_s": patterns * epochs / cpu,
        "peak_GB": result.peak_bytes / 1e9,
        "versions": dict(result.versions),
    }


def residuals(scan: Scan, plan: SolverPlan, result: PtychiResult) -> dict[str, float]:
    """R over the patterns that were used, and R_free over those that were not.

    pty-chi shifts the first mode alone, so its result is held to its own forward model
    (``_ptychi``) beside ours.
    """
    found = {}
    for name, index in (("r", plan.kept), ("r_free", plan.held_out)):
        if len(index):
            found[name] = residual(scan, result, index, shift_all=True)
            found[f"{name}_ptychi"] = residual(scan, result, index, shift_all=False)
    return found


def residual(
    scan: Scan, result: PtychiResult, index: NDArray[np.int64], *, shift_all: bool
) -> float:
    """R = Σ w|√I − √λ| / Σ w√I over some patterns."""
    image, error, amplitude = result.reconstruction, 0.0, 0.0
    for part in np.array_split(index, -(-len(index) // 32)):
        pixel, fraction = physics.split_positions(image.positions_px[part] - image.origin_yx_px)
        probes = physics.shift_probe(image.probe, fraction)
        if not shift_all:
            probes[:, 1:] = image.probe[1:]
        waves = physics.exit_waves(probes, physics.extract(image.obj, pixel, scan.N))
        rate = physics.intensity(physics.far_field(waves), scan.background)
        counts, valid = scan.counts(part), scan.valid(part)
        weight = 1.0 if valid is None else valid
        total = float(np.sum(weight * np.sqrt(counts), dtype=np.float64))
        error += physics.r_factor(rate, counts, valid) * total
        amplitude += total
    return error / amplitude


def scores(scan: Scan, result: PtychiResult, reference: str | None) -> dict[str, Any]:
    """SSIM of amplitude and phase after every epoch that was kept, and the time to the goal."""
    truth, origin = scan.truth, (0.0, 0.0)
    if reference:
        with np.load(reference) as archive:
            truth, origin = archive["object"], archive["origin_yx_px"]
    if truth is None:
        return {}
    image, curve = result.reconstruction, []
    for epoch, obj in zip(result.snapshot_epochs, result.snapshots, strict=True):
        found = score(obj, image.origin_yx_px, truth, scan.positions_px, truth_origin_yx_px=origin)
        cpu = float(result.cpu_s[epoch - 1])
        curve.append([int(epoch), round(cpu, 3), found["amplitude_ssim"], found["phase_ssim"]])
    return {"curve": curve, **{f"cpu_s_to_{goal}": time_to(curve, goal) for goal in (0.9, GOAL)}}


def time_to(curve: list[list[float]], goal: float) -> float | None:
    """Processor time at which both scores reach the goal, between epochs by interpolation."""
    before = (0.0, 0.0)
    for _, cpu, *both in curve:
        worst = min(both)
        if worst >= goal:
            return before[0] + (cpu - before[0]) * (goal - before[1]) / (worst - before[1])
        before = cpu, worst
    return None


def save(path: Path, plan: SolverPlan, result: PtychiResult, figures: dict[str, Any]) -> None:
    """The reconstruction, and the figures as JSON in it."""
    image = result.reconstruction
    np.savez(
        path,
        object=image.obj,
        probe=image.probe,
        coverage=image.coverage,
        origin_yx_px=image.origin_yx_px,
        positions_px=image.positions_px,
        held_out=plan.held_out,
        pixel_size_m=np.float64(image.pixel_size_m),
        loss=result.loss,
        cpu_s=result.cpu_s,
        wall_s=result.wall_s,
        snapshots=result.snapshots,
        snapshot_epochs=result.snapshot_epochs,
        figures=json.dumps(figures),
    )


if __name__ == "__main__":
    main()
