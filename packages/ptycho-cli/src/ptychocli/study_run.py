"""Running the trials of a study: simulate, train, reconstruct, score; each result is a file.

A trial that has its file is not run again; a training goes on from its last checkpoint.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from ptychocli.console import Console, duration
from ptychocli.rundir import BUNDLE
from ptychocli.studies import METHODS, Trial
from ptychodata.files import atomic_path, dump_json, parse_json

if TYPE_CHECKING:
    from ptychodata.backends import Backend
    from ptychodata.bundle import Bundle
    from ptychodata.contracts import Reconstruction, Scan
    from ptychodata.metrics import Comparison

__all__ = ["Runner", "StoppedError"]

_TAKEN = "seconds.json"


class StoppedError(Exception):
    """The time is over, or the user has asked to stop."""


@dataclass(frozen=True)
class Runner:
    """Runs trials into a folder.

    Args:
        folder: takes ``trials/`` and ``networks/``.
        engine: what computes.
        bundle: the network to use in place of training any.
        settings: of the training, over those of a trial.
        should_stop: whether the time is over, or the user has asked to stop.
        console: where to say what happens.
    """

    folder: Path
    engine: "Backend"
    bundle: "Bundle | None"
    settings: Mapping[str, Any]
    should_stop: Callable[[], bool]
    console: Console

    def rows(self, trial: Trial, seed: int) -> list[dict[str, Any]]:
        """The rows of a trial, from its file or by running it.

        Raises:
            StoppedError: before it was finished.
        """
        path = self.folder / "trials" / f"{_slug(trial.name)}-{seed}.json"
        asked = parse_json(dump_json(self._asked(trial)))
        if path.is_file():
            kept = parse_json(path.read_text(encoding="utf-8"))
            if kept["settings"] == asked:
                rows: list[dict[str, Any]] = kept["rows"]
                return rows
        if self.should_stop():
            raise StoppedError
        self.console.note(f"{trial.name}, seed {seed}")
        found = self._run(trial, seed, path.with_suffix(".png"))
        with atomic_path(path) as temporary:
            temporary.write_text(dump_json({"settings": asked, "rows": found}), encoding="utf-8")
        return found

    def _asked(self, trial: Trial) -> dict[str, Any]:
        """Everything that the result follows from but the seed, to know a file by."""
        given = None
        if self.bundle is not None:
            given = {"trained_with": self.bundle.versions, "statistics": self.bundle.statistics}
        training = None if given else {**trial.training, **self.settings}
        return {
            "backend": self.engine.name,
            "test": trial.test,
            "train": trial.train,
            "training": training,
            "inference": trial.inference,
            "bundle": given,
        }

    def _run(self, trial: Trial, seed: int, picture: Path) -> list[dict[str, Any]]:
        from ptychocli.study_figures import write_images
        from ptychodata.baselines import first_step
        from ptychodata.contracts import Solution
        from ptychodata.residuals import solution_misfit

        scan = _simulated(trial.test, 1000 + seed)
        bundle, trained_s = self._network(trial, seed)
        self._infer(bundle, scan, trial)  # the first one also loads the framework
        started = monotonic()
        image = self._infer(bundle, scan, trial)
        inferred_s = monotonic() - started
        made = {"network": (image, inferred_s)}
        for method, seconds in zip(METHODS[1:3], (trained_s + inferred_s, inferred_s), strict=True):
            made[method] = self._solve(scan, seconds)
        started = monotonic()
        zero = first_step(scan, alone=trial.inference.get("merge") == "none")
        made["zero"] = (zero, monotonic() - started)
        about = {
            "trial": trial.name,
            "value": trial.value,
            "series": trial.series,
            "seed": seed,
            "in_generator": self._in_generator(trial, scan),
            "train_seconds": trained_s,
        }
        compared = {method: _compared(image, scan) for method, (image, _) in made.items()}
        picture.parent.mkdir(exist_ok=True)
        write_images(trial.name, compared, picture)
        return [
            {
                **about,
                "method": method,
                "seconds": seconds,
                **compared[method].scores,
                "r_factor": solution_misfit(Solution(image), scan).residuals["r_factor"],
            }
            for method, (image, seconds) in made.items()
        ]

    def _in_generator(self, trial: Trial, scan: "Scan") -> bool:
        from ptychodata.corpus import in_generator

        return trial.in_generator if self.bundle is None else in_generator(scan)

    def _network(self, trial: Trial, seed: int) -> "tuple[Bundle, float]":
        """The network of a trial, from its folder or trained now, and the time that it took."""
        from ptychodata.backends import LAST_CHECKPOINT
        from ptychodata.bundle import read_bundle, write_bundle

        if self.bundle is not None:
            return self.bundle, 0.0
        folder = self.folder / "networks" / f"{trial.network_key()}-{seed}"
        taken = folder / _TAKEN
        if (folder / BUNDLE).is_file():
            return read_bundle(folder), parse_json(taken.read_text())["seconds"]
        folder.mkdir(parents=True, exist_ok=True)
        earlier = parse_json(taken.read_text())["seconds"] if taken.is_file() else 0.0
        scans = [
            _simulated(scan, 1 + seed * len(trial.train) + number)
            for number, scan in enumerate(trial.train)
        ]
        last = folder / LAST_CHECKPOINT
        started = monotonic()
        with self.console.progress() as report:
            bundle = self.engine.train(
                scans,
                self._training(trial, seed, max(scan.N for scan in scans)),
                folder,
                report,
                self.should_stop,
                last if last.is_file() else None,
            )
        seconds = earlier + monotonic() - started
        with atomic_path(taken) as temporary:
            temporary.write_text(dump_json({"seconds": seconds}), encoding="utf-8")
        if self.should_stop():
            raise StoppedError
        write_bundle(bundle, folder / BUNDLE)
        self.console.note(f"trained for {duration(seconds)}")
        return bundle, seconds

    def _training(self, trial: Trial, seed: int, side: int) -> Any:
        from ptychoconfig.payloads import create_training_payload

        flags = {"seed": seed, "probe": "file", "preview_every": 0}
        flags |= {**trial.training, **self.settings}
        return create_training_payload(N=side, flags=flags)

    def _infer(self, bundle: "Bundle", scan: "Scan", trial: Trial) -> "Reconstruction":
        from ptychoconfig.payloads import create_inference_payload

        flags = {"probe": "file", "held_out_fraction": 0.0, **trial.inference}
        payload = create_inference_payload(bundle_config=bundle.config, flags=flags)
        with self.console.progress() as report:
            return self.engine.infer(bundle, scan, payload, report)

    def _solve(self, scan: "Scan", seconds: float) -> "tuple[Reconstruction, float]":
        """The solver's image with the probe held, after so long or when it has converged."""
        from ptychoconfig.payloads import create_solver_payload

        flags = {"max_time": seconds, "refine_probe": "off", "held_out_fraction": 0.0}
        payload = create_solver_payload(flags=flags)
        started = monotonic()
        with self.console.progress() as report:
            solution = self.engine.reconstruct(scan, payload, report, lambda: False)
        return solution.reconstruction, monotonic() - started


def _simulated(settings: Mapping[str, Any], seed: int) -> "Scan":
    from ptychoconfig.schema import SimulationConfig
    from ptychodata.simulate import simulate

    config: SimulationConfig = SimulationConfig.model_validate({**settings, "seed": seed})
    return simulate(config)


def _compared(image: "Reconstruction", scan: "Scan") -> "Comparison":
    """The image and the known object in one gauge."""
    from ptychodata.metrics import compare

    assert scan.truth is not None
    origins = np.stack([image.origin_yx_px, np.zeros(2)])
    return compare((image.obj, scan.truth), origins, scan.positions_px)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())
