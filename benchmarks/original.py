"""`cnn` on the lines that PtychoPINN publishes results for: score against epoch.

    OMP_NUM_THREADS=1 python benchmarks/original.py original.json --folder runs --case 1
    OMP_NUM_THREADS=1 python benchmarks/original.py original.json --folder runs --case 3
    python benchmarks/original.py original.json --folder runs --figure original.png

Case 1 is one pattern at a time and the mean absolute error of amplitudes, case 3 four patterns that
share one patch and the Poisson likelihood, both under the ideal probe.  The network trains on two
scans as the original does, in bf16, and after each epoch the scan of a third object is scored in
two ways: ``merged``, windows weighted by their illumination, as `ptycho infer` merges them, over
the box of the probe centres; and ``tiles``, the central 10 px of each patch side by side, less 2 px
on each side, as the original does.  Either is aligned with the truth first (``compare``).

A run goes on where it was ended or killed, and comes to the same figures: every epoch's weights
stay in the folder, and every row in the JSON file.  At --max-time it ends; a later call with more
--epochs, up to the original's 60, goes on.  Epoch 0 is the network before training; beside it stand
an even object and the first ePIE step of each pattern, stitched.  Prints the table.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy.spatial import cKDTree
from skimage.metrics import structural_similarity

from ptychoconfig.payloads import TrainingPayload, create_training_payload
from ptychoconfig.schema import Duration, SimulationConfig
from ptychodata.backends import LAST_CHECKPOINT, Progress, load_backend
from ptychodata.baselines import first_step
from ptychodata.contracts import Scan
from ptychodata.files import atomic_path, dump_json
from ptychodata.grouping import group_indices
from ptychodata.metrics import Comparison, compare
from ptychodata.physics import split_positions
from ptychodata.simulate import scan_of, simulate
from ptychodata.stitching import Canvas, plan_canvas
from ptychotorch import physics
from ptychotorch.batches import GroupDataset
from ptychotorch.networks import build_network, merge_weight
from ptychotorch.networks._base import PatternNetwork

EPOCHS = 60  # of the original; the learning rate is constant, so fewer are the first of them
STEP_PX, TEST_STEP_PX = 4.0, 10.0
TRIM_PX = 2
PEAK_255_DB = float(20 * np.log10(255))
PUBLISHED = {
    1: {"amplitude_ssim": 0.620, "psnr_255_db": 60.67, "amplitude_mae": 0.1854, "ms_ssim": 0.852},
    3: {"amplitude_ssim": 0.952, "psnr_255_db": 71.34, "amplitude_mae": 0.0518, "ms_ssim": 0.993},
}
FLAGS: dict[str, Any] = {
    "architecture": "cnn",
    "epochs": EPOCHS,
    "scheduler": "constant",
    "gradient_clip_val": None,
    "val_fraction": 0.0,
    "amplitude_weight": 0.0,
    "precision": "bf16-mixed",
    "preview_every": 0,
    "checkpoint_save_top_k": -1,
}
CASES: dict[int, dict[str, Any]] = {
    1: {"gridsize": 1, "mae_weight": 1.0},
    3: {"gridsize": 2, "object_big": False, "poisson_weight": 1.0},
}


@dataclass(frozen=True)
class Test:
    """What the network is applied to.

    Args:
        scan: of the object that it has not seen.
        groups: (G, C) patterns of each patch, row by row of a square raster.
        nodes_px: (G, 2) centres (y, x) of the patches.
    """

    scan: Scan
    groups: NDArray[np.int64]
    nodes_px: NDArray[np.float64]


def main() -> None:
    """Train on from where the folder stands, score the epochs that lack a row, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="JSON file, made if absent and added to.")
    parser.add_argument("--folder", type=Path, required=True, help="Takes weights of each epoch.")
    parser.add_argument("--case", type=int, choices=sorted(CASES))
    parser.add_argument("--epochs", type=int, default=10, help=f"Up to {EPOCHS}.")
    parser.add_argument("--max-time", default="2h", help="End after this: 90s, 2h.")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--side", type=int, default=83, help="Training positions per axis.")
    parser.add_argument("--test-side", type=int, default=33, help="Test positions per axis.")
    parser.add_argument("--figure", type=Path, help="Draw what the file holds.")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if arguments.case:
        run(arguments)
    results = json.loads(arguments.results.read_text())
    print(table(results))
    if arguments.figure:
        draw(results, arguments)


