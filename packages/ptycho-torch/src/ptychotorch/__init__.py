"""The Torch backend of ``ptycho``.

``train``, ``infer`` and ``reconstruct`` are for programs and notebooks; they are loaded on first
use, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .calls import infer, reconstruct, train

__all__ = ["infer", "reconstruct", "train"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import calls

    return getattr(calls, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
