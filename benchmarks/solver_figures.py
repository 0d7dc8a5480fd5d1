"""The solver's course beside pty-chi's, and the star of both, as pictures.

    python benchmarks/solver_figures.py curves OUT.png \
        --ours LABEL=ours.json … --theirs LABEL=SECONDS,R_FREE …
    python benchmarks/solver_figures.py images OUT.png LABEL=RESULT.npz LABEL=RESULT.npz

``ours.json`` comes from ``benchmarks/solver.py --json``; a result is any NPZ with ``object``.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt


def main() -> None:
    """Draw what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("curves", "images"))
    parser.add_argument("out", type=Path)
    parser.add_argument("results", nargs="*")
    parser.add_argument("--ours", nargs="*", default=[])
    parser.add_argument("--theirs", nargs="*", default=[])
    arguments = parser.parse_args()
    if arguments.kind == "curves":
        curves(arguments.out, arguments.ours, arguments.theirs)
    else:
        images(arguments.out, arguments.results)


def curves(out: Path, ours: list[str], theirs: list[str]) -> None:
    """R_free against processor time; each point of ours is a run of its own."""
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for pair in ours:
        label, path = pair.split("=", 1)
        rows = json.loads(Path(path).read_text())
        axes.plot([r["cpu_s"] for r in rows], [r["r_free"] for r in rows], "o-", label=label)
    points: dict[str, list[list[float]]] = {}
    for pair in theirs:
        label, values = pair.split("=", 1)
        points.setdefault(label, []).append([float(v) for v in values.split(",")])
    for label, found in points.items():
        axes.plot(*np.array(found).T, "s--", label=label, mfc="none")
    axes.set(xscale="log", xlabel="processor time, one thread (s)", ylabel="R_free")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out, dpi=110)


def images(out: Path, results: list[str]) -> None:
    """Phases side by side, on one grey scale."""
    figure, axes = plt.subplots(
        1, len(results), figsize=(4.2 * len(results), 4.4), layout="constrained"
    )
    for axis, pair in zip(np.atleast_1d(axes), results, strict=True):
        label, path = pair.split("=", 1)
        with np.load(path) as archive:
            obj = archive["object"]
        margin = 72  # of 128² patterns: what all of the probe has seen
        phase = np.angle(obj[margin:-margin, margin:-margin])
        phase = np.angle(np.exp(1j * (phase - np.median(phase))))
        rows, columns = (np.arange(n) - n / 2 for n in phase.shape)
        design = np.stack(np.broadcast_arrays(rows[:, None], columns, 1.0), -1).reshape(-1, 3)
        plane = design @ np.linalg.lstsq(design, phase.ravel(), rcond=None)[0]
        axis.imshow(phase - plane.reshape(phase.shape), cmap="gray", vmin=-0.6, vmax=0.6)
        axis.set_title(label, fontsize=10)
        axis.axis("off")
    figure.savefig(out, dpi=75)


if __name__ == "__main__":
    main()
