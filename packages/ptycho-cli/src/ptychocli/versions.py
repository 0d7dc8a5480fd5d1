"""Which packages are installed, in which version."""

from importlib.metadata import PackageNotFoundError, version

import ptychocli
import ptychoconfig
import ptychodata

__all__ = ["bundle_format", "installed", "package_versions"]

_BACKENDS = ("ptycho-torch", "ptycho-tf")


def package_versions() -> dict[str, str]:
    """Versions of this project's packages, by distribution; ``not installed`` where absent."""
    found = {
        "ptycho-config": ptychoconfig.__version__,
        "ptycho-data": ptychodata.__version__,
        "ptycho-cli": ptychocli.__version__,
    }
    return found | {name: installed(name) for name in _BACKENDS}


def bundle_format() -> int:
    """Version of the bundle files that are written."""
    from ptychodata.bundle import FORMAT_VERSION

    return FORMAT_VERSION


def installed(name: str) -> str:
    """Version of an installed distribution, or that there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
