"""The bundle ``wts.h5.zip``: a trained network, as any backend can open it.

A zip archive of five members, stored uncompressed with fixed timestamps, so that the same content
gives the same bytes:

- ``manifest.json``: format version, backend, package versions, the entry models, statistics of
  the training data, and the size and SHA-256 of every other member;
- ``config.json``: the sections ``model``, ``data`` and ``training``;
- ``weights.h5``: weights under framework-neutral names;
- ``history.json``: the course of the training;
- ``probe.h5``: one probe per training scan, √photons.

A bundle may come from anywhere, so reading trusts nothing: names are whitelisted, sizes bounded,
hashes checked before a member is parsed, and nothing is unpickled.
"""

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import BundleError
from ptychodata.display import bundle_text
from ptychodata.files import atomic_path, dump_json, parse_json, stored_member

if TYPE_CHECKING:
    import h5py

__all__ = ["BUNDLE_NAME", "FORMAT_VERSION", "Bundle", "read_bundle", "write_bundle"]

FORMAT_VERSION = 1
BUNDLE_NAME = "wts.h5.zip"

MODELS = {
    "autoencoder": "patterns → object → patterns; the loss compares the two",
    "diffraction_to_obj": "patterns → object; what inference runs",
}
"""The entry models; both are read from the one set of weights."""

_MIB = 2**20
_MANIFEST = "manifest.json"
_LARGEST = {
    _MANIFEST: _MIB,
    "config.json": _MIB,
    "history.json": 64 * _MIB,
    "probe.h5": 1024 * _MIB,
    "weights.h5": 4096 * _MIB,
}
"""The members, and the most bytes each may have."""

_SECTIONS = ("data", "model", "training")
_NUMERIC = "biufc"
_LIBRARY_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile, zlib, h5py and json raise on broken input."""


@dataclass(frozen=True, eq=False, repr=False)
class Bundle:
    """A trained network with all that is needed to use it.

    Args:
        backend: name of the backend that trained it.
        config: sections ``model``, ``data`` and ``training`` as plain JSON values.
        weights: arrays under framework-neutral names, in framework-neutral layouts.
        probes: one (M, N, N) complex64 per training scan, √photons.
        probe_learned: whether training changed the probes.
        history: metric → values over the run; NaN where a value is missing.
        statistics: figures of the training data, such as ``mean_photons``; NaN where unknown.
        versions: package → version that wrote it.
    """

    backend: str
    config: Mapping[str, Mapping[str, object]]
    weights: Mapping[str, NDArray[Any]]
    probes: tuple[NDArray[np.complex64], ...]
    probe_learned: bool
    history: Mapping[str, list[float]]
    statistics: Mapping[str, float]
    versions: Mapping[str, str]

    def __repr__(self) -> str:
        return bundle_text(self)


def write_bundle(bundle: Bundle, path: str | os.PathLike[str]) -> None:
    """Write a bundle, whole or not at all; the same content gives the same bytes.

    Raises:
        BundleError: something in it cannot be written: an array that is not numeric, a setting
            that is not plain JSON.
        ConfigError: the place is not writable.
    """
    try:
        members = {
            "config.json": dump_json({name: bundle.config[name] for name in _SECTIONS}).encode(),
            "history.json": dump_json(_as_floats(bundle.history, list)).encode(),
            "probe.h5": _pack({f"{i:04d}": probe for i, probe in enumerate(bundle.probes)}),
            "weights.h5": _pack(bundle.weights),
        }
        manifest = dump_json(_manifest(bundle, members)).encode()
    except (TypeError, ValueError, KeyError) as error:
        raise BundleError(
            f"{path}: expected numeric arrays and plain JSON values in the sections "
            f"{', '.join(_SECTIONS)}, found {error!r}; nothing was written"
        ) from error
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in {_MANIFEST: manifest, **members}.items():
            archive.writestr(stored_member(name), content)


def _manifest(bundle: Bundle, members: Mapping[str, bytes]) -> dict[str, object]:
    return {
        "format_version": FORMAT_VERSION,
        "backend": bundle.backend,
        "versions": dict(bundle.versions),
        "models": MODELS,
        "probe_learned": bundle.probe_learned,
        "statistics": {name: float(value) for name, value in bundle.statistics.items()},
        "members": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
        },
    }


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read a bundle, from its file or from the folder that holds it.

    Raises:
        BundleError: there is none, it is broken or was altered, or its format is newer.
    """
    file = Path(path)
    file = file / BUNDLE_NAME if file.is_dir() else file
    if not file.is_file():
        raise BundleError(
            f"{path}: expected a bundle {BUNDLE_NAME}, or a folder holding one, found none; "
            "`ptycho train` writes one into its output directory"
        )
    try:
        with zipfile.ZipFile(file) as archive:
            return _read(archive, file)
    except _LIBRARY_ERRORS as error:
        raise BundleError(
            f"{file}: expected a bundle written by `ptycho train`, found a file that is truncated "
            f"or broken ({type(error).__name__}: {error}); copy it again, or train anew"
        ) from error


