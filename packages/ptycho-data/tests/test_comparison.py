"""Images of one thing: found in their files, placed, aligned and scored over one box."""

import numpy as np
import pytest

from ptychoconfig.errors import DataError, UsageError
from ptychoconfig.schema import SimulationConfig
from ptychodata import formats
from ptychodata.comparison import Image, compare_images, read_image
from ptychodata.contracts import Reconstruction
from ptychodata.formats.product import write_product
from ptychodata.objects import lines_object
from ptychodata.results import write_reconstruction
from ptychodata.simulate import simulate

SHAPE = (140, 132)
POSITIONS = np.array([[30.0, 32.0], [105.0, 100.0]])


@pytest.fixture(scope="module")
def truth():
    return lines_object(SHAPE, np.random.default_rng(0))


def known(truth):
    return Image("truth", truth, np.zeros(2), POSITIONS, 2e-9)


def test_identity_scores_perfectly(truth):
    [found] = compare_images([known(truth)], [known(truth)])
    figures = found.as_dict()
    for name in (
        *("amplitude_ssim", "phase_ssim", "amplitude_correlation", "phase_correlation"),
        *("complex_correlation", "scale"),
    ):
        assert figures[name] == pytest.approx(1), name
    assert figures["amplitude_mae"] < 1e-12 and figures["phase_mae_rad"] < 1e-12
    assert figures["amplitude_psnr_db"] > 150 and figures["phase_psnr_db"] > 150
    assert figures["frc"]["resolution_m"] == pytest.approx(2 * 2e-9, rel=0.03)
    np.testing.assert_array_equal(found.box_yx_px, [[30, 32], [105, 100]])


def test_gauge_is_removed_once_and_told(truth):
    y, x = np.indices(SHAPE)
    moved = 3j * np.roll(truth, (2, -3), (0, 1)) * np.exp(0.02j * y - 0.05j * x)
    [found] = compare_images([Image("moved", moved, np.zeros(2))], [known(truth)])
    figures = found.as_dict()
    assert (figures["shift_y_px"], figures["shift_x_px"]) == pytest.approx((-2, 3), abs=1e-3)
    slopes = (figures["ramp_y_rad_per_px"], figures["ramp_x_rad_per_px"])
    assert slopes == pytest.approx((-0.02, 0.05), abs=1e-4)
    assert figures["scale"] == pytest.approx(1 / 3, rel=1e-3)
    assert figures["amplitude_ssim"] > 0.99 and figures["phase_ssim"] > 0.99
    assert figures["frc"]["correlation"][20] > 0.99


def test_errors_by_hand(truth):
    """An error of ±a in amplitude at random: MAE a, PSNR 20 log₁₀(span / a)."""
    rng = np.random.default_rng(1)
    wedge = 1 + 0.5 * np.indices(SHAPE)[0] / 139 + 0j
    error = 0.01 * rng.choice([-1, 1], size=SHAPE)
    reference = Image("wedge", wedge, np.zeros(2), POSITIONS)
    [found] = compare_images([Image("rough", wedge + error, np.zeros(2))], [reference])
    figures = found.as_dict()
    span = 0.5 * 75 / 139
    assert figures["amplitude_psnr_peak"] == pytest.approx(span)
    assert figures["amplitude_mae"] == pytest.approx(0.01, rel=0.02)
    assert figures["amplitude_psnr_db"] == pytest.approx(20 * np.log10(span / 0.01), abs=0.1)
    signal, noise = np.var(np.linspace(0, span, 76)), 0.01**2
    expected = np.sqrt(signal / (signal + noise))
    assert figures["amplitude_correlation"] == pytest.approx(expected, abs=2e-3)
    assert figures["phase_correlation"] == 0 and "phase_ssim" not in figures


def test_all_share_the_box_that_all_reach(truth):
    """Where the smallest ends, the box ends for every one, whatever the order."""
    small = Image("small", truth[20:90], np.array([20.0, 0.0]))
    whole = Image("whole", truth, np.zeros(2), POSITIONS)
    for images in ([small, whole], [whole, small]):
        found = compare_images(images, [known(truth)])
        for one in found:
            np.testing.assert_array_equal(one.box_yx_px, [[30, 32], [89, 100]])
            assert one.comparison.scores["amplitude_ssim"] == pytest.approx(1)


