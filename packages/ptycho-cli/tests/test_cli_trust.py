"""What ``infer`` says of how far to trust its image, and the gates that end it."""

import json
from dataclasses import replace

import numpy as np
import pytest


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
