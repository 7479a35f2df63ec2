"""A value that is pickled once and sent many times.

It arrives as the value itself. Its large buffers are still those of the original: they leave without a copy, and what
is done to them before that is seen.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

from bigmachine.frozen import frozen
from bigmachine.rpc.codec import Codec


@frozen
class Packed:
    """A pickle and its buffers."""

    data: bytes
    buffers: tuple[pickle.PickleBuffer, ...]

    @classmethod
    def pack(cls, value: object, codec: Codec) -> Packed:
        """Pickle a value now.

        Raises: whatever pickling it raises.
        """
        buffers: list[pickle.PickleBuffer] = []
        data = codec.dumps(value, buffers)
        return cls(data, tuple(buffers))

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return _unpack, (pickle.PickleBuffer(self.data), *self.buffers)


def _unpack(data: bytes, *buffers: object) -> object:
    return pickle.loads(data, buffers=buffers)


__all__ = ["Packed"]
