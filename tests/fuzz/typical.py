"""A good value of any type that msgspec reads: what fuzzing begins with."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect


def typical(kind: Any) -> bytes:
    """JSON of one, with every optional field, one item in each list and one key in each dict."""
    value = _value(inspect.type_info(kind))
    msgspec.convert(value, kind)  # or it is none
    return msgspec.json.encode(value)


def _value(info: inspect.Type) -> Any:
    match info:
        case inspect.StructType() | inspect.DataclassType():
            fields = {field.encode_name: _value(field.type) for field in info.fields}
            tag = {info.tag_field: info.tag} if isinstance(info, inspect.StructType) and info.tag_field else {}
            return tag | fields
        case inspect.NamedTupleType():
            return [_value(field.type) for field in info.fields]
        case inspect.DictType():
            return {"door": _value(info.value_type)}
        case inspect.ListType() | inspect.VarTupleType():
            return [_value(info.item_type)]
        case inspect.TupleType():
            return [_value(item) for item in info.item_types]
        case inspect.UnionType():
            return _value(next((item for item in info.types if not isinstance(item, inspect.NoneType)), info.types[0]))
        case inspect.LiteralType():
            return info.values[0]
        case inspect.StrType():
            return "2026-11-22T15:04:05.123456Z" if info.max_length in (None, 64) and info.pattern is None else "a-1"
        case inspect.IntType():
            return max(1, int(info.ge or 0))
        case inspect.FloatType():
            return 0.5
        case inspect.BoolType():
            return True
        case _:
            return None
