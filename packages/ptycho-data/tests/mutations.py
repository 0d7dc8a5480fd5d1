"""Valid small scan files of every format, and ways to break them."""

import bz2
import io
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from ptychoconfig.errors import DataError, UsageError
from ptychoconfig.schema import SimulationConfig
from ptychodata.contracts import Scan
from ptychodata.formats import formats, outputs, read, writable, write
from ptychodata.simulate import simulate

SENTINEL = 7777.0
"""Stands in a file outside, where no reader may look."""

Rng = np.random.Generator


@dataclass(frozen=True)
class Seed:
    """A valid scan file in a folder of its own, with what belongs to it.

    Args:
        name: format and variant.
        path: the file to read.
    """

    name: str
    path: Path


def _scan() -> Scan:
    scan = simulate(
        SimulationConfig(N=32, n_patterns=5, nphotons=1e4, dead_pixels=2, background_counts=0.1)
    )
    return replace(
        scan,
        object_pixel_m=2e-8,
        photon_energy_eV=8e3,
        detector_distance_m=1.0,
        detector_pixel_m=2.42e-4,
    )


def _nxcxi(path: Path) -> None:
    scan, detector = _scan(), "entry_1/instrument_1/detector_1"
    keys = {
        "entry_1/definition": ("NXptycho", None),
        "entry_1/beam_1/incident_beam_energy": (8.0, "keV"),
        "entry_1/instrument_1/source_1/illumination": (scan.probe, None),
        f"{detector}/data": (scan.counts(), None),
        f"{detector}/distance": (1e3, "mm"),
        f"{detector}/x_pixel_size": (242.0, "um"),
        f"{detector}/y_pixel_size": (242.0, "um"),
        f"{detector}/translation": (np.pad(scan.positions_px * 2e-2, ((0, 0), (0, 1))), "um"),
    }
    with h5py.File(path, "w") as file:
        for key, (value, unit) in keys.items():
            file[key] = value
            if unit is not None:
                file[key].attrs["units"] = unit


def _ptyd(path: Path) -> None:
    scan = _scan()
    with h5py.File(path, "w") as file:
        file["meta/energy"], file["meta/distance"], file["meta/psize"] = 8.0, 1.0, [2.42e-4] * 2
        file["chunks/0/data"], file["chunks/0/indices"] = scan.counts(), np.arange(5)
        file["chunks/0/positions"] = scan.positions_px * 2e-8
        file["chunks/0/weights"] = np.ones((5, 32, 32), np.float32)


def _fold_slice(path: Path) -> None:
    scan = _scan()
    assert scan.probe is not None
    y, x = scan.positions_px.T * 2e-8
    arrays = {"dp": scan.counts().transpose(1, 2, 0), "ppX": x[:, None], "ppY": y[:, None]}
    arrays |= {"lambda": np.array([[1.55e-10]]), "dx": np.array([[2e-8]]), "probe": scan.probe[0]}
    if path.suffix == ".mat":
        scipy.io.savemat(path, arrays)
        return
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array.T


SAMPLES: dict[str, dict[str, Callable[[Path], None]]] = {
    "nxcxi": {"s.h5": _nxcxi},
    "ptyd": {"s.h5": _ptyd},
    "foldslice": {"s.h5": _fold_slice, "s.mat": _fold_slice},
}
"""For each format that cannot be written, makers of valid files; the writable ones need none."""

_FILES = ("s.npz", "s.h5", "s_dp.hdf5", "s.cxi")


def seeds(scratch: Path) -> list[Seed]:
    """One file of every format and suffix; those in ``scratch/seeds`` are used again.

    Raises:
        LookupError: a format cannot be written and has no sample.
    """
    folder = scratch / "seeds"
    if not folder.exists():
        _make_seeds(folder)
    found = [Seed(part.name, part / part.name.split()[-1]) for part in sorted(folder.iterdir())]
    missing = formats().keys() - {seed.name.split()[0] for seed in found}
    if missing:
        raise LookupError(f"expected a sample of {sorted(missing)} in SAMPLES, found none")
    return found


def _make_seeds(folder: Path) -> None:
    """Folders ``format variant file``: an archive as it is, deflated and in bzip2; else one."""
    scan = _scan()
    for name in formats():
        for file in SAMPLES.get(name, _FILES):
            part = folder / f"{name} plain {file}"
            part.mkdir(parents=True)
            path = part / file
            fits = _written(name, scan, path)
            if not fits or zipfile.is_zipfile(path) != (path.suffix == ".npz"):
                shutil.rmtree(part)
            elif path.suffix == ".npz":
                _repacked(path, folder / f"{name} deflated {file}" / file)
                squeezed = folder / f"{name} bzip2 {file}" / file
                squeezed.parent.mkdir()
                squeezed.write_bytes(bz2.compress(path.read_bytes()))
            elif name not in SAMPLES:
                break


