"""The errors that every package raises.

Libraries raise these and know nothing of exit codes; only ``ptychocli.main`` maps them to
numbers.  A message says what was expected, what was found, where (file, key, flag), and what to
do next.
"""

__all__ = [
    "BackendError",
    "BundleError",
    "ConfigError",
    "DataError",
    "NumericalError",
    "PtychoError",
    "UsageError",
]


class PtychoError(Exception):
    """Base of every error that ``ptycho`` raises on purpose."""


class UsageError(PtychoError):
    """A name or choice that does not exist: an unknown backend, network or file format."""


class ConfigError(PtychoError):
    """A value out of bounds, a rule across settings broken, or an unusable output directory."""


class DataError(PtychoError):
    """A scan file that is missing, broken, ambiguous, or not what its name says."""


class BackendError(PtychoError):
    """A backend that is not installed, does not load, or cannot do what was asked."""


class BundleError(PtychoError):
    """A bundle that is missing, broken, tampered with, or of a newer format."""


class NumericalError(PtychoError):
    """A computation that diverged, or a result below a quality gate."""
