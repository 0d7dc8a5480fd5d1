"""What a reconstruction leaves behind, whichever way it was made: figures, pictures, files.

``infer`` and ``reconstruct`` both go this way: ``assess``, ``conclude``, and at the very end
``pass_gates``, so that a result below its gate is there to be looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptychocli.console import Console, duration, text
from ptychocli.options import given
from ptychoconfig.errors import ConfigError, NumericalError
from ptychoconfig.resolve import Resolved, resolve
from ptychoconfig.schema import EvaluationConfig

if TYPE_CHECKING:
    from ptychocli.rundir import RunDir
    from ptychodata.contracts import Reconstruction, Scan, Solution
    from ptychodata.frc import FRC
    from ptychodata.residuals import Misfit

__all__ = [
    "Assessment",
    "Records",
    "asks_for_halves",
    "assess",
    "conclude",
    "joined",
    "pass_gates",
    "refuse_region_outside",
    "resolve_evaluation",
    "scores",
]


@dataclass(frozen=True, eq=False)
class Assessment:
    """A reconstruction, and how far to trust it.

    Args:
        solution: the image, and what a solver fitted besides.
        scan: what it was made from.
        misfit: where it does not explain the patterns.
        frc: correlation of the two halves; None if they were not reconstructed.
        metrics: all figures, as ``metrics.json`` and ``--json`` give them.
    """

    solution: "Solution"
    scan: "Scan"
    misfit: "Misfit"
    frc: "FRC | None"
    metrics: Mapping[str, Any]

    @property
    def reconstruction(self) -> "Reconstruction":
        """The image."""
        return self.solution.reconstruction


@dataclass(frozen=True, eq=False)
class Records:
    """Where a result comes from.

    Args:
        resolved: every setting with its source.
        provenance: command, versions, data, machine.
        history: figure → its values over the epochs of training or solving.
    """

    resolved: "Resolved"
    provenance: Mapping[str, Any]
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)


def resolve_evaluation(
    settings: Mapping[str, Any], config_file: Path | None
) -> "tuple[EvaluationConfig, Resolved]":
    """Resolve the section ``evaluation`` alone; a gate on the halves asks for them."""
    resolved = resolve(["evaluation"], flags=given(settings, "evaluation"), config_file=config_file)
    section = resolved.sections["evaluation"]
    assert isinstance(section, EvaluationConfig)
    return section, resolved


def refuse_region_outside(scan: "Scan", evaluation: EvaluationConfig) -> None:
    """Check that the region of ``--phase-zero`` lies in the scan, before anything is computed.

    Raises:
        ConfigError: none of it does.
    """
    if evaluation.phase_zero is None:
        return
    low, high = scan.positions_px.min(axis=0), scan.positions_px.max(axis=0)
    ends = [sorted(map(int, part.split(":"))) for part in evaluation.phase_zero.split(",")]
    if any(last < a or first > b for (first, last), a, b in zip(ends, low, high, strict=True)):
        raise ConfigError(
            f"--phase-zero {evaluation.phase_zero}: expected a region y0:y1,x0:x1 that reaches "
            f"between the probe centres, rows {low[0]:.0f} to {high[0]:.0f} and columns "
            f"{low[1]:.0f} to {high[1]:.0f}; the axes of phase.png show where a region lies"
        )


def joined(*parts: "Resolved") -> "Resolved":
    """Settings of several resolutions as one; the first counts where two have a section."""
    return Resolved(
        sections={name: it for part in reversed(parts) for name, it in part.sections.items()},
        sources={name: it for part in reversed(parts) for name, it in part.sources.items()},
    )


def assess(
    solution: "Solution",
    scan: "Scan",
    evaluation: EvaluationConfig,
    *,
    seconds: float,
    passes: int = 1,
    again: "Callable[[Scan], Reconstruction]",
    trained_on: Mapping[str, float] | None = None,
) -> Assessment:
    """Measure how well an image explains the patterns, repeats itself, and matches what is known.

    Args:
        solution: the image, and what a solver fitted besides.
        scan: what it was made from.
        evaluation: what to measure.
        seconds: how long it took.
        passes: how often the patterns were gone through in that time.
        again: makes the reconstruction of a part of the scan, from its start to its end.
        trained_on: statistics of the network's training scans; None if there was no network.
    """
    from ptychodata.residuals import solution_misfit
    from ptychodata.trust import doubts, split_half, unlike_training

    found = solution_misfit(solution, scan)
    metrics: dict[str, Any] = {
        "n_patterns": len(scan),
        "probe": solution.reconstruction.probe_source,
        "seconds": seconds,
        "patterns_per_s": passes * len(scan) / seconds,
        "residuals": found.residuals,
        "doubts": doubts(scan, found.residuals),
        **scores(solution.reconstruction, scan),
    }
    if solution.reconstruction.disagreement is not None:
        metrics["disagreement"] = _disagreement(solution.reconstruction)
    if solution.epochs:
        metrics |= {
            "epochs": solution.epochs,
            "stopped": solution.stopped,
            "mode_powers": solution.mode_powers.tolist(),
        }
    if trained_on is not None:
        metrics["unlike_training"] = None
        if (unlike := unlike_training(scan, trained_on)) is not None:
            metrics["unlike_training"] = [str(figure) for figure in unlike]
    halves = None
    if asks_for_halves(evaluation):
        halves = split_half(scan, again)
        metrics["split_half_frc"] = halves.as_dict()
    return Assessment(solution, scan, found, halves, metrics)


def asks_for_halves(evaluation: EvaluationConfig) -> bool:
    """Whether the two halves of a scan are to be reconstructed too."""
    return evaluation.split_half or evaluation.min_frc_px is not None


def scores(reconstruction: "Reconstruction", scan: "Scan") -> dict[str, dict[str, float]]:
    """Scores against the known object under the key ``scores``; nothing where there is none."""
    from ptychodata.metrics import score

    if scan.truth is None:
        return {}
    obj, origin = reconstruction.obj, reconstruction.origin_yx_px
    return {"scores": score(obj, origin, scan.truth, scan.positions_px)}


def _disagreement(reconstruction: "Reconstruction") -> dict[str, float]:
    """By how much overlapping patches differ between the probe centres, in units of |O|."""
    import numpy as np

    assert reconstruction.disagreement is not None
    inside = tuple(
        slice(max(0, int(low)), int(high) + 1)
        for low, high in zip(
            reconstruction.positions_px.min(axis=0) - reconstruction.origin_yx_px,
            reconstruction.positions_px.max(axis=0) - reconstruction.origin_yx_px,
            strict=True,
        )
    )
    values = reconstruction.disagreement[inside]
    return {
        "patch_spread_median": float(np.median(values)),
        "patch_spread_p99": float(np.percentile(values, 99)),
    }


def conclude(
    found: Assessment,
    records: Records,
    evaluation: EvaluationConfig,
    run: "RunDir",
    console: Console,
) -> dict[str, Any]:
    """Write everything that a result folder holds, say what was found, and return it.

    ``reconstruction.npz`` comes last.

    Returns:
        The metrics, with ``output_dir`` and the ``gates`` that were not passed.
    """
    from ptychocli.pictures import shown_images, write_pictures
    from ptychodata.results import write_reconstruction, write_solution, write_tiffs

    gates = _failed_gates(found.metrics, evaluation)
    _warn(found, console)
    images = shown_images(found.reconstruction, evaluation.phase_zero)
    write_pictures(images, run.path)
    _write(found, records, run, console)
    if evaluation.tiff:
        write_tiffs(found.reconstruction, run.path)
    if evaluation.report:
        from ptychocli.report import write_report

        write_report(found, images, records, [*run.warnings, *gates], run.path)
    if found.solution.epochs or found.solution.held_out.size:
        write_solution(found.solution, run.path)
    else:
        write_reconstruction(found.reconstruction, run.path)
    _announce(found, run, console)
    return {"output_dir": str(run.path), "gates": gates, **found.metrics}


def _write(found: Assessment, records: Records, run: "RunDir", console: Console) -> None:
    """Write the records, figures and the product."""
    from ptychocli.pictures import write_convergence
    from ptychocli.rundir import write_product

    run.write_records(records.resolved, records.provenance)
    write_product(found.reconstruction, found.scan, run.path, console)
    run.write_json("metrics.json", found.metrics)
    if found.solution.epochs:
        history, floor = found.solution.history, found.metrics["residuals"].get("poisson_floor")
        run.write_table("metrics.csv", "epoch", history)
        write_convergence(history, floor, run.path / "convergence.png")


def _announce(found: Assessment, run: "RunDir", console: Console) -> None:
    metrics = found.metrics
    for group in ("residuals", "disagreement", "scores"):
        for name, value in metrics.get(group, {}).items():
            console.result(f"{name:24} {text(value)}")
    if found.frc is not None:
        console.result(f"{'split_half_resolution':24} {found.frc.describe()}")
    if found.solution.epochs:
        console.result(f"{'epochs':24} {metrics['epochs']} ({metrics['stopped']})")
    if len(metrics.get("mode_powers", ())) > 1:
        console.result(f"{'mode_powers':24} {text(metrics['mode_powers'])}")
    rate = metrics["patterns_per_s"]
    console.result(f"reconstructed in {duration(metrics['seconds'])} ({rate:.0f} patterns/s)")
    console.result(f"pictures: {run.path / 'amplitude.png'} {run.path / 'phase.png'}")


def _warn(found: Assessment, console: Console) -> None:
    """Say what in the figures is a reason for doubt."""
    for doubt in found.metrics["doubts"]:
        console.warn(f"{found.scan.name}: {doubt}")
    for figure in found.metrics.get("unlike_training") or ():
        console.warn(f"{found.scan.name}: unlike the training scans: {figure}")
    if found.frc is not None and isnan(found.frc.resolution_px):
        console.warn(
            f"{found.scan.name}: two halves of the patterns give images with nothing in common"
        )


def _failed_gates(metrics: Mapping[str, Any], evaluation: EvaluationConfig) -> list[str]:
    """What a result must reach and does not, a sentence each."""
    failed = []
    limit, r_factor = evaluation.max_r_factor, metrics["residuals"]["r_factor"]
    if limit is not None and not r_factor <= limit:
        failed.append(f"--max-r-factor: expected R of at most {limit}, found {r_factor:.4g}")
    if evaluation.min_frc_px is not None:
        reached = metrics["split_half_frc"]["resolution_px"]
        if not reached <= evaluation.min_frc_px:
            found = "not reached" if isnan(reached) else f"{reached:.3g} px"
            failed.append(
                f"--min-frc-px: expected the halves to agree down to {evaluation.min_frc_px} px, "
                f"found {found}"
            )
    return failed


def pass_gates(outcomes: Sequence[Mapping[str, Any]]) -> None:
    """End in an error if a result is below its gate.

    Raises:
        NumericalError: at least one is; what was written stays.
    """
    failed = [
        f"{outcome['output_dir']}: {gate}" for outcome in outcomes for gate in outcome["gates"]
    ]
    if failed:
        raise NumericalError(f"{'; '.join(failed)}; the results were written, do not trust them")