def _read(archive: zipfile.ZipFile, file: Path) -> Bundle:
    manifest = _json_object(_member(archive, _MANIFEST, file), _MANIFEST)
    _check_version(manifest, file)
    names = [member.filename for member in archive.infolist()]
    if sorted(names) != sorted(_LARGEST):
        raise BundleError(
            f"{file}: expected the members {', '.join(sorted(_LARGEST))}, "
            f"found {', '.join(sorted(names)[:20])}; the bundle is incomplete or was altered"
        )
    content = {
        name: _verified(archive, name, manifest, file) for name in names if name != _MANIFEST
    }
    config = _json_object(content["config.json"], "config.json")
    if sorted(config) != sorted(_SECTIONS) or not all(isinstance(v, dict) for v in config.values()):
        raise ValueError(f"config.json has the sections {sorted(config)}, not {_SECTIONS}")
    probes = _unpack(content["probe.h5"])
    return Bundle(
        backend=_text(manifest["backend"]),
        config=config,
        weights=_unpack(content["weights.h5"]),
        probes=tuple(_probe(probes[name]) for name in sorted(probes)),
        probe_learned=manifest["probe_learned"] is True,
        history=_as_floats(_json_object(content["history.json"], "history.json"), list),
        statistics=_as_floats(manifest["statistics"], float),
        versions={name: _text(value) for name, value in manifest["versions"].items()},
    )


def _member(archive: zipfile.ZipFile, name: str, file: Path) -> bytes:
    """Content of a member, once its size and storage are as they must be."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > _LARGEST[name]:
        raise BundleError(
            f"{file}: expected {name} stored uncompressed in at most {_LARGEST[name]:,} bytes, "
            f"found {info.file_size:,} bytes, compression {info.compress_type}; "
            "it was not written by ptycho"
        )
    return archive.read(info)


def _verified(
    archive: zipfile.ZipFile, name: str, manifest: Mapping[str, Any], file: Path
) -> bytes:
    content = _member(archive, name, file)
    expected, found = manifest["members"][name]["sha256"], hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BundleError(
            f"{file}: expected {name} with SHA-256 {expected}, found {found}; "
            "the bundle was altered or damaged: copy it again, or train anew"
        )
    return content


def _check_version(manifest: Mapping[str, Any], file: Path) -> None:
    version = manifest.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise BundleError(
            f"{file}: expected a format_version of at least 1 in {_MANIFEST}, found {version!r}; "
            "it was not written by ptycho"
        )
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{file}: expected bundle format {FORMAT_VERSION} or older, found the newer format "
            f"{version}, written by {manifest.get('versions')}; "
            "update with: pip install --upgrade ptycho-data"
        )


def _json_object(content: bytes, name: str) -> dict[str, Any]:
    value = parse_json(content)
    if not isinstance(value, dict):
        raise ValueError(f"{name} holds no JSON object")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value


def _probe(array: NDArray[Any]) -> NDArray[np.complex64]:
    if array.ndim != 3 or array.dtype != np.complex64:
        raise ValueError(
            f"a probe is {array.dtype} of shape {array.shape}, not (M, N, N) complex64"
        )
    return array


def _as_floats(values: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Numbers as float, null as NaN; ``kind`` says whether one number or a list of them."""

    def number(value: Any) -> float:
        return float("nan") if value is None else float(value)

    if kind is list:
        return {str(name): [number(item) for item in items] for name, items in values.items()}
    return {str(name): number(item) for name, item in values.items()}


def _pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as an HDF5 file in memory, contiguous and in the order of their names."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name in sorted(arrays):
            array = np.asarray(arrays[name], order="C")
            if array.dtype.kind not in _NUMERIC:
                raise TypeError(f"{name} has dtype {array.dtype}")
            file.create_dataset(name, data=array, track_times=False)
    return buffer.getvalue()


def _unpack(content: bytes) -> dict[str, NDArray[Any]]:
    """Arrays of an HDF5 file in memory.

    Datasets must be contiguous with all their bytes in this file: that leaves no way to point
    outside of it, nor to claim more memory than the file has.
    """
    import h5py

    arrays: dict[str, NDArray[Any]] = {}

    def collect(name: str, node: "h5py.Dataset | h5py.Group") -> None:
        if isinstance(node, h5py.Dataset):
            if node.dtype.kind not in _NUMERIC or node.shape is None:
                raise ValueError(f"{name} is not numeric")
            if node.chunks or node.external or node.id.get_storage_size() != node.nbytes:
                raise ValueError(f"{name} does not hold its {node.nbytes:,} bytes in one piece")
            arrays[name] = np.asarray(node[()])

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(collect)
    return arrays
