"""A safe pickle reader: it interprets only the opcodes that encode arrays, numbers and texts, and makes no object by name.

Unpickling calls whatever a file names. Even with a list of allowed names, NumPy's own functions for rebuilding arrays and types trust the file: a
forged type crashes the interpreter. So names are only compared here, and an array is made from its bytes, its shape and a type that is
spelled out.
"""

import dataclasses
import math
import pickletools
import re
from typing import Any

import numpy as np

COPIES = 2
"""How often the bytes of a pickle are copied at most: those of an array may be written as a text, which is made bytes, which are made an array."""
MOST_OPCODES = 1_000_000
"""Opcodes of the longest pickle that is read; a batch of CIFAR-10 has some 60,000."""
_ARRAY = {("numpy.core.multiarray", "_reconstruct"), ("numpy.core.numeric", "_frombuffer")}
_NAMES = _ARRAY | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("builtins", "bytearray")}
_BUNCH = {("sklearn.utils._bunch", "Bunch"), ("sklearn.utils", "Bunch"), ("sklearn.datasets.base", "Bunch")}
"""The dictionary that scikit-learn's datasets are, by where its versions have it."""
_KINDS = {f"{letter}{size}" for letter in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8", "b1"}
"""Types of the arrays that are made."""


class Foreign(ValueError):
    """The pickle holds something that arrays, numbers and texts do not need."""


@dataclasses.dataclass(eq=False)
class _Name:
    module: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        return self.module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins"), self.name


@dataclasses.dataclass(eq=False)
class _Kind:
    code: str
    order: str = "|"


@dataclasses.dataclass(eq=False)
class _Array:
    value: np.ndarray | None = None


class _Mark:
    pass


@dataclasses.dataclass
class _Room:
    """Bytes that may still be made, and whether scikit-learn's dictionaries and rows of texts may be."""

    left: int
    bunches: bool = False

    def take(self, size: int) -> None:
        """Take this many bytes.

        Raises:
            Foreign: Fewer are left.
        """
        self.left -= size
        if self.left < 0:
            raise Foreign("its arrays and texts are larger than itself, because it makes several of the same bytes")


def content_of(body: bytes, bunches: bool = False) -> Any:
    """What a pickle holds: dictionaries, lists, tuples, numbers, texts, bytes and arrays of numbers. Keys are texts, bytes or integers.

    Args:
        body: The pickle.
        bunches: Whether scikit-learn's Bunches, which become dictionaries, and arrays of texts are read too.

    Raises:
        ValueError: The pickle is damaged, holds anything else, or is far longer than its content needs.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    # What is made of bytes is a copy of them, and a value that is referred to again could be copied without end.
    room = _Room(COPIES * len(body), bunches)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(body)):
        if count > MOST_OPCODES:
            raise Foreign(f"it has more than {MOST_OPCODES:,} opcodes")
        name = opcode.name
        if name == "STOP":
            if len(stack) != 1:
                raise Foreign("it ends with more or less than one value")
            return _finished(stack[0])
        _take(name, argument, stack, memo, room)
    raise Foreign("it has no end")


_PLAIN = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
_OLD_TEXTS = frozenset(("STRING", "BINSTRING", "SHORT_BINSTRING"))
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def _take(name: str, argument: Any, stack: list[Any], memo: dict[int, Any], room: "_Room") -> None:
    """One opcode."""
    if name in ("PROTO", "FRAME"):
        return
    if name in _PLAIN:
        stack.append(argument)
    elif name in _OLD_TEXTS:
        # A text of Python 2 is a row of bytes, which pickletools shows as Latin-1.
        stack.append(argument.encode("latin1"))
    elif name in _VALUES:
        stack.append(_VALUES[name])
    elif name == "MARK":
        stack.append(_Mark)
    elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
        stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
    elif name in ("DICT", "LIST", "TUPLE"):
        parts = _since_mark(stack)
        stack.append({} if name == "DICT" else parts if name == "LIST" else tuple(parts))
        if name == "DICT":
            _set(stack[-1], parts)
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        size = int(name[-1])
        parts = _pop(stack, size)
        stack.append(tuple(parts))
    elif name in ("APPEND", "APPENDS"):
        parts = _pop(stack, 1) if name == "APPEND" else _since_mark(stack)
        _top(stack, list).extend(parts)
    elif name in ("SETITEM", "SETITEMS"):
        parts = _pop(stack, 2) if name == "SETITEM" else _since_mark(stack)
        _set(_top(stack, dict), parts)
    elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else argument] = _top(stack, object)
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        if argument not in memo:
            raise Foreign(f"it refers to value {argument}, which it has not")
        stack.append(memo[argument])
    elif name == "GLOBAL":
        module, attribute = argument.split(" ", 1)
        stack.append(_named(module, attribute, room))
    elif name == "STACK_GLOBAL":
        module, attribute = _pop(stack, 2)
        stack.append(_named(module, attribute, room))
    elif name == "NEWOBJ" and room.bunches:
        kind, arguments = _pop(stack, 2)
        if not isinstance(kind, _Name) or kind.key not in _BUNCH or arguments != ():
            raise Foreign("it makes an object that is no Bunch")
        stack.append({})
    elif name == "REDUCE":
        function, arguments = _pop(stack, 2)
        stack.append(_called(function, arguments, room))
    elif name == "BUILD":
        (state,) = _pop(stack, 1)
        _build(_top(stack, object), state, room)
    else:
        raise Foreign(f"it uses {name}, which arrays, numbers and texts do not need")


def _pop(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count or any(part is _Mark for part in stack[-count:]):
        raise Foreign("a value is missing")
    parts = stack[-count:]
    del stack[-count:]
    return parts


def _since_mark(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1
    while place >= 0 and stack[place] is not _Mark:
        place -= 1
    if place < 0:
        raise Foreign("a mark is missing")
    parts = stack[place + 1 :]
    del stack[place:]
    return parts


def _top(stack: list[Any], kind: type) -> Any:
    if not stack or stack[-1] is _Mark or not isinstance(stack[-1], kind):
        raise Foreign(f"a {kind.__name__} is missing")
    return stack[-1]


def _set(held: dict[Any, Any], parts: list[Any]) -> None:
    if len(parts) % 2:
        raise Foreign("a key has no value")
    for key, value in zip(parts[::2], parts[1::2], strict=True):
        # The hash of nested tuples may take for ever.
        if type(key) not in (str, bytes, int):
            raise Foreign(f"a key is a {type(key).__name__}")
        held[key] = _finished(value)


def _finished(value: Any) -> Any:
    """A value without what only stands for it."""
    if isinstance(value, _Array):
        if value.value is None:
            raise Foreign("an array has no content")
        return value.value
    if isinstance(value, (_Name, _Kind)):
        raise Foreign("it holds a name without a use")
    return value


def _named(module: Any, name: Any, room: "_Room") -> _Name:
    found = _Name(str(module)[:80], str(name)[:80]) if isinstance(module, str) and isinstance(name, str) else _Name("?", "?")
    if found.key not in _NAMES and not (room.bunches and found.key in _BUNCH):
        raise Foreign(f"it asks for {found.module}.{found.name}, which arrays do not need")
    return found


def _called(function: Any, arguments: Any, room: "_Room") -> Any:
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise Foreign("it calls what is no name")
    key = function.key
    if key == ("numpy", "dtype"):
        code = _words(arguments[0]) if arguments else ""
        if code not in _KINDS and not (room.bunches and isinstance(code, str) and re.fullmatch(r"U[1-9]\d{0,4}", code)):
            raise Foreign("it has a type of numbers that is not spelled out")
        return _Kind(code)
    if key == ("numpy.core.multiarray", "_reconstruct"):
        if len(arguments) != 3 or not isinstance(arguments[0], _Name) or arguments[0].key != ("numpy", "ndarray"):
            raise Foreign("it makes an array of another class")
        return _Array()
    if key == ("numpy.core.numeric", "_frombuffer"):
        if len(arguments) != 4:
            raise Foreign("an array lacks a part")
        body, kind, shape, order = arguments
        return _Array(_array(body, kind, shape, _words(order) == "F", room))
    if key == ("_codecs", "encode"):
        if len(arguments) != 2 or not isinstance(arguments[0], str) or _words(arguments[1]) != "latin1":
            raise Foreign("it encodes bytes otherwise than as latin1")
        room.take(len(arguments[0]))
        return arguments[0].encode("latin1")
    if key == ("builtins", "bytearray") and len(arguments) == 1 and isinstance(arguments[0], (bytes, bytearray)):
        return arguments[0]
    raise Foreign(f"it calls {function.module}.{function.name}")


def _build(made: Any, state: Any, room: "_Room") -> None:
    if isinstance(made, _Array):
        if made.value is not None or not isinstance(state, tuple) or len(state) != 5:
            raise Foreign("the content of an array is no five parts")
        _, shape, kind, fortran, body = state
        made.value = _array(body, kind, shape, fortran in (True, 1), room)
    elif isinstance(made, _Kind):
        # What NumPy writes for a plain type: version, order of bytes, and nothing of its own.
        if not isinstance(state, tuple) or len(state) != 8 or [type(part) for part in state[2:5]] != [type(None)] * 3:
            raise Foreign("a type of numbers is no plain one")
        made.order = str(_words(state[1]))
        if made.order not in ("|", "<", ">", "="):
            raise Foreign("a type of numbers has no order of bytes")
    elif not (room.bunches and isinstance(made, dict) and isinstance(state, dict)):
        # A Bunch's own attributes are warnings only.
        raise Foreign("it gives a state to what has none")


def _array(body: Any, kind: Any, shape: Any, fortran: bool, room: "_Room") -> np.ndarray:
    whole = isinstance(shape, tuple) and len(shape) <= 8 and all(type(size) is int and 0 <= size < 2**48 for size in shape)
    if not whole or not isinstance(kind, _Kind) or not isinstance(body, (bytes, bytearray)):
        raise Foreign("an array has no plain shape, type or bytes")
    plain = np.dtype(kind.code).newbyteorder(kind.order)  # type: ignore[arg-type]
    if math.prod(shape) * plain.itemsize != len(body):
        raise Foreign(f"an array of shape {shape} has {len(body):,} bytes")
    room.take(len(body))
    return np.frombuffer(bytearray(body), plain).reshape(shape, order="F" if fortran else "C")


def _words(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value if isinstance(value, str) else ""
