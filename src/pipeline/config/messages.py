"""What is wrong with a config, in words: the key, what was found, what is allowed."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.config.backbones import SHA256_PATTERN
from pipeline.config.base import NAME_PATTERN
from pipeline.errors import did_you_mean

PATTERNS = {
    NAME_PATTERN: "letters, digits, '_', '-' and '.', the first a letter or a digit",
    SHA256_PATTERN: "64 of the digits 0-9 and a-f",
}
NUMBER, MAPPING = "a number", "a mapping of keys to values"
# By pydantic's name of the error; what is in braces is its context.
EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": MAPPING,
    "finite_number": "a finite number",
    "float_parsing": NUMBER,
    "float_type": NUMBER,
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "list_type": "a list",
    "model_attributes_type": MAPPING,
    "model_type": MAPPING,
    "string_too_long": "at most {max_length} characters",
    "string_type": "text (in quotes where YAML would take it for something else)",
    "too_long": "a list of at most {max_length}",
    "too_short": "a list of at least {min_length}",
    "truth_value": NUMBER,
    "tuple_type": "a list",
}
LONGEST = 60


def describe(problem: Mapping[str, Any], raw: Mapping[str, Any]) -> Iterator[str]:
    """One line for each thing wrong.

    Args:
        problem: An entry of pydantic's ``ValidationError.errors()``.
        raw: The config that was validated.
    """
    path, found, context = _key_path(problem, raw), problem["input"], problem.get("ctx", {})
    match problem["type"]:
        case "unknown_keys":
            allowed = context["known"]
            for key in context["unknown"]:
                hint = did_you_mean(str(key), allowed)
                yield f"{dotted((*path, key))}: unknown key; allowed: {', '.join(allowed)}{hint}"
        case "missing" if isinstance(path[-1], int):
            yield f"{dotted(path)}: the list ends before this value"
        case "missing":
            yield f"{dotted(path)}: missing; this key is required"
        case "union_tag_not_found":
            yield f"{dotted((*path, _tag_key(context)))}: missing; this key is required"
        case "union_tag_invalid":
            allowed = context["expected_tags"].replace("'", "").split(", ")
            yield f"{dotted((*path, _tag_key(context)))}: {_choice(found[_tag_key(context)], allowed)}"
        case "literal_error":
            allowed = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            yield f"{dotted(path)}: {_choice(found, allowed)}"
        case "value_error":
            yield f"{dotted(path)}: {context['error']}"
        case _ if problem["loc"][-1] == "[key]":
            yield f"{dotted(path)}: the name {shown(found)} is not allowed; expected {_expected(problem)}"
        case _:
            yield f"{dotted(path)}: found {shown(found)}; expected {_expected(problem)}"


def dotted(path: Iterable[Any]) -> str:
    """A key path as people write it: ``experiments[0].seeds``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "(top level)"


def shown(value: Any) -> str:
    """A value as YAML has it, shortened."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _expected(problem: Mapping[str, Any]) -> str:
    context = problem.get("ctx", {})
    if problem["type"] == "string_pattern_mismatch":
        return PATTERNS[context["pattern"]]
    return EXPECTED[problem["type"]].format(**context)


def _choice(found: Any, allowed: list[str]) -> str:
    return f"found {shown(found)}; allowed: {', '.join(allowed)}{did_you_mean(str(found), allowed)}"


def _tag_key(context: Mapping[str, Any]) -> str:
    return context["discriminator"].strip("'")


def _key_path(problem: Mapping[str, Any], raw: Any) -> tuple[Any, ...]:
    """Where the problem is, without the union tags that pydantic puts between the keys."""
    *parents, last = problem["loc"] or (None,)
    path: list[Any] = []
    for part in (*parents, last):
        keys = range(len(raw)) if isinstance(raw, list) else raw if isinstance(raw, Mapping) else ()
        if part in keys:
            path.append(part)
            raw = raw[part]
    return (*path, last) if problem["type"] == "missing" else tuple(path)