def run(arguments: argparse.Namespace) -> None:
    """Train and score one case, epoch by epoch."""
    case, side = arguments.case, arguments.side
    limit = time.monotonic() + TypeAdapter(Duration).validate_python(arguments.max_time)
    payload = settings(case, side, arguments.seed)
    scans = [raster(seed, side, STEP_PX) for seed in (1, 3)]
    test = test_scan(payload.model.C, arguments.test_side)
    folder = arguments.folder / f"case-{case}"
    folder.mkdir(parents=True, exist_ok=True)
    record(arguments, "baselines", partial(baselines, test))
    record(arguments, "0", partial(row, payload, None, test))
    while True:
        kept = {int(path.name[6:10]): path for path in folder.glob("**/epoch=*.ckpt")}
        for epoch, path in sorted(kept.items()):
            record(arguments, str(epoch), partial(row, payload, path, test))
        if max(kept, default=0) >= arguments.epochs or time.monotonic() > limit:
            return
        with patch("ptychodata.training.batches.group_indices", blocks):
            one_epoch(scans, payload, folder, limit)


def settings(case: int, side: int, seed: int) -> TrainingPayload:
    """How the original trains, and for C = 4 as many groups as there are squares of four."""
    flags = FLAGS | CASES[case] | {"seed": seed}
    if case == 3:
        flags["n_groups"] = (side - 1) ** 2
    return create_training_payload(N=64, flags=flags, environment={})


def one_epoch(scans: list[Scan], payload: TrainingPayload, folder: Path, limit: float) -> None:
    """Train to the end of an epoch, or of the time; where it stands is in the folder."""
    last = folder / LAST_CHECKPOINT
    told: list[Progress] = []

    def report(progress: Progress) -> None:
        told[:] = [progress]
        if progress.done % 100 == 0 or progress.phase == "epoch":
            print(
                f"epoch {progress.epoch} {progress.done}/{progress.total} "
                f"{progress.patterns_per_s:.1f} patterns/s {progress.metrics}",
                file=sys.stderr,
                flush=True,
            )

    def should_stop() -> bool:
        return told[0].done == told[0].total or time.monotonic() > limit

    resume = last if last.is_file() else None
    load_backend("torch").train(scans, payload, folder, report, should_stop, resume)


def raster(seed: int, side: int, step_px: float) -> Scan:
    """The original's lines, ``side``² positions."""
    lines = {"object_kind": "lines-original", "n_patterns": side**2, "step_px": step_px}
    return normalised(simulate(SimulationConfig.model_validate({**lines, "seed": seed})))


def normalised(scan: Scan) -> Scan:
    """With the probe in the original's gauge: |P| is 1/4 on average where Σ counts is (N/2)².

    The object is about 0.6 so, where a sigmoid is steep; its scale is fitted before it is scored.
    """
    assert scan.probe is not None
    unit = np.sqrt(scan.mean_photons) / (scan.N / 2)
    probe = scan.probe * np.float32(unit / (4 * np.abs(scan.probe).mean()))
    return replace(scan, probe=probe)


def test_scan(members: int, side: int) -> Test:
    """One pattern at each node of a raster of 10 px, or a square of four with a side of 4 px."""
    scan = raster(2, side, TEST_STEP_PX)
    if members == 1:
        return Test(scan, np.arange(len(scan))[:, None], scan.positions_px)
    corners = STEP_PX * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    positions = (scan.positions_px[:, None] + corners).reshape(-1, 2)
    noise = np.random.default_rng(2)
    made = scan_of(scan.truth, scan.probe, positions, 1e9, noise, name=scan.name)
    groups = np.arange(len(positions)).reshape(-1, 4)
    nodes = scan.positions_px + STEP_PX / 2
    return Test(normalised(made), groups, nodes)


