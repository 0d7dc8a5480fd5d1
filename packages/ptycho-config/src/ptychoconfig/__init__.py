"""Settings, payloads and typed errors of ``ptycho``; needs no framework.

The names listed here are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptychoconfig.errors import (
        BackendError,
        BundleError,
        ConfigError,
        DataError,
        NumericalError,
        PtychoError,
        UsageError,
    )
    from ptychoconfig.payloads import (
        InferencePayload,
        SolverPayload,
        TrainingPayload,
        create_inference_payload,
        create_solver_payload,
        create_training_payload,
        infer_probe_size,
    )
    from ptychoconfig.schema import (
        DataConfig,
        EvaluationConfig,
        ExecutionConfig,
        InferenceConfig,
        ModelConfig,
        SimulationConfig,
        SolverConfig,
        TrainingConfig,
    )

__all__ = [
    "BackendError",
    "BundleError",
    "ConfigError",
    "DataConfig",
    "DataError",
    "EvaluationConfig",
    "ExecutionConfig",
    "InferenceConfig",
    "InferencePayload",
    "ModelConfig",
    "NumericalError",
    "PtychoError",
    "SimulationConfig",
    "SolverConfig",
    "SolverPayload",
    "TrainingConfig",
    "TrainingPayload",
    "UsageError",
    "create_inference_payload",
    "create_solver_payload",
    "create_training_payload",
    "infer_probe_size",
]

__version__ = "0.1.0"

_MODULES = {
    "BackendError": "errors",
    "BundleError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "NumericalError": "errors",
    "PtychoError": "errors",
    "UsageError": "errors",
    "InferencePayload": "payloads",
    "SolverPayload": "payloads",
    "TrainingPayload": "payloads",
    "create_inference_payload": "payloads",
    "create_solver_payload": "payloads",
    "create_training_payload": "payloads",
    "infer_probe_size": "payloads",
    "DataConfig": "schema",
    "EvaluationConfig": "schema",
    "ExecutionConfig": "schema",
    "InferenceConfig": "schema",
    "ModelConfig": "schema",
    "SimulationConfig": "schema",
    "SolverConfig": "schema",
    "TrainingConfig": "schema",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
