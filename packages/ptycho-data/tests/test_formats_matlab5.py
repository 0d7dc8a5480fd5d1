"""MATLAB files of version 5: what SciPy writes is read, and claims are not believed."""

import io
import struct

import numpy as np
import pytest
from scipy.io import savemat

from ptychodata.formats.matlab5 import variables

RNG = np.random.default_rng(0)
ARRAYS = {
    "double": RNG.normal(size=(3, 4, 5)),
    "single": RNG.normal(size=(3, 1)).astype(np.float32),
    "whole": np.arange(12.0).reshape(3, 4),
    "complex": (RNG.normal(size=(4, 4)) + 1j).astype(np.complex64),
    "wide": RNG.normal(size=(2, 2)) + 2j,
    "scalar": np.array([[7.5]]),
    **{kind: RNG.integers(0, 99, (2, 3)).astype(kind) for kind in ("u1", "i2", "u4", "i8")},
}


def saved(compressed: bool, **arrays: object) -> np.ndarray:
    buffer = io.BytesIO()
    savemat(buffer, arrays or ARRAYS, do_compression=compressed)
    return np.frombuffer(buffer.getvalue(), np.uint8)


@pytest.mark.parametrize("compressed", [False, True])
def test_what_is_written_is_read(compressed: bool) -> None:
    found = variables(saved(compressed))
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name].load(), array)
        assert found[name].load().dtype == array.dtype


def test_text_is_named_and_not_read() -> None:
    found = variables(saved(True, words="hello", x=np.ones(3)))
    assert found["words"].dtype == np.object_ and found["x"].shape == (1, 3)
    with pytest.raises(ValueError, match="text or cells"):
        found["words"].load()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_claim_beyond_the_bytes_is_refused(compressed: bool) -> None:
    data = saved(False, x=np.zeros((2, 3)))
    claimed = bytearray(data.tobytes())
    at = claimed.index(struct.pack("<ii", 2, 3))
    claimed[at : at + 8] = struct.pack("<ii", 2**20, 2**20)
    if compressed:
        import zlib

        inner = zlib.compress(bytes(claimed[128:]))
        claimed[128:] = struct.pack("<II", 15, len(inner)) + inner
    with pytest.raises(ValueError, match=r"1048576, 1048576.* claimed"):
        variables(np.frombuffer(bytes(claimed), np.uint8))["x"].load()
