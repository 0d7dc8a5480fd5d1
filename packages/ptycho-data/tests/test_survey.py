"""One look at the patterns finds what NumPy finds of all of them, in any dtype."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ptychodata import survey as module
from ptychodata.survey import survey_patterns

N = 16
OFFSET = np.arange(N) - N // 2


def patterns(dtype: str, largest: float = 100, count: int = 40) -> NDArray[Any]:
    rng = np.random.default_rng(3)
    values = rng.uniform(0, largest, (count, N, N))
    values[rng.random(values.shape) < 0.3] = 0
    values[:, 1, 2] = 0
    values[5] = 0
    return values.astype(dtype)


@pytest.mark.parametrize("domain", ["counts", "amplitude"])
@pytest.mark.parametrize(
    ("dtype", "largest"),
    [("uint8", 255), ("uint16", 65535), ("uint32", 4e9), ("uint64", 1e18), ("int16", 3e4),
     ("int32", 2e9), ("float32", 7), ("float64", 1e-9)],
)  # fmt: skip
@pytest.mark.parametrize("masked", [None, "one", "each"])
def test_sums_are_those_of_double_precision(
    dtype: str, largest: float, masked: str | None, domain: Any
) -> None:
    values = patterns(dtype, largest)
    rng = np.random.default_rng(0)
    mask = {None: None, "one": rng.random((N, N)) < 0.8, "each": rng.random(values.shape) < 0.8}
    valid = np.broadcast_to(True if masked is None else mask[masked], values.shape)
    shown = np.where(valid, values, 0)
    power = shown.astype(float) ** (1 if domain == "counts" else 2)
    found = survey_patterns(values, mask[masked], domain)
    np.testing.assert_allclose(found.intensity, power.sum(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.profiles[0], power.sum(axis=(0, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.profiles[1], power.sum(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(found.total, power.sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(found.seen, (shown > 0).sum(axis=0))
    np.testing.assert_array_equal(found.looked, valid.sum(axis=0))
    photons = np.maximum(power.sum(axis=(1, 2)), 1e-300)
    y = power.sum(axis=2) @ OFFSET / photons
    x = power.sum(axis=1) @ OFFSET / photons
    np.testing.assert_allclose(found.deflection_px, np.stack([y, x], 1), rtol=1e-9, atol=1e-9)
    assert found.largest == shown.max()
    assert found.at_largest == np.count_nonzero(shown == shown.max())
    assert (found.negative, found.not_finite, found.whole) == (0, 0, dtype[0] != "f")


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_what_cannot_be_is_counted_in_every_pattern(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DRAWN", 16)
    values = patterns(dtype, count=200)
    values[7, 3, 3], values[191, 4, 4] = -1, -2
    if dtype == "float32":
        values[100, 0, 0], values[101, 0, 0] = np.nan, np.inf
    found = survey_patterns(values, None, "counts")
    assert np.count_nonzero(found.drawn) == 16
    assert found.negative == 2
    assert found.not_finite == (2 if dtype == "float32" else 0)
    clean = np.where(np.isfinite(values), values, 0).astype(float)
    np.testing.assert_allclose(found.intensity, clean.sum(axis=(1, 2)))
    np.testing.assert_allclose(found.total, clean[found.drawn].sum(axis=0))


def test_a_pixel_s_figures_come_from_patterns_all_over_the_scan() -> None:
    values = np.ones((20_000, 2, 2), np.uint8)
    found = survey_patterns(values, None, "counts")
    drawn = np.flatnonzero(found.drawn)
    assert len(drawn) == 4096
    assert np.histogram(drawn, 10, (0, 20_000))[0].min() > 100
    np.testing.assert_array_equal(found.total, 4096)
    np.testing.assert_array_equal(found.mean_pattern, 1)
    assert found.intensity.sum() == 80_000
