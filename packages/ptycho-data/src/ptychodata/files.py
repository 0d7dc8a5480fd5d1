"""Writing files whole or not at all, the same bytes every time, and reading them strictly."""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ptychoconfig.errors import ConfigError, DataError

__all__ = ["atomic_path", "dump_json", "leftovers", "parse_json", "sha256_of", "stored_member"]

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}(\.\w+)?")

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary sibling to write to, and rename it to ``path`` at the end.

    Whoever looks at ``path`` sees the old file or the whole new one.  The sibling keeps the
    suffix, which tells some writers the format; on any error it is removed.

    Args:
        path: file to be; its directory must exist.

    Yields:
        An existing, empty file in the same directory.

    Raises:
        ConfigError: the directory is missing or unwritable, ``path`` is a directory, or the disk
            is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    if target.is_dir():
        raise ConfigError(
            f"--output: expected a file to write, found the directory {target}; add a file name"
        )
    try:
        temporary.open("xb").close()
    except OSError as error:
        raise ConfigError(
            f"--output: expected a writable directory for {target}, found: {error.strerror}; "
            "create it, or choose another with --output or --output-dir"
        ) from error
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise ConfigError(
            f"--output: expected room for {target}, found: {error.strerror}; free some, or choose "
            "another place with --output or --output-dir"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of ``atomic_path`` whose writers were killed; those of a living one too."""
    return [file for file in folder.glob(".*") if _TEMPORARY.fullmatch(file.name)]


def _sync(path: Path) -> None:
    """Push a file or a directory entry to the disk, where the system lets us open it."""
    with suppress(PermissionError):  # directories cannot be opened on Windows
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"expected a readable file, found {path}: {error.strerror}") from error


def stored_member(name: str) -> zipfile.ZipInfo:
    """Entry of a zip archive, uncompressed and with a fixed time, so that reruns are identical."""
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.compress_type = zipfile.ZIP_STORED
    member.create_system = 3  # Unix, wherever it is written
    member.external_attr = 0o644 << 16
    return member


def dump_json(value: object, *, indent: int | None = 1) -> str:
    """Strict JSON with sorted keys, one line if ``indent`` is None; non-finite becomes null."""
    return json.dumps(_finite(value), sort_keys=True, indent=indent, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def parse_json(text: str | bytes) -> Any:
    """Read strict JSON: no NaN, no infinity, no key twice.

    Raises:
        ValueError: the text is not strict JSON, or nested beyond reason.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found
