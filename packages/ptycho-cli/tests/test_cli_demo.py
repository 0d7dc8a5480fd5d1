"""The demo, driven with a stub backend whose image is flat."""

import json


def test_demo_goes_the_whole_way_and_has_a_gate(tmp_path, ptycho):
    folder = tmp_path / "demo"
    outcome = ptycho("demo", "--backend", "stub", "--quick", "--output-dir", folder, "--quiet")
    assert outcome.code == 7, "a flat image is not recognisable"
    assert "amplitude SSIM" in outcome.err
    scores = json.loads((folder / "metrics.json").read_text())["scores"]
    assert 0 < scores["amplitude_ssim"] < 0.5
    for name in ("train.npz", "test.npz", "run/wts.h5.zip", "amplitude.png", "phase.png"):
        assert (folder / name).stat().st_size > 0
    again = ptycho("demo", "--backend", "stub", "--quick", "--output-dir", folder)
    assert again.code == 3
    assert "--force" in again.err
