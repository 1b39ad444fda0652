"""Metadata filters: JSON as users write it -> conditions that both stores translate.

    {"author": "Stevenson"}                      equals
    {"author": ["Stevenson", "Fresnel"]}         any of
    {"year": {"gte": 1800, "lt": 1900}}          range: gt, gte, lt, lte
    {"not": {"language": "fr"}}                  none of these may hold
    {"author": "Stevenson", "page": {"lte": 3}}  all must hold

`document_id`, `title`, `source` and `page` are the document's own fields, every other name is a
key of its metadata.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rag.errors import InvalidInput
from rag.types import Metadata

OWN_FIELDS = frozenset({"document_id", "title", "source", "page"})
BOUNDS = ("gt", "gte", "lt", "lte")
MAX_CONDITIONS = 32
MAX_VALUES = 256

Value = str | int | bool


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The field equals one of the values (all of one type: texts, integers, or one boolean)."""

    key: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """The field is a number within bounds."""

    key: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True)
class Not:
    """The condition must not hold."""

    condition: AnyOf | Range


Condition = AnyOf | Range | Not


def parse_filter(given: Mapping[str, Any] | None) -> tuple[Condition, ...]:
    """The conditions of a filter, all of which must hold. Raises InvalidInput."""
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise InvalidInput("A filter is an object.", hint='For example {"author": "Stevenson"}.')
    conditions: list[Condition] = []
    for key, value in given.items():
        if key == "not":
            if not isinstance(value, Mapping) or "not" in value:
                raise InvalidInput('"not" in a filter takes an object of plain conditions.')
            conditions += [Not(_condition(k, v)) for k, v in value.items()]
        else:
            conditions.append(_condition(key, value))
    if len(conditions) > MAX_CONDITIONS:
        raise InvalidInput(f"A filter takes at most {MAX_CONDITIONS} conditions.")
    return tuple(conditions)


def document_conditions(given: Mapping[str, Any] | None) -> tuple[Condition, ...]:
    """The conditions of a filter on whole documents. Raises InvalidInput for one on `page`."""
    conditions = parse_filter(given)
    if any(chunk_field(condition) for condition in conditions):
        raise InvalidInput(
            "'page' is a passage's: documents cannot be picked by it.",
            hint="Filter by document_id, title, source or metadata.",
        )
    return conditions


def chunk_field(condition: Condition) -> bool:
    """Whether a condition is on passages and not on their document."""
    plain = condition.condition if isinstance(condition, Not) else condition
    return plain.key == "page"


def matches(conditions: Sequence[Condition], fields: Mapping[str, Any], metadata: Metadata) -> bool:
    """Whether a document is one that Qdrant would find under these conditions.

    `fields` are its own, `document_id`, `title` and `source`; a condition on a field that is
    neither there nor in the metadata does not hold.
    """
    return all(_holds(condition, fields, metadata) for condition in conditions)


def _holds(condition: Condition, fields: Mapping[str, Any], metadata: Metadata) -> bool:
    if isinstance(condition, Not):
        return not _holds(condition.condition, fields, metadata)
    if condition.key in OWN_FIELDS:
        value = fields.get(condition.key)
    else:
        value = metadata.get(condition.key.removeprefix("metadata.").strip('"'))
    values = value if isinstance(value, list | tuple) else [value]  # any of a list's is enough
    if isinstance(condition, Range):
        return any(_within(condition, one) for one in values)
    wanted = {(type(one), one) for one in condition.values}  # True is no 1, and 1.0 neither
    return any((type(one), one) in wanted for one in values if one is not None)


def _within(bounds: Range, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    number = float(value)
    return (
        (bounds.gt is None or number > bounds.gt)
        and (bounds.gte is None or number >= bounds.gte)
        and (bounds.lt is None or number < bounds.lt)
        and (bounds.lte is None or number <= bounds.lte)
    )


def _condition(key: str, value: object) -> AnyOf | Range:
    path = key if key in OWN_FIELDS else f"metadata.{_plain(key)}"
    if isinstance(value, Mapping):
        return _range(key, path, value)
    if isinstance(value, float):
        return Range(path, gte=_finite(key, value), lte=value)
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return AnyOf(path, _values(key, values))


def _plain(key: str) -> str:
    # Qdrant reads dots and brackets as a path into nested objects; metadata is flat.
    if not key or any(sign in key for sign in '.[]"\\'):
        raise InvalidInput(f"{key!r} cannot name a metadata field in a filter.")
    return f'"{key}"' if not key.replace("_", "").replace("-", "").isalnum() else key


def _values(key: str, values: Sequence[object]) -> tuple[Value, ...]:
    kinds = {type(value) for value in values}
    if not 1 <= len(values) <= MAX_VALUES or len(kinds) != 1 or not kinds <= {str, int, bool}:
        raise InvalidInput(
            f"The filter on {key!r} needs a text, an integer or a boolean,"
            f" or a list of 1 to {MAX_VALUES} of one kind.",
            hint='For numbers with decimals use a range, such as {"gte": 1.5, "lte": 2}.',
        )
    if kinds == {int} and not all(-(2**63) <= v < 2**63 for v in values):  # type: ignore[operator]
        raise InvalidInput(f"The filter on {key!r} has an integer of more than 64 bits.")
    if kinds == {bool}:
        return (values[0] is True,) if len(set(values)) == 1 else (True, False)
    return values  # type: ignore[return-value] # checked above: all texts or all integers


def _range(key: str, path: str, bounds: Mapping[str, object]) -> Range:
    unknown = sorted(set(bounds) - set(BOUNDS))
    if unknown or not bounds:
        named = f" not {', '.join(unknown)}" if unknown else ""
        raise InvalidInput(f"The range on {key!r} takes {', '.join(BOUNDS)}{named}.")
    return Range(path, **{name: _finite(key, value) for name, value in bounds.items()})


def _finite(key: str, value: object) -> float:
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        number = math.inf
    if isinstance(value, bool) or not math.isfinite(number):
        raise InvalidInput(f"The range on {key!r} takes numbers, not {value!r:.80}.")
    return number
