"""The corpus: a pure function of its numbers, within its ranges, and without what is reserved."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ptychoconfig.schema import SimulationConfig
from ptychodata import corpus, objects, physics
from ptychodata.contracts import Scan
from ptychodata.corpus import RESERVED, CorpusRanges, draw_scan, in_generator, manifest
from ptychodata.inspection import probe_diameter_px
from ptychodata.objects import _view
from ptychodata.residuals import poisson_amplitude_error
from ptychodata.simulate import simulate

SMALL = CorpusRanges(N={32: 1}, n_patterns=(36, 50))
EXACT = replace(SMALL, probe_error=0.0, position_error=0.0)


@pytest.fixture(scope="module", autouse=True)
def small_objects():
    """Large objects that are not so large, for the sake of time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_SIDE", 320)
        corpus._large.cache_clear()
        yield
    corpus._large.cache_clear()


def drawn(scan: Scan) -> dict:
    return scan.provenance["corpus"]


def test_a_draw_is_a_function_of_seed_and_index():
    first = draw_scan(7, 3, SMALL)
    corpus._large.cache_clear()
    draw_scan(8, 3, SMALL)
    again = draw_scan(7, 3, SMALL)
    for name in ("diffraction", "positions_px", "probe", "truth"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.provenance == again.provenance
    json.dumps(drawn(first), allow_nan=False)
    for other in (draw_scan(8, 3, SMALL), draw_scan(7, 4, SMALL)):
        assert other.truth.shape != first.truth.shape or (other.truth != first.truth).any()


def test_the_stream_has_no_end_and_new_objects_in_it():
    lines = replace(SMALL, object_kinds={"lines": 1}, members=1)
    far = [corpus._large("lines", 1, index // corpus._PERIOD, 0) for index in (0, 10**9)]
    assert np.abs(far[0] - far[1]).max() > 0
    assert drawn(draw_scan(10**9, 1, lines))["object_kind"] == "lines"


def test_draws_lie_within_the_ranges_and_reach_their_ends():
    scans = [draw_scan(index, 1, SMALL) for index in range(150)]
    facts = [drawn(scan) for scan in scans]
    for name, choices in (
        ("object_kind", SMALL.object_kinds),
        ("contrast", SMALL.contrasts),
        ("probe_kind", SMALL.probe_kinds),
        ("positions_kind", SMALL.positions_kinds),
        ("probe_modes", SMALL.modes),
        ("object_flip", range(8)),
        ("probe_flip", range(8)),
        ("object_conjugated", (False, True)),
    ):
        assert {fact[name] for fact in facts} == set(choices), name
    for name, low, high in (
        ("nphotons", 1e3, 1e9), ("overlap", -0.2, 0.85), ("position_error_px", 0, 0.5),
        ("defocus_rad", 0, 12), ("aberration_rad", 0, 0.8),
    ):  # fmt: skip
        values = np.array([fact[name] for fact in facts])
        assert low <= values.min() and values.max() <= high, name
    assert 0.02 < np.mean([fact["overlap"] <= 0 for fact in facts]) < 0.25
    assert {scan.probe_power for scan in scans} == {"absolute", "relative"}
    assert all(36 <= len(scan) <= 50 for scan in scans)
    for scan, fact in zip(scans, facts, strict=True):
        noise = 5 / np.sqrt(len(scan) * fact["nphotons"])
        assert scan.mean_photons == pytest.approx(fact["nphotons"], rel=max(noise, 1e-5))
        assert np.abs(scan.truth).max() <= 1 + 1e-5
        assert corpus._border(scan.probe) < 0.05  # a shift by a pixel may add to the 0.01


def test_the_overlap_is_that_of_the_probe_s_diameter():
    ranges = replace(EXACT, positions_kinds={"raster": 1}, overlap=(0.6, 0.6), single_shot=0.0)
    scan = draw_scan(0, 0, ranges)
    step = np.diff(scan.positions_px[:5, 1])
    np.testing.assert_allclose(step, 0.4 * probe_diameter_px(scan.probe), rtol=1e-5)


def test_patterns_are_those_of_the_truth_as_it_is_recorded():
    for index in range(12):
        scan = draw_scan(index, 5, replace(EXACT, nphotons=(1e5, 1e5)))
        rate = physics.forward(scan.truth, scan.photon_probe, scan.positions_px)
        let_through = scan.counts().sum() / rate.sum()  # |O| is relative where the probe's power is
        assert (scan.probe_power == "relative") or let_through == pytest.approx(1, abs=0.01)
        rate *= let_through
        error = np.abs(np.sqrt(scan.counts()) - np.sqrt(rate)).sum()
        assert error == pytest.approx(poisson_amplitude_error(rate).sum(), rel=0.02)


def test_errors_of_the_probe_and_of_positions_are_only_recorded():
    wrong = replace(SMALL, probe_error=1.0, position_error=1.0, relative_power=0.0)
    right = replace(EXACT, relative_power=0.0)
    for index in range(4):
        off, exact = draw_scan(index, 2, wrong), draw_scan(index, 2, right)
        shift, defocus = (drawn(off)[n] for n in ("probe_shift_px", "probe_defocus_error_rad"))
        assert np.abs(shift).max() <= 1 and abs(defocus) <= 0.5
        assert np.abs(off.probe - exact.probe).max() > 1e-3 * np.abs(exact.probe).max()
        power = [np.sum(np.abs(scan.probe) ** 2) for scan in (off, exact)]
        assert power[0] == pytest.approx(power[1], rel=0.1)
        assert off.true_positions_px is not None and exact.true_positions_px is None
        apart = (off.true_positions_px - off.positions_px).std()
        assert apart == pytest.approx(drawn(off)["position_error_px"], rel=0.4)


def test_nothing_that_is_reserved_is_ever_opened_or_made(monkeypatch):
    """Files are recorded as they are opened, so that no crop, flip or role can hide one."""
    opened = set()
    whole = objects.packaged_file

    def recorded(name):
        opened.add(name)
        return whole(name)

    monkeypatch.setattr(objects, "packaged_file", recorded)
    objects._packaged_image.cache_clear()
    natural = replace(SMALL, object_kinds={"natural": 1})
    for index in range(60):
        draw_scan(index, 9, natural)
    assert opened == set(corpus.CORPUS_IMAGES)
    kinds = {drawn(draw_scan(index, 9, SMALL))["object_kind"] for index in range(60)}
    assert not kinds & set(RESERVED["object_kinds"])
    stops = [
        drawn(draw_scan(index, 9, replace(SMALL, probe_kinds={"zone-plate": 1})))["central_stop"]
        for index in range(60)
    ]
    default = SimulationConfig().central_stop
    assert min(abs(stop - default) for stop in stops) >= 0.05


def test_the_manifest_and_the_reserved_list_do_not_meet():
    found = json.loads(json.dumps(manifest(1, CorpusRanges()), allow_nan=False))
    reserved = found["reserved"]
    assert {"camera.png", "coins.png", "moon.png", "phantom.png"} <= set(reserved["images"])
    assert {"siemens-star", "phantom"} <= set(reserved["object_kinds"])
    assert not set(found["images"]) & set(reserved["images"])
    assert not set(found["images"].values()) & set(reserved["images"].values())  # by content
    assert not set(found["objects"]) & set(reserved["object_kinds"])
    assert set(found["objects"]) == set(CorpusRanges().object_kinds)
    assert set(found["probes"]) <= {"disk", "gaussian", "zone-plate"}  # models, never a file
    assert "star" in " ".join(reserved["probes"])
    assert (found["version"], found["seed"]) == (corpus.CORPUS_VERSION, 1)


def test_scores_are_told_apart_by_the_kind_of_object():
    config = {"N": 32, "n_patterns": 4, "noise": False}
    assert in_generator(draw_scan(0, 0, SMALL))
    assert in_generator(simulate(SimulationConfig(object_kind="natural", **config)))
    for kind in RESERVED["object_kinds"]:
        assert not in_generator(simulate(SimulationConfig(object_kind=kind, **config)))


def test_flips_are_eight_and_keep_the_centre():
    image = np.random.default_rng(0).random((6, 6))
    images = [corpus._flipped(image, turn) for turn in range(8)]
    assert len({found.tobytes() for found in images}) == 8
    assert all(found[3, 3] == image[3, 3] for found in images)


def test_contrasts_are_what_they_are_called():
    rng = np.random.default_rng(0)
    made = objects.random_field_object((40, 40), rng)
    absorbing, strength = corpus._contrasted(made, "absorbing", rng)
    np.testing.assert_allclose(
        np.log(np.abs(absorbing)), strength["beta_over_delta"] * np.angle(absorbing), atol=1e-9
    )
    assert np.angle(absorbing).min() == pytest.approx(-strength["delta_rad"])
    for name, low, high in (("weak-phase", 0.05, 0.5), ("strong-phase", 1.5, 2 * np.pi)):
        obj, strength = corpus._contrasted(made, name, rng)
        assert low <= strength["phase_rad"] <= high
        assert np.abs(obj).min() == pytest.approx(1 - strength["depth"])


def test_a_black_part_of_an_image_is_an_object_too():
    """Rockets and galaxies have black around them: 0 there, and not 0/0."""
    part = _view(np.zeros((64, 64)), (16, 16), np.random.default_rng(0))
    assert (part == 0).all()
