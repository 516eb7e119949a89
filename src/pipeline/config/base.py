"""What all settings models share: unknown keys refused by name, values frozen, numbers finite."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError


def _no_truth_value(value: Any) -> Any:
    """Refuse true and false where a number is wanted; Python would take them as 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("truth_value", "input should be a number")
    return value


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=60)]
Number = Annotated[float, BeforeValidator(_no_truth_value)]
Fraction = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_no_truth_value)]
Between = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_no_truth_value)]
Share = Annotated[float, Field(gt=0, le=1), BeforeValidator(_no_truth_value)]
Positive = Annotated[float, Field(gt=0), BeforeValidator(_no_truth_value)]
Ratio = Annotated[float, Field(gt=1), BeforeValidator(_no_truth_value)]
Integer = Annotated[int, BeforeValidator(_no_truth_value)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_no_truth_value)]
CountFromZero = Annotated[int, Field(ge=0), BeforeValidator(_no_truth_value)]
Seed = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(_no_truth_value)]


class Settings(BaseModel):
    """A frozen section of the config; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        """Before all else, so that a misspelled key is not reported as a missing one too."""
        if not isinstance(data, dict):
            return data
        known = list(cls.model_fields)
        unknown = [key for key in data if key not in known]
        if unknown:
            raise PydanticCustomError("unknown_keys", "unknown keys", {"unknown": unknown, "known": known})
        return data

    def plain(self) -> dict[str, Any]:
        """The settings as JSON-ready values, defaults filled in."""
        return self.model_dump(mode="json")

    def _require_one(self, first: str, second: str) -> None:
        """Raise ValueError unless one of two keys is given, and one alone."""
        missing = [getattr(self, key) is None for key in (first, second)]
        if missing[0] == missing[1]:
            found = "neither" if missing[0] else "both"
            raise ValueError(f"found {found} of {first} and {second}; give one")
