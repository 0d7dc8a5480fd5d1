"""Inference: its result depends on the scan and the bundle, not on how the file is read."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ptychodata.contracts import Scan
from ptychodata.patterns import LazyPatterns
from ptychotorch.backend import TorchBackend
from ptychotorch.inference import infer
from ptychotorch.training import train


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from ptychoconfig.payloads import create_training_payload
    from ptychoconfig.schema import SimulationConfig
    from ptychodata.simulate import simulate

    scan = simulate(SimulationConfig(N=32, n_patterns=64, overlap=0.7, nphotons=1e8))
    flags = {
        "epochs": 12,
        "batch_size": 8,
        "precision": "32-true",
        "unrolled_steps": 2,
        "unrolled_width": 8,
        "unrolled_levels": 1,
        "gridsize": 2,
    }
    payload = create_training_payload(N=32, flags=flags, environment={})
    return train([scan], payload, tmp_path_factory.mktemp("run"), lambda progress: None)


def correlation(result, scan: Scan) -> float:
    """Of the modulus with the truth's, over the window that the scan covers well."""
    y, x = np.round(result.origin_yx_px).astype(int)
    half = scan.N // 2
    inner = (slice(half, -half), slice(half, -half))
    h, w = result.obj.shape
    truth = np.abs(scan.truth[y : y + h, x : x + w][inner]).ravel()
    return float(np.corrcoef(truth, np.abs(result.obj[inner]).ravel())[0, 1])


@pytest.mark.parametrize("merge", ["scan", "group", "none"])
def test_every_merge_finds_the_object(bundle, scan, inference_payload, merge):
    result = infer(bundle, scan, inference_payload(bundle, merge=merge), lambda progress: None)
    assert np.isfinite(result.obj).all() and result.obj.dtype == np.complex64
    assert result.coverage.max() == pytest.approx(1) and result.coverage.shape == result.obj.shape
    assert correlation(result, scan) > (0.6 if merge == "none" else 0.8)
    assert (result.disagreement is None) == (merge == "none")


def test_patches_disagree_more_where_the_patterns_do(bundle, scan, inference_payload):
    """Patterns swapped in the second half of the scan, which leaves the first as it was."""
    payload = inference_payload(bundle)
    swapped = np.arange(len(scan))
    swapped[len(scan) // 2 :] = np.random.default_rng(0).permutation(swapped[len(scan) // 2 :])
    wrong = replace(scan, diffraction=np.asarray(scan.diffraction)[swapped])
    spread = [infer(bundle, s, payload, lambda _: None).disagreement for s in (scan, wrong)]
    pixel = np.floor(scan.positions_px + 0.5 - scan.positions_px.min(axis=0)).astype(int) + 16
    at = [values[pixel[:, 0], pixel[:, 1]] for values in spread]
    late = slice(len(scan) * 3 // 4, None)
    assert np.median(at[1][late]) > 1.3 * np.median(at[0][late])


def apart(one, other) -> float:
    """Relative distance of two objects."""
    return float(np.linalg.norm(one.obj - other.obj) / np.linalg.norm(other.obj))


@pytest.mark.parametrize("size", [10, 64])
def test_batch_size_is_how_many_are_computed_together(bundle, scan, inference_payload, size):
    seen = []
    payload = inference_payload(bundle, batch_size=size, passes=2)  # in one round each
    infer(bundle, scan, payload, lambda p: seen.append(p.done))
    steps = payload.applied_model.unrolled_steps
    assert len(seen) == steps * -(-len(scan) // size) and seen[0] == min(size, len(scan))


@pytest.mark.parametrize("merge", ["scan", "group", "none"])
@pytest.mark.parametrize(("precision", "bound"), [("32-true", 1e-6), ("bf16-mixed", 5e-3)])
def test_batch_size_does_not_change_the_result(
    bundle, scan, inference_payload, merge, precision, bound
):
    results = [
        infer(
            bundle,
            scan,
            inference_payload(bundle, merge=merge, batch_size=size, precision=precision),
            lambda progress: None,
        )
        for size in (1, 7, 64)
    ]
    assert max(apart(other, results[0]) for other in results[1:]) <= bound


def test_how_the_file_is_read_does_not_change_the_result(bundle, scan, inference_payload, tmp_path):
    """In memory, mapped, or read in blocks when asked for."""
    payload = inference_payload(bundle, batch_size=7)
    stored = np.asarray(scan.diffraction)
    np.save(tmp_path / "patterns.npy", stored)
    mapped = np.load(tmp_path / "patterns.npy", mmap_mode="r")
    lazy = LazyPatterns(stored.shape, stored.dtype, lambda a, b: stored[a:b].copy(), step=10)
    given = infer(bundle, scan, payload, lambda progress: None)
    for patterns in (mapped, lazy):
        read = replace(scan, diffraction=patterns)
        assert apart(infer(bundle, read, payload, lambda progress: None), given) <= 1e-6


def test_order_of_the_patterns_does_not_change_the_result(bundle, scan, inference_payload, rng):
    shuffled = scan.subset(rng.permutation(len(scan)))
    first, second = (
        infer(bundle, s, inference_payload(bundle), lambda progress: None).obj
        for s in (scan, shuffled)
    )
    assert np.linalg.norm(second - first) <= 1e-5 * np.linalg.norm(first)


def test_learned_probe_is_taken_and_named(bundle, scan, inference_payload):
    learned = replace(bundle, probe_learned=True, probes=(bundle.probes[0] * np.complex64(1j),))
    own = infer(learned, scan, inference_payload(learned, probe="file"), lambda progress: None)
    auto = infer(learned, scan, inference_payload(learned), lambda progress: None)
    assert (own.probe_source, auto.probe_source) == ("file", "bundle")
    np.testing.assert_array_equal(auto.probe, learned.probes[0])


def test_modes_and_masks_are_taken(bundle, scan, inference_payload):
    two = np.concatenate([scan.probe, 0.3 * np.roll(scan.probe, 3, axis=1)])
    mask = np.ones((scan.N, scan.N), bool)
    mask[0] = False
    odd = replace(scan, probe=two, mask=mask, background=np.full(mask.shape, 0.1, np.float32))
    result = infer(bundle, odd, inference_payload(bundle), lambda progress: None)
    assert np.isfinite(result.obj).all() and result.probe.shape[0] == 2


def test_inference_does_not_import_lightning():
    code = (
        "import sys; from ptychotorch.backend import TorchBackend; import ptychotorch.inference;"
        "assert 'torch' in sys.modules; assert 'lightning' not in sys.modules;"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_backend_is_found_by_its_entry_point():
    from ptychodata.backends import load_backend

    backend = load_backend("torch")
    assert isinstance(backend, TorchBackend) and "unrolled" in backend.networks()
