"""The network that comes with this package, for scans that no network was trained on.

``docs/model-card.md`` says what it was trained on, what it can do, and what it cannot.
"""

from pathlib import Path

from ptychodata.bundle import BUNDLE_NAME

__all__ = ["PRETRAINED"]

PRETRAINED = Path(__file__).with_name(BUNDLE_NAME)
"""The bundle."""
