"""Studies: what they ask, that they go on where they stopped, and what they write."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptychocli.studies import (
    METHODS,
    STUDIES,
    Study,
    Trial,
    below_bounds,
    dose_ratio,
    shortened,
    summarised,
)
from ptychoconfig.payloads import create_inference_payload, create_training_payload
from ptychoconfig.schema import SimulationConfig

Ptycho = Callable[..., Any]


def study(ptycho: Ptycho, folder: Path, *more: object, name: str = "overlap") -> Any:
    command = ("study", name, "--short", "--backend", "stub", "--quiet", "--output-dir", folder)
    return ptycho(*command, "--seeds", 1, *more)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans that even NumPy solves in no time."""
    monkeypatch.setattr("ptychocli.studies._SMALL", {"N": 32, "n_patterns": 16})


@pytest.fixture
def no_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stub's image is flat, so that no bound would be reached."""
    monkeypatch.setattr("ptychocli.studies.below_bounds", lambda *_: [])


@pytest.mark.parametrize("name", STUDIES)
def test_every_trial_has_settings_that_are_accepted(name: str) -> None:
    for one in (STUDIES[name], shortened(name)):
        names = [trial.name for trial in one.trials]
        assert names and len(set(names)) == len(names)
        assert bool(one.axis) == all(trial.value is not None for trial in one.trials)
        for trial in one.trials:
            for scan in (trial.test, *trial.train):
                SimulationConfig.model_validate({**scan, "seed": 1})
            payload = create_training_payload(N=64, flags=dict(trial.training))
            model = {"model": payload.model.model_dump()}
            create_inference_payload(bundle_config=model, flags=dict(trial.inference))
    assert set(shortened(name).bounds) <= {trial.name for trial in shortened(name).trials}


def test_trials_that_train_alike_share_the_network() -> None:
    assert len({trial.network_key() for trial in STUDIES["overlap"].trials}) == 1
    assert len({trial.network_key() for trial in STUDIES["dose"].trials}) == 12


def test_what_was_not_trained_on_is_marked() -> None:
    marked = {trial.name: trial.in_generator for trial in STUDIES["transfer"].trials}
    assert marked["lines, donut"] and not marked["Siemens star"]
    assert not marked["held-out photographs"]


@pytest.mark.usefixtures("no_bounds")
def test_a_study_leaves_a_table_a_figure_and_pictures(ptycho: Ptycho, tmp_path: Path) -> None:
    outcome = study(ptycho, tmp_path / "out", "--json", "--seeds", 2)
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "out" / "overlap.json").read_text())
    with (tmp_path / "out" / "overlap.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found["rows"]) == 2 * 2 * len(METHODS)
    assert {row["method"] for row in rows} == set(METHODS)
    for row in rows:
        assert row["in_generator"] == "True"
        assert 0 <= float(row["amplitude_ssim"]) <= 1
    assert (tmp_path / "out" / "overlap.png").stat().st_size > 10_000
    assert len(list((tmp_path / "out" / "trials").glob("*.png"))) == 4
    told = outcome.json
    assert (told["trials_done"], told["trials"]) == (4, 4)
    solver = [row for row in told["summary"] if row["method"] == METHODS[1]]
    zero = [row for row in told["summary"] if row["method"] == "zero"]
    assert all(a["r_factor"] < b["r_factor"] for a, b in zip(solver, zero, strict=True))
    assert all(row["seeds"] == 2 for row in told["summary"])


@pytest.mark.usefixtures("no_bounds")
def test_what_is_done_is_not_done_again(
    ptycho: Ptycho, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study(ptycho, tmp_path / "out").code == 0
    before = {path: path.read_text() for path in (tmp_path / "out" / "trials").glob("*.json")}
    assert len(before) == 2
    assert study(ptycho, tmp_path / "out", "--seeds", 2).code == 0
    assert all(path.read_text() == text for path, text in before.items())
    again = pytest.fail
    monkeypatch.setattr("ptychocli.study_run.Runner._run", lambda *_: again("it ran again"))
    assert study(ptycho, tmp_path / "out", "--seeds", 2).code == 0


@pytest.mark.usefixtures("no_bounds")
def test_it_stops_at_the_time_and_goes_on(ptycho: Ptycho, tmp_path: Path) -> None:
    outcome = study(ptycho, tmp_path / "out", "--max-time", 1e-6)
    assert outcome.code == 0
    assert "0 of 2 trials are done" in outcome.out
    assert not (tmp_path / "out" / "overlap.csv").exists()
    assert study(ptycho, tmp_path / "out").code == 0
    assert len(list((tmp_path / "out" / "trials").glob("*.json"))) == 2


@pytest.mark.usefixtures("no_bounds")
def test_another_network_makes_a_trial_anew(ptycho: Ptycho, tmp_path: Path, trained: Path) -> None:
    assert study(ptycho, tmp_path / "out").code == 0
    given = study(ptycho, tmp_path / "out", "--bundle", trained)
    assert given.code == 0, given.err
    found = json.loads((tmp_path / "out" / "overlap.json").read_text())
    assert {row["train_seconds"] for row in found["rows"]} == {0}
    refused = study(ptycho, tmp_path / "other", "--bundle", trained, name="dose")
    assert refused.code == 2
    assert "about training" in refused.err


def test_an_image_below_its_bound_ends_in_code_7(ptycho: Ptycho, tmp_path: Path) -> None:
    outcome = study(ptycho, tmp_path / "out")
    assert outcome.code == 7
    assert "expected amplitude_ssim of" in outcome.err
    assert (tmp_path / "out" / "overlap.csv").is_file()


def row(trial: str, score: float, **more: Any) -> dict[str, Any]:
    common = {"method": "network", "in_generator": True, "value": None, "series": "network"}
    return {"trial": trial, "amplitude_ssim": score, "phase_ssim": score, "r_factor": 0.1,
            "seconds": 1.0, **common, **more}  # fmt: skip


def test_a_summary_is_mean_and_deviation_over_seeds() -> None:
    [found] = summarised([row("a", 0.6), row("a", 0.8), row("a", 0.7)])
    assert found["phase_ssim"] == pytest.approx(0.7)
    assert found["phase_ssim_sd"] == pytest.approx(0.1)
    [single] = summarised([row("a", 0.6)])
    assert single["phase_ssim_sd"] is None
    [without] = summarised([{**row("a", 0.6), "phase_ssim": None}])
    assert without["phase_ssim"] is None


def test_the_dose_ratio_is_read_off_between_doses() -> None:
    rows = [row("p", 0.8, value=1e4, series="Poisson")]
    rows += [
        row(f"a{dose:g}", score, value=dose, series="amplitude")
        for dose, score in ((1e4, 0.7), (1e5, 0.9))
    ]
    assert dose_ratio(summarised(rows)) == pytest.approx(10**0.5)
    assert dose_ratio(summarised(rows[1:])) is None
    assert dose_ratio(summarised([{**rows[0], "phase_ssim": 0.95}, *rows[1:]])) is None


def test_bounds_are_of_the_network_alone() -> None:
    asked = Study("?", (Trial("a", {}, ()),), bounds={"a": (0.7, 0.5)})
    summary = summarised([row("a", 0.6), row("a", 0.1, method="zero")])
    assert below_bounds(asked, summary) == ["a: expected amplitude_ssim of 0.7, found 0.600"]