def blocks(
    positions_px: NDArray[np.float64],
    gridsize: int,
    neighbor_count: int,
    rng: np.random.Generator,
    **more: Any,
) -> NDArray[np.int64]:
    """Squares of four of a raster in the order of the scan, in place of drawn neighbours: (G, 4).

    The network is not told where the members of a group lie, so that their order must tell.
    """
    if gridsize == 1:
        return group_indices(positions_px, gridsize, neighbor_count, rng, **more)
    corners = STEP_PX * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    distance, index = cKDTree(positions_px).query(positions_px[:, None] + corners)
    found = index[(distance < 1e-3).all(axis=1)].astype(np.int64)
    return np.asarray(found[rng.permutation(len(found))])


def network_of(payload: TrainingPayload, path: Path | None) -> PatternNetwork:
    """The network of a checkpoint, or the one that a training begins with."""
    lightning.seed_everything(payload.training.seed, verbose=False)
    network = build_network(payload.model)
    assert isinstance(network, PatternNetwork)
    network.compute_dtype = torch.bfloat16
    if path is None:
        return network.eval()
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    mine = {name: state[name] for name in state if name.startswith("network.")}
    network.load_state_dict({name.removeprefix("network."): x for name, x in mine.items()})
    return network.eval()


@torch.inference_mode()
def images(network: PatternNetwork, test: Test) -> dict[str, Comparison]:
    """The merged image and the tiles, each aligned with the truth."""
    scan, members = test.scan, test.groups.shape[1]
    probe, dataset = torch.from_numpy(scan.photon_probe), GroupDataset([scan])
    shape, origin = plan_canvas(scan.positions_px, scan.N)
    canvas, tiles = Canvas(shape, origin), []
    pixel = split_positions(scan.positions_px)[0] - origin
    offset = (test.nodes_px - scan.positions_px[test.groups[:, 0]])[0].astype(int)
    half = int(TEST_STEP_PX) // 2
    rows, columns = (slice(scan.N // 2 + at - half, scan.N // 2 + at + half) for at in offset)
    for chunk in np.array_split(test.groups, -(-len(test.groups) // 32)):
        batch = dataset[0, chunk]
        shifted = physics.shift_probe(probe, batch.fraction)
        windows = network(shifted, batch)
        canvas.add(windows.numpy(), pixel[chunk.reshape(-1)], merge_weight(shifted).numpy())
        tiles.append(windows[::members, rows, columns].numpy())
    side = round(len(test.groups) ** 0.5)
    mosaic = np.concatenate(tiles).reshape(side, side, 2 * half, 2 * half)
    mosaic = mosaic.transpose(0, 2, 1, 3).reshape(2 * half * side, -1)
    low = test.nodes_px[0] - half
    ends = np.stack([low + TRIM_PX, low + len(mosaic) - 1 - TRIM_PX])
    return {
        "merged": _compared(canvas.object(), origin, scan, scan.positions_px),
        "tiles": _compared(mosaic, low, scan, ends),
    }


def _compared(
    obj: NDArray[Any], origin: NDArray[Any], scan: Scan, box: NDArray[np.float64]
) -> Comparison:
    assert scan.truth is not None
    return compare((obj, scan.truth), np.stack([origin, np.zeros(2)]), box)


def row(payload: TrainingPayload, path: Path | None, test: Test) -> dict[str, dict[str, float]]:
    """The figures of a checkpoint's images."""
    made = images(network_of(payload, path), test)
    return {name: figures(image) for name, image in made.items()}


def baselines(test: Test) -> dict[str, dict[str, float]]:
    """What no training gives: an even object, and the first ePIE step of each pattern, stitched."""
    scan = test.scan
    zero = first_step(scan)
    even = np.ones_like(zero.obj)
    return {
        name: figures(_compared(obj, zero.origin_yx_px, scan, scan.positions_px))
        for name, obj in (("even object", even), ("zero", zero.obj))
    }


def figures(image: Comparison) -> dict[str, float]:
    """Scores of an aligned image; SSIM of the phase has the range 2π, where the truth is 0."""
    ours, truth = np.abs(image.obj), np.abs(image.truth)
    phases = ((np.angle(x) + np.pi) / (2 * np.pi) for x in (image.truth, image.obj))
    peak_1 = float(-10 * np.log10(np.mean((ours - truth) ** 2)))
    scores = image.scores
    return {
        "amplitude_ssim": scores["amplitude_ssim"],
        "ms_ssim": scores["amplitude_ms_ssim"],
        "amplitude_mae": scores["amplitude_mae"],
        "amplitude_correlation": scores["amplitude_correlation"],
        "psnr_1_db": peak_1,
        "psnr_255_db": peak_1 + PEAK_255_DB,
        "phase_ssim": float(structural_similarity(*phases, data_range=1.0)),
        "phase_mae_rad": scores["phase_mae_rad"],
        "scale": scores["scale"],
    }


def record(arguments: argparse.Namespace, name: str, found: Callable[[], Any]) -> None:
    """Add a row of a case to the file, unless it has it."""
    path: Path = arguments.results
    results = json.loads(path.read_text()) if path.exists() else {}
    asked = {"seed": arguments.seed, "side": arguments.side, "test_side": arguments.test_side}
    mine = results.setdefault(f"case {arguments.case}", {"settings": asked, "rows": {}})
    if mine["settings"] != asked:
        raise SystemExit(f"{path}: has other settings, {mine['settings']}; take another file")
    if name not in mine["rows"]:
        mine["rows"][name] = found()
        with atomic_path(path) as temporary:
            temporary.write_text(dump_json(results))


_COLUMNS = ("amplitude_ssim", "ms_ssim", "amplitude_mae", "psnr_1_db", "psnr_255_db", "phase_ssim")


def table(results: dict[str, Any]) -> str:
    """Every row of the file, and what is published."""
    lines = [f"{'':30}" + "".join(f"{name:>16}" for name in _COLUMNS)]
    for case, known in results.items():
        told = [
            (f"{case}, {epoch}, {name}", found)
            for epoch, row in sorted(known["rows"].items(), key=lambda it: it[0].zfill(3))
            for name, found in row.items()
        ]
        told.append((f"{case}, published, {EPOCHS}", PUBLISHED[int(case[-1])]))
        lines += [
            f"{name:30}" + "".join(f"{found.get(c, np.nan):16.4f}" for c in _COLUMNS)
            for name, found in told
        ]
    return "\n".join(lines)


def draw(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Score against epoch, and the last images beside their truth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), 4, squeeze=False)
    for line, (name, known) in zip(axes, results.items(), strict=True):
        case, asked = int(name[-1]), known["settings"]
        epochs = sorted(int(epoch) for epoch in known["rows"] if epoch.isdigit())
        for kind, mark in (("tiles", "o-"), ("merged", "s-")):
            scores = [known["rows"][str(epoch)][kind]["amplitude_ssim"] for epoch in epochs]
            line[0].plot(epochs, scores, mark, markersize=3, label=kind)
        published = PUBLISHED[case]["amplitude_ssim"]
        line[0].axhline(published, color="grey", label=f"published, {EPOCHS} epochs")
        for kind, mark in (("zero", "--"), ("even object", ":")):
            untrained = known["rows"]["baselines"][kind]["amplitude_ssim"]
            line[0].axhline(untrained, color="grey", linestyle=mark, label=kind)
        line[0].set(xlabel="epoch", ylabel="amplitude SSIM", title=name, ylim=(0, 1))
        line[0].legend(fontsize=7, loc="lower right")
        payload = settings(case, asked["side"], asked["seed"])
        last = next((arguments.folder / f"case-{case}").glob(f"**/epoch={epochs[-1]:04d}*.ckpt"))
        made = images(network_of(payload, last), test_scan(payload.model.C, asked["test_side"]))
        truth = np.abs(made["tiles"].truth)
        shown = {"truth": truth, **{kind: np.abs(image.obj) for kind, image in made.items()}}
        for panel, (kind, image) in zip(line[1:], shown.items(), strict=True):
            panel.imshow(image, cmap="gray", vmin=truth.min(), vmax=truth.max())
            panel.set_title(kind if kind == "truth" else f"{kind}, epoch {epochs[-1]}")
            panel.set_axis_off()
    figure.savefig(arguments.figure, dpi=90)


if __name__ == "__main__":
    main()
