"""One reconstruction by pty-chi, in an interpreter that has it.

    python -P ptychi_worker.py INPUT.npz OUTPUT.npz STOP
    python -P ptychi_worker.py --check

A script, in a folder that is no package: nothing imports it, and it imports nothing of ``ptycho``.
``ptychodata.engines.ptychi`` writes INPUT, runs this file and reads OUTPUT; both are described
there.  Every line of stdout is a JSON object: ``{"ptychi": VERSION}`` once it has loaded, which is
all that ``--check`` asks, and ``{"epoch": …, "loss": …}`` after each epoch.  The run ends early
once the file STOP exists.

Conventions of pty-chi 2.2.0, each verified by reconstructing a simulated scan:

- Its Fourier transform is not normalised, so its probe is ours over N.
- It wants counts, DC in the middle, and moves DC to the corner itself.
- A window of even N is centred between pixels: position 0 lies at ``position_origin_coords`` −
  ½ in ours, so windows begin at ⌊r + ½⌋ − N/2 as ours do.
- Positions are (y, x), +y down the rows, +x along the columns, as ours.
- Only the first probe mode is shifted by the positions' fractions.
"""

import json
import math
import os
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np


def main() -> None:
    """Load pty-chi, say which, and reconstruct if asked to."""
    _provide_torchvision()
    import ptychi.api.task

    say({"ptychi": ptychi.__version__})
    if sys.argv[1:] != ["--check"]:
        reconstruct(*sys.argv[1:])