def _written(name: str, scan: Scan, path: Path) -> bool:
    """Write a sample and read it back; False if the format does not go by this name."""
    if name in SAMPLES:
        SAMPLES[name][path.name](path)
        read(path)
        return True
    if name not in writable():
        return False
    try:
        outputs(path, name)
        write(scan, path, name)
        read(path)
    except (DataError, UsageError):
        return False
    return True


def _repacked(source: Path, target: Path) -> None:
    shutil.copytree(source.parent, target.parent)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))


def make_outside(scratch: Path) -> None:
    """A folder with a file that gives itself away, and a pipe at which whoever opens it waits."""
    outside = scratch / "outside"
    outside.mkdir(exist_ok=True)
    with h5py.File(outside / "secret.h5", "w") as file:
        file["data"] = np.full((5, 32, 32), SENTINEL, np.float32)
    np.full(5 * 32 * 32, SENTINEL, np.float32).tofile(outside / "secret.bin")
    if not (outside / "pipe").exists():
        os.mkfifo(outside / "pipe")


def mutated(seed: Seed, case: Path, rng: Rng) -> tuple[Path, str]:
    """Copy a seed into ``case`` and break one of its files; the file to read, and what was done."""
    shutil.copytree(seed.path.parent, case)
    files = sorted(case.iterdir())
    path = case / seed.path.name
    target = path if rng.random() < 0.7 else files[int(rng.integers(len(files)))]
    ways = [_break_bytes]
    if zipfile.is_zipfile(target):
        ways += [_break_npz, _break_npz]
    elif h5py.is_hdf5(target):
        ways += [_break_hdf5, _break_hdf5]
    way = ways[int(rng.integers(len(ways)))]
    return path, way(target, rng)


def _pick(rng: Rng, choices: Any) -> Any:
    items = list(choices)
    return items[int(rng.integers(len(items)))]


# -- bytes ---------------------------------------------------------------------------------------


def _break_bytes(path: Path, rng: Rng) -> str:
    content = bytearray(path.read_bytes())
    kind = _pick(rng, ("flip", "set", "number", "cut", "grow", "drop", "copy", "near the ends"))
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(len(content)))
        if kind == "near the ends":  # where the headers and directories are
            reach = min(2048, len(content))
            at = int(rng.integers(reach)) * (1 if rng.random() < 0.5 else -1) % len(content)
        _break_at(content, at, kind, rng)
        if len(content) < 16:
            break
    path.write_bytes(content)
    return f"bytes: {kind}"


