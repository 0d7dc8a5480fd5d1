"""Every setting of ``ptycho``, declared once.

The command's flags, the YAML keys, the environment variables, the JSON schema and the reference
page in ``docs/`` all come from these declarations.  A setting lives in one section:

- what changes the result is in ``ModelConfig``, ``DataConfig``, ``TrainingConfig``,
  ``InferenceConfig``, ``SolverConfig`` and ``SimulationConfig``; a bundle keeps the first three;
- how far to trust it is asked in ``EvaluationConfig``, which changes nothing;
- how it runs is in ``ExecutionConfig``; it is recorded as provenance and never part of a model.

Units stand in the names (``_px``, ``_m``, ``_s``, ``_eV``).  The models are frozen; unknown keys
and values out of bounds raise ``pydantic.ValidationError``, which ``ptychoconfig.resolve`` turns
into a ``ConfigError`` naming the flag.
"""

from ptychoconfig.schema.learning import (
    ARCHITECTURE_DEFAULTS,
    NETWORKS_OF,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    distilled_defaults,
)
from ptychoconfig.schema.running import EvaluationConfig, ExecutionConfig
from ptychoconfig.schema.scans import DataConfig, SimulationConfig
from ptychoconfig.schema.solving import SolverConfig
from ptychoconfig.schema.types import Duration, PatternSide, Section

__all__ = [
    "ARCHITECTURE_DEFAULTS",
    "NETWORKS_OF",
    "SECTIONS",
    "DataConfig",
    "Duration",
    "EvaluationConfig",
    "ExecutionConfig",
    "InferenceConfig",
    "ModelConfig",
    "PatternSide",
    "Section",
    "SimulationConfig",
    "SolverConfig",
    "TrainingConfig",
    "distilled_defaults",
]

SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "training": TrainingConfig,
    "inference": InferenceConfig,
    "evaluation": EvaluationConfig,
    "solver": SolverConfig,
    "simulation": SimulationConfig,
    "execution": ExecutionConfig,
}