def test_images_without_an_origin_are_placed(truth):
    same = Image("same", truth)
    padded = Image("padded", np.pad(truth, 11, constant_values=1))
    found = compare_images([same, padded], [known(truth)])
    assert all(one.comparison.scores["phase_ssim"] > 0.999 for one in found)
    assert "by its shape" in found[0].image.notes[0]
    assert "for want of an origin" in found[1].image.notes[0]


def test_without_positions_the_middle_is_compared(truth):
    [found] = compare_images([Image("a", truth)], [Image("b", truth)])
    np.testing.assert_array_equal(found.box_yx_px, [[13, 13], [126, 118]])
    assert found.comparison.scores["amplitude_ssim"] == pytest.approx(1)


def test_one_truth_each(truth):
    other = Image("other", truth.conj(), np.zeros(2), POSITIONS)
    found = compare_images([known(truth), other], [known(truth), other])
    assert [one.reference for one in found] == ["truth", "other"]
    assert all(one.comparison.scores["phase_ssim"] == pytest.approx(1) for one in found)
    crossed = compare_images([known(truth), other], [other, known(truth)])
    assert all(one.comparison.scores["phase_ssim"] < 0.9 for one in crossed)
    with pytest.raises(UsageError, match="--truth"):
        compare_images([other] * 3, [known(truth)] * 2)


def test_images_apart_are_refused(truth):
    far = Image("far", truth, np.array([500.0, 0.0]))
    with pytest.raises(DataError, match="of one scan"):
        compare_images([far], [known(truth)])


# Files


def test_every_kind_of_file_is_read(tmp_path, truth):
    obj = truth.astype(np.complex64)
    image = Reconstruction(
        obj=obj,
        coverage=np.ones(SHAPE, np.float32),
        origin_yx_px=np.array([-4.0, 2.0]),
        positions_px=POSITIONS,
        probe=np.arange(1024).reshape(1, 32, 32).astype(np.complex64),
        pixel_size_m=3e-9,
    )
    write_reconstruction(image, tmp_path)
    for path in (tmp_path, tmp_path / "reconstruction.npz"):
        found = read_image(path)
        np.testing.assert_array_equal(found.obj, obj)
        np.testing.assert_array_equal(found.origin_yx_px, [-4, 2])
        assert found.name == str(path) and found.pixel_size_m == 3e-9
    geometry = {"photon_energy_eV": 8e3, "detector_distance_m": 1.0}
    write_product(image, tmp_path / "product.h5", name="it", comments="", **geometry)
    found = read_image(tmp_path / "product.h5")
    np.testing.assert_array_equal(found.obj, obj)
    np.testing.assert_allclose(found.origin_yx_px, [-4, 2], atol=1e-6)
    for key, value in (("object", obj[None]), ("objectGuess", obj), ("reconstructed_object", obj)):
        np.savez(tmp_path / "other.npz", **{key: value}, probe=np.ones(3))
        found = read_image(tmp_path / "other.npz")
        np.testing.assert_array_equal(found.obj, obj)
        assert found.origin_yx_px is None and found.positions_px is None
    scan = simulate(SimulationConfig(N=32, n_patterns=30))
    formats.write(scan, tmp_path / "scan.npz")
    found = read_image(tmp_path / "scan.npz")
    np.testing.assert_array_equal(found.obj, scan.truth)
    np.testing.assert_array_equal(found.positions_px, scan.positions_px)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"image": np.ones((4, 4))}, "found image"),
        ({"object": np.ones((2, 40, 40), complex)}, "store one slice"),
        ({"object": np.full((40, 40), np.nan)}, "NaN"),
        ({"object": np.array("text")}, "complex object"),
        (
            {"diffraction": np.ones((2, 32, 32)), "xcoords": np.arange(2), "ycoords": np.arange(2)},
            "objectGuess",
        ),
    ],
)
def test_files_without_an_object_are_refused(tmp_path, arrays, told):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=told):
        read_image(tmp_path / "bad.npz")


def test_missing_files_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.npz"):
        with pytest.raises(DataError, match="found nothing there"):
            read_image(path)
