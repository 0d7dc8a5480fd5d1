"""What a session shows of scans, images and bundles."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import ptychodata
from ptychoconfig.errors import ConfigError
from ptychodata import Reconstruction, Solution, read, simulate_scan, write
from ptychodata.backends import Progress
from ptychodata.bundle import read_bundle
from ptychodata.pretrained import PRETRAINED


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(N=32, n_patterns=16, nphotons=1e5, seed=3)


@pytest.fixture
def image(scan):
    y, x = np.mgrid[:60, :80] / 40
    return Reconstruction(
        obj=((1 + y) * np.exp(1j * x)).astype(np.complex64),
        coverage=np.pad(np.ones((40, 60), np.float32), 10),
        origin_yx_px=np.zeros(2),
        positions_px=scan.positions_px,
        probe=scan.photon_probe,
        pixel_size_m=2e-8,
    )


def test_the_names_of_the_package_are_there():
    for name in ptychodata.__all__:
        assert getattr(ptychodata, name) is not None
    assert set(ptychodata.__all__) <= set(dir(ptychodata))
    with pytest.raises(AttributeError, match="nothing"):
        _ = ptychodata.nothing


def test_a_scan_says_what_it_holds(scan):
    assert str(scan).startswith("16 patterns of 32×32, ")
    assert "photons per pattern, 1 probe mode" in str(scan)
    shown = repr(replace(scan, name="mine", notes=("Turned it.",), object_pixel_m=1e-8))
    assert shown.startswith("Scan 'mine': 16 patterns")
    assert "10 nm" in shown and "the known object" in shown and "Turned it." in shown
    assert "no probe" in str(replace(scan, probe=None))
    assert "no dose" in str(replace(scan, intensity_scale=None, domain="amplitude"))


def test_an_image_shows_itself_in_a_notebook(image):
    assert repr(image).startswith("Reconstruction of 16 patterns: 60×80 px of 20 nm")
    shown = image._repr_html_()
    pictures = re.findall('data:image/png;base64,([^"]+)"', shown)
    assert len(pictures) == 2
    for coded in pictures:
        picture = Image.open(io.BytesIO(base64.b64decode(coded)))
        assert picture.size == (60, 40)  # the illuminated part
        assert picture.getextrema() == (0, 255)
    assert "1.25 to 2.23" in shown  # 1 + y there, which is 1 + 10/40 to 1 + 49/40


def test_a_solution_says_how_it_ended(image):
    told = repr(Solution(image, history={"r_factor": [0.5, 0.25]}, epochs=2, stopped="converged"))
    assert told.startswith("Solution after 2 passes (converged), r_factor 0.25\n")
    assert "60×80 px" in told


def test_a_bundle_says_its_network_and_its_training():
    told = repr(read_bundle(PRETRAINED))
    assert told.startswith("Bundle: unrolled by torch, ")
    assert "gridsize" in told and "trained on" in told


def test_progress_is_a_line():
    step = Progress("train", 5, 20, 2, 4, {"loss": 0.12345}, 100.0, 12.4)
    assert str(step) == "train 2/4  25 %  loss 0.1235  12 s left"


def test_read_takes_the_settings_of_the_section_data(scan, tmp_path):
    write(scan, tmp_path / "scan.npz")
    assert len(read(tmp_path / "scan.npz")) == 16
    assert len(read(tmp_path / "scan.npz", exclude="0-3", n_subsample=5)) == 5
    assert read(tmp_path / "scan.npz", name="other").name == "other"
    with pytest.raises(ConfigError, match="did you mean"):
        read(tmp_path / "scan.npz", nphoton=1e6)
    with pytest.raises(ConfigError, match="--n-patterns: expected"):
        simulate_scan(n_patterns=0)
