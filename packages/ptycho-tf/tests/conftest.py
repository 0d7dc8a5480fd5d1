"""What the tests of this backend share, in a process without Torch."""

import sys

import pytest

from ptychotf._start import start_tensorflow

if "torch" in sys.modules:
    pytest.exit("expected a process without Torch; run: pytest packages/ptycho-tf", returncode=4)
start_tensorflow()