def reconstruct(source: str, target: str, stop: str) -> None:
    """Read, reconstruct, write."""
    import torch
    from ptychi.api.task import PtychographyTask

    with np.load(source, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    settings = json.loads(str(arrays.pop("settings")))
    if settings["threads"] is not None:
        torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    np.random.seed(settings["seed"])  # noqa: NPY002 - pty-chi draws from the global generator
    probe = _initial_probe(arrays["probe"] / arrays["probe"].shape[-1], settings)
    task = PtychographyTask(
        _options(settings),
        diffraction_data=arrays["counts"],
        object_data=arrays["object"][None],
        probe_data=probe,
        probe_position_y_px=arrays["positions_px"][:, 0],
        probe_position_x_px=arrays["positions_px"][:, 1],
        opr_mode_weights_data=_opr_weights(len(arrays["counts"]), probe, settings),
        valid_pixel_mask=arrays["valid"],
    )
    if settings["algorithm"] != "dm":  # whose loss is fixed
        task.reconstructor.loss_tracker.metric_function = residual(task.dataset.valid_pixel_mask)
    write(target, run(task, settings, stop))


def say(message: dict[str, Any]) -> None:
    """Tell the parent, which may have gone: then the broken pipe ends this process."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def residual(valid: Any) -> Callable[[Any, Any], Any]:
    """R = Σ|√I − √λ| / Σ√I over the valid pixels of a batch, as it was before its update."""

    def of(rate: Any, counts: Any) -> Any:
        measured = counts.sqrt() * valid
        return (measured - rate.sqrt() * valid).abs().sum() / measured.sum()

    return of


def run(task: Any, settings: dict[str, Any], stop: str) -> dict[str, Any]:
    """Epochs until one of the bounds is met; keeping snapshots does not count as time."""
    names = "loss", "wall_s", "cpu_s", "snapshots", "snapshot_epochs"
    values: dict[str, list[Any]] = {name: [] for name in names}
    wall = cpu = 0.0
    for epoch in range(1, settings["epochs"] + 1):
        since = time.perf_counter(), time.process_time()
        task.run(n_epochs=1)
        wall, cpu = wall + time.perf_counter() - since[0], cpu + time.process_time() - since[1]
        loss = float(task.reconstructor.loss_tracker.table["loss"].iloc[-1])
        finite = math.isfinite(loss)
        say({"epoch": epoch, "loss": loss if finite else None, "wall_s": wall, "cpu_s": cpu})
        for name, value in zip(names, (loss, wall, cpu), strict=False):
            values[name].append(value)
        if settings["keep_every"] and epoch % settings["keep_every"] == 0:
            values["snapshots"].append(task.get_data_to_cpu("object", as_numpy=True)[0].copy())
            values["snapshot_epochs"].append(epoch)
        late = settings["max_time_s"] is not None and wall >= settings["max_time_s"]
        if late or not finite or os.path.exists(stop):
            break
    return {name: np.asarray(found) for name, found in values.items()} | _results(task)


def _results(task: Any) -> dict[str, Any]:
    import ptychi
    import torch

    probe = task.get_data_to_cpu("probe", as_numpy=True)
    return {
        "object": task.get_data_to_cpu("object", as_numpy=True)[0],
        "probe": probe * probe.shape[-1],
        "positions_px": task.get_data_to_cpu("probe_positions", as_numpy=True),
        "opr_weights": task.get_data_to_cpu("opr_mode_weights", as_numpy=True),
        "versions": json.dumps({"ptychi": ptychi.__version__, "torch": torch.__version__}),
        "peak_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int:
    """The largest memory of this process; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write(path: str, arrays: dict[str, Any]) -> None:
    """Write whole or not at all."""
    with open(path + ".part", "wb") as stream:
        np.savez(stream, **arrays)
    os.replace(path + ".part", path)


def _options(settings: dict[str, Any]) -> Any:
    import ptychi.api as api
    import torch

    classes = {
        "lsqml": api.LSQMLOptions,
        "rpie": api.RPIEOptions,
        "epie": api.EPIEOptions,
        "dm": api.DMOptions,
    }
    options = classes[settings["algorithm"]]()
    gpu = settings["device"] != "cpu" and torch.cuda.is_available()
    if settings["device"] == "gpu" and not gpu:
        raise RuntimeError("expected a GPU, as asked, found none that this Torch can use")
    reconstructor = options.reconstructor_options
    reconstructor.default_device = api.Devices.GPU if gpu else api.Devices.CPU
    reconstructor.num_epochs = settings["epochs"]
    reconstructor.random_seed = settings["seed"]
    if settings["algorithm"] == "dm":
        reconstructor.chunk_length = settings["batch_size"]
    else:
        reconstructor.batch_size = settings["batch_size"]
    if settings["algorithm"] == "lsqml":
        reconstructor.rescale_probe_intensity_in_first_epoch = False  # the power is right already
    options.object_options.determine_position_origin_coords_by = (
        api.ObjectPosOriginCoordsMethods.SPECIFIED
    )
    options.object_options.position_origin_coords = settings["origin_px"]
    options.object_options.remove_object_probe_ambiguity.enabled = settings["refine_probe"]
    options.probe_options.optimizable = settings["refine_probe"]
    options.probe_position_options.optimizable = settings["refine_positions"]
    options.opr_mode_weight_options.optimizable = settings["opr_modes"] > 1
    for path, value in settings["options"].items():
        _set(options, path, value)
    return options


def _set(options: Any, path: str, value: Any) -> None:
    """Set ``object_options.alpha`` and the like; pty-chi checks the value."""
    *groups, last = path.split(".")
    for name in groups:
        options = getattr(options, name)
    setattr(options, last, value)


def _initial_probe(probe: Any, settings: dict[str, Any]) -> Any:
    """(V, M, N, N) start, random in the modes of relaxation."""
    import torch
    from ptychi.utils import add_additional_opr_probe_modes_to_probe

    start = torch.from_numpy(probe)[None]
    if settings["opr_modes"] > 1:
        start = add_additional_opr_probe_modes_to_probe(start, settings["opr_modes"] - 1)
    return start


def _opr_weights(count: int, probe: Any, settings: dict[str, Any]) -> Any:
    from ptychi.utils import generate_initial_opr_mode_weights

    if settings["opr_modes"] == 1:
        return None
    return generate_initial_opr_mode_weights(count, settings["opr_modes"], probe=probe)


def _provide_torchvision() -> None:
    """Stand in for the one transform that pty-chi imports, where torchvision does not load.

    torchvision's extension is built for one build of Torch, and fails beside another.
    """
    try:
        import torchvision.transforms  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        import torch
    else:
        return

    class GaussianBlur:
        """Gaussian blur of (…, H, W) with a square kernel of odd size, edges reflected."""

        def __init__(self, kernel_size: tuple[int, int], sigma: tuple[float, float]) -> None:
            self.size, self.sigma = kernel_size[0], sigma[0]

        def __call__(self, image: torch.Tensor) -> torch.Tensor:
            x = torch.arange(self.size, dtype=image.dtype) - self.size // 2
            line = torch.softmax(-(x**2) / (2 * self.sigma**2), dim=0)
            pad = torch.nn.functional.pad(image, [self.size // 2] * 4, mode="reflect")
            return torch.nn.functional.conv2d(pad, torch.outer(line, line)[None, None])

    transforms = types.ModuleType("torchvision.transforms")
    transforms.GaussianBlur = GaussianBlur  # type: ignore[attr-defined]
    package = types.ModuleType("torchvision")
    package.transforms = transforms  # type: ignore[attr-defined]
    sys.modules |= {"torchvision": package, "torchvision.transforms": transforms}


if __name__ == "__main__":
    main()
