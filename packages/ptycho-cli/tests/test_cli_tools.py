"""``convert``, ``simulate``, ``inspect`` and ``config``."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from ptychoconfig.schema import SECTIONS
from ptychodata.formats import read

SMALL = ("--N", 32, "--n-patterns", 9, "--nphotons", "1e5")


def test_convert_says_what_it_read_and_writes_the_same_scan(scan, tmp_path, ptycho):
    target = tmp_path / "out.npz"
    outcome = ptycho("convert", scan, target)
    assert outcome.code == 0, outcome.err
    assert "wrote" in outcome.out
    assert "25" in outcome.out
    assert "amplitude" in outcome.out
    before, after = read(scan), read(target)
    np.testing.assert_allclose(after.counts(), before.counts(), rtol=1e-6)
    np.testing.assert_array_equal(after.positions_px, before.positions_px)


def test_convert_keeps_an_existing_file_unless_forced(scan, tmp_path, ptycho):
    target = tmp_path / "out.npz"
    target.write_text("mine")
    assert ptycho("convert", scan, target).code == 3
    assert target.read_text() == "mine"
    assert ptycho("convert", scan, target, "--force", "--json").json["n_patterns"] == 25


def test_excluded_frames_are_left_out_before_a_subsample_is_drawn(scan, tmp_path, ptycho):
    target = tmp_path / "out.npz"
    assert ptycho("convert", scan, target, "--exclude", "0,3-5").code == 0
    before, after = read(scan), read(target)
    kept = [1, 2, *range(6, 25)]
    np.testing.assert_array_equal(after.positions_px, before.positions_px[kept])
    np.testing.assert_array_equal(after.diffraction, before.diffraction[kept])
    outcome = ptycho("convert", scan, target, "--force", "--exclude", "0-19", "--n-subsample", 6)
    assert outcome.code == 3
    assert "expected 1 to 5 patterns" in outcome.err


@pytest.mark.parametrize("frames", ["3;4", "25", "-3", "2-"])
def test_exclude_takes_frames_of_the_scan(frames, scan, tmp_path, ptycho):
    outcome = ptycho("convert", scan, tmp_path / "out.npz", f"--exclude={frames}")
    assert outcome.code == 3
    assert outcome.err.startswith("error: --exclude: expected ")


def test_excluded_frame_from_a_settings_file(scan, tmp_path, ptycho):
    settings = tmp_path / "settings.yaml"
    settings.write_text("data:\n  exclude: 7\n")
    outcome = ptycho("convert", scan, tmp_path / "out.npz", "--config", settings, "--json")
    assert outcome.json["n_patterns"] == 24


def test_convert_takes_data_settings(write_scan, tmp_path, ptycho):
    scan = write_scan("plain.npz", intensity_scale=None)
    outcome = ptycho("convert", scan, tmp_path / "out.npz", "--nphotons", 5000, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["mean_photons"] == pytest.approx(5000)


def test_simulate_is_repeatable_and_knows_its_object(tmp_path, ptycho):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        outcome = ptycho("simulate", tmp_path / f"{name}.npz", *SMALL, "--seed", seed)
        assert outcome.code == 0, outcome.err
        assert "9 patterns of 32×32" in outcome.out
    a, b, c = (read(tmp_path / f"{name}.npz") for name in "abc")
    np.testing.assert_array_equal(a.counts(), b.counts())
    assert not np.array_equal(a.counts(), c.counts())
    assert a.truth is not None
    assert a.mean_photons == pytest.approx(1e5, rel=0.1)


def test_simulate_takes_settings_from_a_file(tmp_path, ptycho):
    settings = tmp_path / "sim.yaml"
    settings.write_text("simulation: {N: 32, n_patterns: 7, nphotons: 1e5}")
    outcome = ptycho(
        "simulate", tmp_path / "a.npz", "--config", settings, "--n-patterns", 8, "--json"
    )
    assert outcome.code == 0, outcome.err
    assert (outcome.json["n_patterns"], outcome.json["N"]) == (8, 32)


def test_inspect_prints_figures_and_findings(scan, ptycho):
    outcome = ptycho("inspect", scan)
    assert outcome.code == 0, outcome.err
    assert "photons" in outcome.out
    assert "overlap" in outcome.out
    machine = ptycho("inspect", scan, "--json")
    assert machine.code == 0
    assert isinstance(machine.json["findings"], list)


def test_inspect_tests_the_orientation_unless_told_not_to(scan, ptycho):
    tested = ptycho("inspect", scan, "--json")
    assert set(tested.json["orientation_residuals"]) >= {"as recorded", "mirrored", "transposed"}
    plain = ptycho("inspect", scan, "--json", "--no-orientation")
    assert "orientation" not in plain.json
    assert plain.json["overlap"]["metrics_version"] == 1


def test_inspect_draws_one_page(scan, tmp_path, ptycho):
    page = tmp_path / "page.png"
    outcome = ptycho("inspect", scan, "--no-orientation", "--preview", page)
    assert outcome.code == 0, outcome.err
    image = Image.open(page)
    assert image.format == "PNG"
    assert min(image.size) > 1000
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 500  # three colour maps and some text
    again = ptycho("inspect", scan, "--no-orientation", "--preview", page)
    assert again.code == 3
    assert ptycho("inspect", scan, "--no-orientation", "--preview", page, "--force").code == 0


def test_inspect_draws_a_scan_without_a_probe(write_scan, tmp_path, ptycho):
    bare = write_scan(probeGuess=None)
    outcome = ptycho("inspect", bare, "--preview", tmp_path / "page.png")
    assert outcome.code == 4
    assert "no-probe" in outcome.err
    assert (tmp_path / "page.png").is_file()


def test_every_flag_that_inspect_names_exists():
    import re
    from pathlib import Path

    from ptychodata import inspection

    fields = [name for section in SECTIONS.values() for name in section.model_fields]
    known = {f"--{name.replace('_', '-').lower()}" for name in fields}
    sources = [path.read_text() for path in Path(inspection.__file__).parent.glob("*.py")]
    named = set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", "".join(sources)))
    assert {"--transpose", "--exclude", "--domain"} <= named
    assert named <= known


def test_inspect_ends_with_an_error_where_the_scan_is_unusable(monkeypatch, scan, ptycho):
    from ptychodata import inspection

    real = inspection.inspect_scan

    def spoiled(scan, **options):
        found = real(scan, **options)
        bad = inspection.Finding("nothing there", "error", "all patterns are 0", "measure again")
        return type(found)(**{**vars(found), "findings": (*found.findings, bad)})

    monkeypatch.setattr(inspection, "inspect_scan", spoiled)
    outcome = ptycho("inspect", scan)
    assert outcome.code == 4
    assert "all patterns are 0" in outcome.out
    assert "nothing there" in outcome.err


def test_config_init_validates_and_changes_nothing(scan, tmp_path, ptycho):
    settings = tmp_path / "ptycho.yaml"
    assert ptycho("config", "init", settings).code == 0
    assert set(yaml.safe_load(settings.read_text()) or {}) <= set(SECTIONS)
    assert "epochs" in settings.read_text()
    assert ptycho("config", "validate", settings).code == 0
    assert ptycho("config", "init", settings).code == 3
    assert ptycho("config", "init", settings, "--force").code == 0
    assert ptycho("config", "init").out == settings.read_text()


def test_config_schema_knows_every_section(ptycho):
    outcome = ptycho("config", "schema")
    assert outcome.code == 0
    assert set(SECTIONS) <= set(json.dumps(outcome.json).replace('"', " ").split())


def test_config_show_names_the_source(monkeypatch, tmp_path, ptycho):
    settings = tmp_path / "run.yaml"
    settings.write_text("training: {epochs: 7}")
    monkeypatch.setenv("PTYCHO_LEARNING_RATE", "0.5")
    shown = ptycho("config", "show", "training", "--config", settings, "--json").json
    assert shown["training.epochs"]["value"] == 7
    assert "run.yaml" in shown["training.epochs"]["source"]
    assert shown["training.learning_rate"]["value"] == 0.5
    assert "PTYCHO_LEARNING_RATE" in shown["training.learning_rate"]["source"]
    assert shown["training.seed"] == {"value": 42, "source": "default"}
    assert ptycho("config", "show", "trainings").code == 2


def test_convert_writes_the_format_that_is_named(scan, tmp_path, ptycho):
    target = tmp_path / "product.h5"
    outcome = ptycho("convert", scan, target, "--format", "ptychodus")
    assert outcome.code == 0, outcome.err
    assert "diffraction.h5" in outcome.out
    assert "amplitudes were squared" in outcome.out
    again = ptycho("convert", target, tmp_path / "back.npz", "--json")
    assert again.code == 0, again.err
    assert again.json["n_patterns"] == 25
    np.testing.assert_allclose(read(target).counts(), read(scan).counts(), rtol=1e-6)
    target.unlink()
    assert ptycho("convert", scan, target, "--format", "ptychodus").code == 3  # the other is there
    assert ptycho("convert", scan, tmp_path / "x.h5").code == 2
    assert ptycho("convert", scan, tmp_path / "x.h5", "--format", "hdf").code == 2


def test_convert_turns_crops_and_scales(write_scan, tmp_path, ptycho):
    scan = write_scan("plain.npz", objectGuess=None)
    target = tmp_path / "out.npz"
    flags = ("--flip-y", "--swap-xy", "--negate-x", "--photon-energy-ev", 8000, "--json")
    outcome = ptycho("convert", scan, target, *flags)
    assert outcome.code == 0, outcome.err
    before, after = read(scan), read(target)
    np.testing.assert_array_equal(after.positions_px, before.positions_px[:, ::-1] * [1, -1])
    flipped = np.roll(before.diffraction[:, ::-1], 1, axis=1)
    np.testing.assert_array_equal(after.diffraction, flipped)
    assert after.photon_energy_eV == 8000
    assert any("flip-y" in note for note in outcome.json["notes"])


def test_near_field_scans_convert_but_are_not_reconstructed(write_scan, tmp_path, ptycho):
    scan = write_scan("near.npz", near_field=True)
    assert ptycho("convert", scan, tmp_path / "out.npz", "--json").json["near_field"] is True
    assert ptycho("inspect", scan).code in (0, 4)
    outcome = ptycho("train", scan, "--backend", "stub", "--output-dir", tmp_path / "run")
    assert outcome.code == 4
    assert "near-field" in outcome.err


def test_make_fixture_writes_checks_and_verifies(tmp_path, ptycho):
    source, target = tmp_path / "source.npz", tmp_path / "small.npz"
    assert ptycho("simulate", source, "--N", 32, "--n-patterns", 50).code == 0
    outcome = ptycho("make-fixture", source, target, "--subset-size", 20)
    assert outcome.code == 0, outcome.err
    assert "sha256_checksum" in outcome.out and f"wrote {target}" in outcome.out
    assert len(read(target)) == 20
    record = json.loads((tmp_path / "small.json").read_text())
    assert record["subset_size"] == 20
    assert ptycho("make-fixture", source, target).code == 3
    for arguments in ((target,), (source, target)):
        verified = ptycho("make-fixture", *arguments, "--verify", "--json")
        assert verified.code == 0, verified.err
        assert verified.json["sha256_checksum"] == record["sha256_checksum"]
    assert "SHA-256 agrees" in ptycho("inspect", target).out
    (tmp_path / "small.json").write_text(json.dumps({**record, "sha256_checksum": "0"}))
    assert ptycho("inspect", target).code == 4
    assert ptycho("make-fixture", target, "--verify").code == 4


def test_make_fixture_refuses_what_it_cannot_do(tmp_path, ptycho, monkeypatch):
    source, target = tmp_path / "source.npz", tmp_path / "small.npz"
    assert ptycho("simulate", source, *SMALL).code == 0
    assert ptycho("make-fixture", source).code == 2
    assert ptycho("make-fixture", source, target, "--subset-size", 15).code == 2
    assert (
        "found 16" in (refused := ptycho("make-fixture", source, target, "--subset-size", 16)).err
    )
    assert refused.code == 3
    monkeypatch.setenv("PTYCHO_EXCLUDE", "0")
    assert "exclude" in (refused := ptycho("make-fixture", source, target)).err
    assert refused.code == 3 and not target.exists()
