"""Types that settings share, and the section that refuses what it does not know."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

__all__ = [
    "Duration",
    "Fraction",
    "Frames",
    "NonNegative",
    "PatternSide",
    "Positive",
    "Region",
    "Section",
    "Seed",
    "Weight",
    "or_with_unit",
]

_UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0}


def _duration(value: object) -> object:
    """Take ``90``, ``"90s"``, ``"15min"`` or ``"2h"`` as seconds."""
    if isinstance(value, str):
        number, unit = value.rstrip("hmins").strip(), value.lstrip("0123456789.eE+- ")
        try:
            return float(number) * _UNITS_S[unit or "s"]
        except (ValueError, KeyError):
            raise ValueError(f"expected seconds or e.g. 90s, 15min, 2h, found {value!r}") from None
    return value


def _as_text(value: object) -> object:
    """Take a single frame, which YAML reads as a number, as the text it stands for."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def or_with_unit(schema: dict[str, Any]) -> None:
    """Tell the JSON schema that a duration may have a unit."""
    examples = ["90s", "15min", "2h"]
    text = {"type": "string", "pattern": "^[0-9.eE+-]+ *(s|min|h)?$", "examples": examples}
    if "anyOf" not in schema:
        declared = {k: schema.pop(k) for k in ("type", "exclusiveMinimum")}
        schema["anyOf"] = [declared]
    schema["anyOf"].insert(1, text)


PatternSide = Annotated[int, Field(ge=32, le=1024, multiple_of=2)]
Weight = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Duration = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_duration)]
Frames = Annotated[
    str,
    Field(pattern=r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$", examples=["3,10-20"]),
    BeforeValidator(_as_text),
]
Region = Annotated[
    str, Field(pattern=r"^-?[0-9]+:-?[0-9]+,-?[0-9]+:-?[0-9]+$", examples=["10:40,20:60"])
]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuse ``epochs: true``, which pydantic would take for 1."""
        if (
            isinstance(value, bool)
            and cls.model_fields[str(info.field_name)].annotation is not bool
        ):
            raise ValueError(f"expected no truth value, found {value}")
        return value
