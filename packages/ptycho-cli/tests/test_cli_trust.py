"""What ``infer`` says of how far to trust its image, and the gates that end it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ptychoconfig.schema import SimulationConfig
from ptychodata import formats
from ptychodata.grouping import hold_out_interior
from ptychodata.results import read_solution
from ptychodata.simulate import simulate


@pytest.fixture
def seeing(monkeypatch):
    """Let the stub's network see the object: the truth, and noise of each call's own."""
    import ptychostub

    blind = ptychostub.StubBackend.infer
    rng = np.random.default_rng(0)

    def infer(self, bundle, scan, payload, report):
        image = blind(self, bundle, scan, payload, report)
        noise = rng.normal(size=(2, *scan.truth.shape))
        obj = scan.truth + 0.02 * (noise[0] + 1j * noise[1])
        return replace(
            image,
            obj=obj.astype(np.complex64),
            coverage=np.ones(scan.truth.shape, np.float32),
            origin_yx_px=np.zeros(2),
        )

    monkeypatch.setattr(ptychostub.StubBackend, "infer", infer)


def test_halves_are_not_computed_unless_asked_for(trained, scan, tmp_path, ptycho):
    outcome = ptycho("infer", trained, scan, "--output-dir", tmp_path / "r", "--json")
    assert outcome.code == 0, outcome.err
    assert "split_half_frc" not in outcome.json
    assert outcome.json["unlike_training"] == []
    assert outcome.json["gates"] == []
    assert "evaluation:" in (tmp_path / "r" / "config.resolved.yaml").read_text()


def test_a_network_that_sees_passes(seeing, trained, scan, tmp_path, ptycho):
    folder = tmp_path / "r"
    outcome = ptycho(
        *("infer", trained, scan, "--output-dir", folder),
        *("--min-frc-px", 4, "--max-r-factor", 0.5),
    )
    assert outcome.code == 0, outcome.err
    assert "split_half_resolution    2.1 px (42 nm)" in outcome.out
    found = json.loads((folder / "metrics.json").read_text())["split_half_frc"]
    assert found["resolution_px"] == found["one_seventh_px"] == pytest.approx(2.1)
    assert found["resolution_m"] == pytest.approx(4.2e-8)
    assert len(found["frequency_per_px"]) == len(found["correlation"]) == len(found["half_bit"])


def test_a_constant_image_is_not_reached(trained, scan, tmp_path, ptycho):
    folder = tmp_path / "r"
    outcome = ptycho("infer", trained, scan, "--output-dir", folder, "--split-half")
    assert outcome.code == 0, outcome.err
    assert "not reached" in outcome.out
    assert "nothing in common" in outcome.err
    found = json.loads((folder / "metrics.json").read_text())["split_half_frc"]
    assert found["resolution_px"] is None
    assert found["resolution_m"] is None


@pytest.fixture
def large(tmp_path):
    """A scan with an interior."""
    scan = simulate(SimulationConfig(N=32, n_patterns=196, overlap=0.75, noise=False))
    formats.write(scan, tmp_path / "large.npz")
    return tmp_path / "large.npz"


def test_r_free_is_of_patterns_that_the_network_never_saw(
    seeing, trained, large, tmp_path, ptycho, monkeypatch
):
    import ptychostub

    given, infer = [], ptychostub.StubBackend.infer

    def watched(self, bundle, scan, payload, report):
        given.append(scan)
        return infer(self, bundle, scan, payload, report)

    monkeypatch.setattr(ptychostub.StubBackend, "infer", watched)
    argv = ("infer", trained, large, "--json", "--output-dir")
    found = ptycho(*argv, tmp_path / "r", "--split-half").json["residuals"]
    scan = formats.read(large)
    held = hold_out_interior(scan.positions_px, 0.05, seed=0)
    assert len(held) >= 5
    seen = [len(part) for part in given]
    assert seen == [196 - len(held), 98, 98]  # halves are made of all their patterns
    np.testing.assert_array_equal(given[0].positions_px, np.delete(scan.positions_px, held, axis=0))
    assert found["r_free"] == pytest.approx(found["r_factor"], rel=0.2)
    np.testing.assert_array_equal(read_solution(tmp_path / "r").held_out, held)
    none = ptycho(*argv, tmp_path / "all", "--held-out-fraction", 0).json["residuals"]
    assert "r_free" not in none


def test_held_out_patterns_tell_what_the_others_do_not(seeing, trained, large, tmp_path, ptycho):
    """Of patterns that others took the place of, R_free is worse; of all shuffled, both are."""
    scan = formats.read(large)
    held = hold_out_interior(scan.positions_px, 0.05, seed=0)
    patterns = np.array(scan.diffraction)
    swapped, shuffled = patterns.copy(), np.random.default_rng(0).permutation(patterns)
    swapped[held] = patterns[np.roll(held, 1)]
    found = {}
    for name, stack in (("right", patterns), ("swapped", swapped), ("shuffled", shuffled)):
        formats.write(replace(scan, diffraction=stack), tmp_path / f"{name}.npz")
        argv = ("infer", trained, tmp_path / f"{name}.npz", "--output-dir", tmp_path / name)
        found[name] = ptycho(*argv, "--json").json["residuals"]
    assert found["swapped"]["r_factor"] == pytest.approx(found["right"]["r_factor"], rel=0.05)
    assert found["swapped"]["r_free"] > 1.2 * found["right"]["r_free"]
    for name in ("r_factor", "r_free", "deviance_ratio", "free_deviance_ratio"):
        assert found["shuffled"][name] > 1.2 * found["right"][name], name


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        (("--min-frc-px", 20), "--min-frc-px: expected the halves to agree down to 20.0 px, found"),
        (("--max-r-factor", 0.001), "--max-r-factor: expected R of at most 0.001, found"),
    ],
)
def test_a_result_below_its_gate_is_written_and_ends_in_7(
    gate, told, trained, scan, tmp_path, ptycho
):
    folder = tmp_path / "r"
    outcome = ptycho("infer", trained, scan, "--output-dir", folder, "--json", *gate)
    assert outcome.code == 7
    assert told in outcome.err
    assert len(outcome.json["gates"]) == 1
    assert {"reconstruction.npz", "metrics.json"} <= {path.name for path in folder.iterdir()}


def test_gates_of_several_scans_name_theirs(trained, write_scan, arrays, tmp_path, ptycho):
    shuffled = np.random.default_rng(0).permutation(arrays["diffraction"].ravel())
    scans = [write_scan("a.npz"), write_scan("b.npz", diffraction=shuffled.reshape(25, 32, 32))]
    calm = ptycho("infer", trained, scans[0], "--output-dir", tmp_path / "c", "--json")
    limit = 1.05 * calm.json["residuals"]["r_factor"]
    outcome = ptycho(
        *("infer", trained, *scans, "--output-dir", tmp_path / "r", "--max-r-factor", limit)
    )
    assert outcome.code == 7
    assert f"{tmp_path / 'r' / 'b'}: --max-r-factor" in outcome.err
    assert f"{tmp_path / 'r' / 'a'}: --max-r-factor" not in outcome.err
    assert (tmp_path / "r" / "b" / "reconstruction.npz").exists()


def test_a_scan_unlike_the_training_is_warned_of(trained, arrays, write_scan, tmp_path, ptycho):
    faint = write_scan("faint.npz", intensity_scale=np.array(0.1))
    outcome = ptycho("infer", trained, faint, "--output-dir", tmp_path / "r", "--json")
    assert outcome.code == 0, outcome.err
    [told] = outcome.json["unlike_training"]
    assert told.startswith("mean_photons is")
    assert f"warning: faint: unlike the training scans: {told}" in outcome.err


def test_too_few_patterns_to_halve(trained, arrays, write_scan, tmp_path, ptycho):
    few = {key: arrays[key][:3] for key in ("diffraction", "xcoords", "ycoords")}
    outcome = ptycho(
        *("infer", trained, write_scan("few.npz", **few), "--output-dir", tmp_path / "r"),
        "--split-half",
    )
    assert outcome.code == 4
    assert "--split-half" in outcome.err
