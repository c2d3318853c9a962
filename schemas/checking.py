"""From JSON to a struct, with a refusal that a person can act on.

The one rule: a refusal names the member and what is allowed. The limits stand in the annotations of a
struct; this module only finds out which one a body has broken.
"""

import types
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from schemas.errors import Code, RejectedError

Raw = dict[str, Any]  # Any: JSON, not yet checked
S = TypeVar("S", bound=Struct)


def check(
    kind: type[S], raw: Raw, prefix: str = "", *, strict: bool = True, also: frozenset[str] = frozenset()
) -> S:
    """Convert to a struct; ``also`` are names to list beside the struct's own when one is unknown."""
    known = kind.__struct_fields__
    for name in raw:
        if name not in known:
            allowed = sorted({*known, *also})
            raise RejectedError(
                Code.UNKNOWN_MEMBER,
                f"{prefix}{name} is not a member; known are {', '.join(allowed)}",
                member=f"{prefix}{name}",
                allowed=allowed,
            )
    try:
        return msgspec.convert(raw, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise _explained(kind, raw, prefix, strict=strict) or RejectedError(
            Code.WRONG_TYPE, str(error)
        ) from error


def _explained(kind: type[Struct], raw: Raw, prefix: str, *, strict: bool) -> RejectedError | None:
    """Find the member that does not convert, and whether its type or its value is wrong."""
    for field in msgspec.structs.fields(kind):
        member = f"{prefix}{field.name}"
        if field.name not in raw:
            if field.required:
                return RejectedError(Code.MISSING_MEMBER, f"{member} is required", member=member)
            continue
        value = raw[field.name]
        try:
            msgspec.convert(value, field.type, strict=strict)
        except msgspec.ValidationError as error:
            choices = _choices(field.type)
            if choices and isinstance(value, str):
                return RejectedError(
                    Code.OUT_OF_RANGE,
                    f"{member} is one of {', '.join(choices)}",
                    member=member,
                    allowed=choices,
                )
            code = Code.OUT_OF_RANGE if _converts(value, _bare(field.type), strict) else Code.WRONG_TYPE
            return RejectedError(code, f"{member}: {error}", member=member)
    return None


def _converts(value: Any, form: Any, strict: bool) -> bool:  # noqa: FBT001 - passed through; Any: a type form
    try:
        msgspec.convert(value, form, strict=strict)
    except msgspec.ValidationError:
        return False
    return True


def _bare(form: Any) -> Any:  # Any: a type form, for which there is no name
    """Take the limits off a type and leave the type."""
    origin = get_origin(form)
    if origin is Annotated:
        return _bare(get_args(form)[0])
    if origin in (Union, types.UnionType):
        return Union[tuple(_bare(part) for part in get_args(form))]  # noqa: UP007 - built at run time
    if origin in (tuple, dict):
        return origin[tuple(part if part is ... else _bare(part) for part in get_args(form))]
    return form


def _choices(form: Any) -> list[str]:  # Any: as above
    origin = get_origin(form)
    if origin is Literal:
        return [str(choice) for choice in get_args(form)]
    if origin in (Annotated, Union, types.UnionType):
        return [choice for part in get_args(form) for choice in _choices(part)]
    if isinstance(form, type) and issubclass(form, StrEnum):
        return [str(member) for member in form]
    return []
