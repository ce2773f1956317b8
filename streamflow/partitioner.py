"""Key bytes -> partition: FNV-1a as the default, and the rules of other producers.

FNV-1a: Fowler, Noll and Vo, draft-eastlake-fnv, 32 bits. murmur2: Austin Appleby's MurmurHash2 with
the seed of Apache Kafka's Java client, which Faust uses too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from streamflow.errors import ConfigurationError

Partitioner = Callable[[bytes, int], int]
"""(key bytes, number of partitions) -> partition, from 0 up"""

_FNV_OFFSET_BASIS = 0x811C9DC5
_FNV_PRIME = 0x01000193
_MURMUR2_SEED = 0x9747B28C
_MURMUR2_M = 0x5BD1E995
_U32 = 0xFFFFFFFF
_COLUMN_KEYS_MIN = 16  # below, numpy's calls cost more than they save
_COLUMN_BYTES_MAX = 256  # of a key; a longer one makes a column wide for all


def fnv1a_32(key: bytes) -> int:
    """The FNV-1a hash of 32 bits, unsigned."""
    value = _FNV_OFFSET_BASIS
    for byte in key:
        value = (value ^ byte) * _FNV_PRIME & _U32
    return value


def murmur2_32(key: bytes) -> int:
    """Kafka's murmur2 of 32 bits, unsigned (Java's ``int`` is the same bits, signed)."""
    length = len(key)
    whole = length & ~3
    value = _MURMUR2_SEED ^ length
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * _MURMUR2_M & _U32
        word = (word ^ word >> 24) * _MURMUR2_M & _U32
        value = value * _MURMUR2_M & _U32 ^ word
    if length > whole:
        value = (value ^ int.from_bytes(key[whole:], "little")) * _MURMUR2_M & _U32
    value = (value ^ value >> 13) * _MURMUR2_M & _U32
    return value ^ value >> 15


def fnv1a(key: bytes, partitions: int) -> int:
    """``FNV-1a-32(key) mod partitions``, unsigned: streamflow's default."""
    value = _FNV_OFFSET_BASIS  # fnv1a_32 written out: this runs for every new key
    for byte in key:
        value = (value ^ byte) * _FNV_PRIME & _U32
    return value % partitions


def fnv1a_librdkafka(key: bytes, partitions: int) -> int:
    """``abs(int32(FNV-1a-32(key))) mod partitions``: librdkafka's ``fnv1a`` and Sarama's hash partitioner.

    The least int32 has no absolute value of 32 bits: both libraries then take 2**31 modulo partitions,
    which is what unbounded integers give. librdkafka hashes a null key like an empty one.
    """
    value = fnv1a_32(key)
    return (value if value < 0x80000000 else 0x100000000 - value) % partitions


def murmur2(key: bytes, partitions: int) -> int:
    """``toPositive(murmur2(key)) mod partitions``: the Java client's and Faust's.

    ``toPositive`` clears the sign bit. The Java client places an empty key like any other and spreads
    null keys; librdkafka calls this ``murmur2_random``.
    """
    return (murmur2_32(key) & 0x7FFFFFFF) % partitions


def partitions_of(partitioner: Partitioner, keys: Sequence[bytes], partitions: int) -> list[int]:
    """``partitioner(key, partitions)`` of each key; both FNV rules take a column of keys at once."""
    if partitioner in (fnv1a, fnv1a_librdkafka) and len(keys) >= _COLUMN_KEYS_MIN:
        lengths = np.fromiter(map(len, keys), np.intp, len(keys))
        if lengths.max() <= _COLUMN_BYTES_MAX:
            values = _fnv1a_32_column(keys, lengths)
            if partitioner is fnv1a_librdkafka:
                values = np.abs(values.view(np.int32).astype(np.int64))
            return list((values % partitions).tolist())
    return [partitioner(key, partitions) for key in keys]


def _fnv1a_32_column(keys: Sequence[bytes], lengths: np.ndarray) -> np.ndarray:
    """`fnv1a_32` of each key, all their first bytes before all their second ones. uint32."""
    width, shortest = int(lengths.max()), int(lengths.min())
    values = np.full(len(keys), _FNV_OFFSET_BASIS, np.uint32)
    if width:
        # Padded with NUL; `lengths` says where a key ends.
        octets = np.array(keys, f"S{width}").view(np.uint8).reshape(len(keys), width)
        for at, column in enumerate(np.ascontiguousarray(octets.T)):
            hashed = (values ^ column) * np.uint32(_FNV_PRIME)
            values = hashed if at < shortest else np.where(lengths > at, hashed, values)
    return values


PARTITIONERS: dict[str, Partitioner] = {
    "fnv1a": fnv1a,
    "fnv1a_librdkafka": fnv1a_librdkafka,
    "murmur2": murmur2,
}


def partitioner_named(name: str) -> Partitioner:
    """The rule of that name. Raises ConfigurationError."""
    try:
        return PARTITIONERS[name]
    except KeyError:
        known = ", ".join(PARTITIONERS)
        raise ConfigurationError(f"partitioner={name!r}: there is none of that name, only {known}") from None