def _break_at(content: bytearray, at: int, kind: str, rng: Rng) -> None:
    span = int(2 ** rng.uniform(0, 10))
    if kind == "flip":
        content[at] ^= 1 << int(rng.integers(8))
    elif kind in ("set", "near the ends"):
        content[at] = _pick(rng, (0, 1, 127, 128, 255, int(rng.integers(256))))
    elif kind == "number":
        number = _pick(rng, (2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10**12, 0, 1))
        width = _pick(rng, (4, 8))
        content[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
    elif kind == "cut":
        del content[max(16, at) :]
    elif kind == "grow":
        content[at:at] = rng.bytes(span)
    elif kind == "drop":
        del content[at : at + span]
    else:
        other = int(rng.integers(len(content)))
        content[at : at + span] = content[other : other + span]


# -- NPZ -----------------------------------------------------------------------------------------

_SHAPES = (
    "()",
    "(0,)",
    "(5,)",
    "(10**12,)",
    "(1000000000000,)",
    "(1000000, 1000000, 64)",
    "(5, 32, 32)",
    "(32, 32, 5)",
    "(5, 32, 31)",
    "(-5, 32, 32)",
    "(5, 32, 32, 1)",
    "(1, 5, 32, 32)",
    "(" + "1, " * 40 + ")",
    "5",
    "None",
    "(5.0, 32)",
    "(9223372036854775807, 2)",
    "(4611686018427387904, 4)",
)
_TYPES = ("'<f4'", "'>f8'", "'<c8'", "'|O'", "'<U8'", "'|S4'", "'<i8'", "'|b1'", "'<u2'", "'<f2'")
_TYPES += ("'<M8[s]'", "'<U999999999'", "[('a', '<f4')]", "'|V16'", "'<f16'", "'<c32'", "3")


class _Program:
    """Unpickled, it would run a program."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def _break_npz(path: Path, rng: Rng) -> str:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = _pick(rng, members)
    ways: dict[str, Callable[[bytes, Rng], bytes]] = {
        "header": _other_header,
        "pickle": lambda *_: _pickled(),
        "values": _other_values,
        "array": lambda _, r: _npy(_odd_array(r)),
        "empty": lambda *_: b"",
        "text": lambda _, r: _npy(np.array(r.bytes(40).decode("latin-1"))),
    }
    kind = _pick(rng, (*ways, "drop", "swap", "add", "directory"))
    if kind == "drop":
        del members[name]
    elif kind == "swap":
        members[name] = members[_pick(rng, members)]
    elif kind == "add":
        key = _pick(rng, ("mask", "axes", "domain", "nphotons", "xcoords_true", "diff3d", "data"))
        members[f"{key}.npy"] = members[name]
    elif kind in ways:
        members[name] = ways[kind](members[name], rng)
    method = _pick(rng, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w", method) as archive:
        for key, content in members.items():
            archive.writestr(key, content)
    if kind == "directory":
        _lie_about_sizes(path, rng)
    return f"npz: {kind} of {name}"


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _pickled() -> bytes:
    head = io.BytesIO()
    fields = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(head, fields)
    return head.getvalue() + pickle.dumps(_Program())


def _other_header(content: bytes, rng: Rng) -> bytes:
    """The same data under a header that claims something else."""
    version = content[6] if len(content) > 8 else 1
    start = 10 + int.from_bytes(content[8:10], "little") if version == 1 else 10
    text = (
        f"{{'descr': {_pick(rng, _TYPES)}, 'fortran_order': {_pick(rng, ('False', 'True', '1'))}, "
        f"'shape': {_pick(rng, _SHAPES)}}}\n"
    ).encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + content[start:]


def _other_values(content: bytes, rng: Rng) -> bytes:
    """The same array with impossible values, or turned."""
    array = np.load(io.BytesIO(content), allow_pickle=True)
    if array.dtype.kind not in "fcui" or not array.size:
        return _npy(_odd_array(rng))
    if rng.random() < 0.3:
        return _npy(np.ascontiguousarray(array.T))
    bad = _pick(rng, (0, -1, 1e30, np.nan, np.inf, -np.inf, 1e-40))
    if array.dtype.kind in "ui":
        array = array.astype(np.float64)
    spoiled = array.copy()
    spoiled[... if rng.random() < 0.5 else tuple(int(rng.integers(n)) for n in array.shape)] = bad
    return _npy(spoiled)


def _odd_array(rng: Rng) -> np.ndarray:
    shape = _pick(
        rng, ((), (1,), (5,), (0,), (5, 2), (32, 32), (5, 32, 32), (2, 3, 4, 5), (0, 32, 32), (64,))
    )
    kind = _pick(rng, ("<f4", "<f8", "<c8", "<i4", "|b1", "<u2", "<f2", "<U3", "|S2"))
    return (
        (rng.normal(size=shape) * 10 ** rng.uniform(-30, 30)).astype("f8").astype(kind)
        if (kind in ("<f8", "<c8"))
        else np.asarray(rng.integers(0, 100, shape)).astype(kind)
    )


def _lie_about_sizes(path: Path, rng: Rng) -> None:
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\1\2", int(rng.integers(len(content))))
    at = content.find(b"PK\1\2") if at < 0 else at
    where = at + _pick(rng, (8, 10, 16, 20, 24, 28, 30, 42))
    content[where : where + 4] = struct.pack("<I", _pick(rng, (0, 1, 2**31, 2**32 - 1, 1000)))
    path.write_bytes(content)


# -- HDF5 ----------------------------------------------------------------------------------------


def _break_hdf5(path: Path, rng: Rng) -> str:
    with h5py.File(path, "r+") as file:
        datasets: list[str] = []
        nodes = [""]
        file.visititems(lambda name, node: nodes.append(name))
        file.visititems(
            lambda name, node: datasets.append(name) if isinstance(node, h5py.Dataset) else None
        )
        name = _pick(rng, datasets)
        kind = _pick(rng, (*_HDF5_WAYS, "attribute", "drop"))
        if kind == "attribute":
            return f"hdf5: {_break_attribute(file, _pick(rng, nodes), rng)}"
        old = file[name][()] if file[name].shape is not None else 0
        del file[name]
        if kind != "drop":
            _HDF5_WAYS[kind](file, name, old, rng)
    return f"hdf5: {kind} of {name}"


def _outside(file: h5py.File, rng: Rng, name: str) -> str:
    folder = Path(file.filename).parent.parent / "outside"
    return _pick(rng, (f"../outside/{name}", str(folder / name)))


def _claimed(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    shape = _pick(
        rng, ((10**12,), (10**8, 64, 64), (10**6, 1024, 1024), (2**40, 2), (5, 2**20, 2**20))
    )
    chunks = tuple(min(side, 32) for side in shape)
    file.create_dataset(name, shape, _pick(rng, ("f4", "u2", "c8")), chunks=chunks)


def _big_chunk(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    file.create_dataset(name, (5, 2**14, 2**14), "f4", chunks=(1, 2**14, 2**14))


def _values(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    array = np.array(old)
    if array.dtype.kind not in "fcui" or not array.size:
        array = _odd_array(rng)
    elif rng.random() < 0.3:
        array = array.T
    else:
        array = array.astype(np.result_type(array.dtype, np.float64))
        at = ... if rng.random() < 0.5 else tuple(int(rng.integers(n)) for n in array.shape)
        array[at] = _pick(rng, (0, -1, 1e300, np.nan, np.inf, 1e-310))
    file[name] = array if array.dtype.kind != "U" else array.astype("S")


def _array(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    array = _odd_array(rng)
    file[name] = array if array.dtype.kind != "U" else array.astype("S")


def _text(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    file[name] = _pick(rng, ("text", "ü" * 1000, ""))


def _vlen(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    file.create_dataset(name, (5,), h5py.vlen_dtype(np.float32))


def _references(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    file.create_dataset(name, (5,), h5py.ref_dtype)


def _compound(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    file[name] = np.zeros((5, 2), [("real", "f4"), ("imag", _pick(rng, ("f4", "f8")))])


def _external_link(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    target = _pick(rng, ("secret.h5", "pipe"))
    file[name] = h5py.ExternalLink(_outside(file, rng, target), "/data")


def _external_storage(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    shape = np.shape(old) or (5,)
    target = _outside(file, rng, _pick(rng, ("secret.bin", "pipe")))
    file.create_dataset(name, shape, "f4", external=[(target, 0, h5py.h5f.UNLIMITED)])


def _virtual(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    layout = h5py.VirtualLayout((5, 32, 32), "f4")
    target = _outside(file, rng, _pick(rng, ("secret.h5", "pipe")))
    layout[:] = h5py.VirtualSource(target, "/data", (5, 32, 32))
    file.create_virtual_dataset(name, layout)


def _virtual_loop(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    layout = h5py.VirtualLayout((5, 32, 32), "f4")
    layout[:] = h5py.VirtualSource(".", f"/{name}", (5, 32, 32))
    file.create_virtual_dataset(name, layout)


def _loop(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    file[name] = h5py.SoftLink(_pick(rng, (f"/{name}", "/", "/nowhere", f"/{name}/x")))


def _self_link(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    file[name] = h5py.ExternalLink(Path(file.filename).name, f"/{name}")


def _group(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    file.create_group(name)[name.split("/")[-1]] = old


def _type(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    file[name] = np.dtype("f4")


def _null(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    file[name] = h5py.Empty(_pick(rng, ("f4", "S3")))


def _bomb(file: h5py.File, name: str, old: Any, rng: Rng) -> None:
    shape = (2**22 // 1024, 32, 32)
    file.create_dataset(name, shape, "f8", data=np.zeros(shape), compression="gzip")


_HDF5_WAYS: dict[str, Callable[[h5py.File, str, Any, Rng], None]] = {
    "claimed size": _claimed,
    "huge chunk": _big_chunk,
    "values": _values,
    "array": _array,
    "text": _text,
    "ragged": _vlen,
    "references": _references,
    "compound": _compound,
    "external link": _external_link,
    "external storage": _external_storage,
    "virtual": _virtual,
    "virtual loop": _virtual_loop,
    "soft link": _loop,
    "link to itself": _self_link,
    "group": _group,
    "type": _type,
    "null": _null,
    "deflate bomb": _bomb,
}


def _break_attribute(file: h5py.File, node: str, rng: Rng) -> str:
    attributes = file[node or "/"].attrs
    names = list(attributes)
    key = _pick(rng, names) if names else "name"
    value = _pick(
        rng,
        (
            "text",
            b"\xff\xfe",
            "x" * 60_000,
            np.nan,
            np.inf,
            -1.0,
            0,
            2**63 - 1,
            np.arange(7),
            np.zeros((0,)),
            h5py.Empty("f4"),
            np.zeros(2, [("a", "f4")]),
            True,
            1j,
        ),
    )
    if rng.random() < 0.15 and names:
        del attributes[key]
        return f"no attribute {key} of {node or '/'}"
    attributes[key] = value
    return f"attribute {key} of {node or '/'}"
