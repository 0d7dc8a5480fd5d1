"""The physics of this backend against vectors recorded from the reference, in float32."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

import ptychodata.physics as reference
from ptychodata.golden import load_cases
from ptychotorch import physics

GOLDEN = Path(__file__).parents[3] / "fixtures" / "golden"
CASES = load_cases(GOLDEN)


def test_public_names_are_those_of_the_reference():
    assert set(physics.__all__) == set(reference.__all__)
    for name in set(physics.__all__) - {"EPSILON"}:
        ours = list(inspect.signature(getattr(physics, name)).parameters)
        theirs = list(inspect.signature(getattr(reference, name)).parameters)
        assert [p for p in ours if p != "corner"] == theirs, name
    assert physics.EPSILON == reference.EPSILON
