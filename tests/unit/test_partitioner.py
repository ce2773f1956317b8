"""Published vectors, and librdkafka itself."""

from __future__ import annotations

import ctypes
import random
from collections import Counter

import confluent_kafka
import confluent_kafka.cimpl
import pytest

from streamflow.errors import ConfigurationError
from streamflow.partitioner import (
    PARTITIONERS,
    fnv1a,
    fnv1a_32,
    fnv1a_librdkafka,
    murmur2,
    murmur2_32,
    partitioner_named,
    partitions_of,
)

# The FNV authors' test_fnv.c and the appendix of draft-eastlake-fnv; the last one is the draft's
# shortest input that hashes to zero.
FNV_VECTORS = {
    b"": 0x811C9DC5,
    b"a": 0xE40C292C,
    b"b": 0xE70C2DE5,
    b"c": 0xE60C2C52,
    b"d": 0xE10C2473,
    b"e": 0xE00C22E0,
    b"f": 0xE30C2799,
    b"fo": 0x6222E842,
    b"foo": 0xA9F37ED7,
    b"foob": 0x3F5076EF,
    b"fooba": 0x39AAA18A,
    b"foobar": 0xBF9CF968,
    b"\0": 0x050C5D1F,
    b"a\0": 0x2B24D044,
    b"foobar\0": 0x0C1C9EB8,
    b"ch": 0x5F299F4E,
    b"cho": 0xEF8580F3,
    b"\xcc\x24\x31\xc4": 0,
}

# Apache Kafka's UtilsTest.testMurmur2 (as Java ints), and librdkafka's rdmurmur2.c (unsigned).
MURMUR2_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
    b"kafka": 0xD067CF64,
}

LEAST_INT32 = b"nyikjtf"  # hashes to 0x80000000, the one value without an absolute value in 32 bits


def some_keys(count: int) -> list[bytes]:
    """Random keys of 0 to 40 bytes, the everyday ones and the edges among them."""
    rng = random.Random(20260101)
    keys = [rng.randbytes(rng.randrange(41)) for _ in range(count)]
    keys += [f"user-{n}".encode() for n in range(count)]
    return [*keys, *FNV_VECTORS, *MURMUR2_VECTORS, LEAST_INT32]


@pytest.mark.parametrize("key, expected", FNV_VECTORS.items())
def test_fnv1a_gives_the_published_hashes(key, expected):
    assert fnv1a_32(key) == expected
    assert fnv1a(key, 2**32) == expected
    assert fnv1a(key, 7) == expected % 7


@pytest.mark.parametrize("key, expected", MURMUR2_VECTORS.items())
def test_murmur2_gives_kafkas_published_hashes(key, expected):
    assert murmur2_32(key) == expected % 2**32
    assert murmur2(key, 6) == (expected & 0x7FFFFFFF) % 6


def test_the_rules_differ_only_where_the_hash_is_negative():
    assert fnv1a(b"foob", 5) == fnv1a_librdkafka(b"foob", 5)
    assert fnv1a(b"foobar", 5) == 0xBF9CF968 % 5
    assert fnv1a_librdkafka(b"foobar", 5) == (2**32 - 0xBF9CF968) % 5


def test_the_least_int32_is_placed_by_its_bits():
    assert fnv1a_32(LEAST_INT32) == 0x80000000
    assert fnv1a_librdkafka(LEAST_INT32, 7) == 2**31 % 7


LIBRDKAFKA_NAMES = {"fnv1a_librdkafka": "fnv1a", "murmur2": "murmur2"}


@pytest.mark.parametrize("ours, theirs", LIBRDKAFKA_NAMES.items())
def test_librdkafkas_own_functions_agree_on_every_key_and_partition_count(ours, theirs):
    # The symbol is found through the extension module, which links librdkafka.
    function = getattr(ctypes.CDLL(confluent_kafka.cimpl.__file__), f"rd_kafka_msg_partitioner_{theirs}")
    function.restype = ctypes.c_int32
    function.argtypes = [
        ctypes.c_void_p,  # the topic, which these rules never look at
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    partitioner = partitioner_named(ours)
    for key in some_keys(10_000):
        for partitions in (1, 2, 3, 6, 7, 12, 100, 1_009):
            expected = function(None, key, len(key), partitions, None, None)
            assert partitioner(key, partitions) == expected, (key, partitions)


@pytest.mark.parametrize(
    "ours, theirs", [("fnv1a_librdkafka", "fnv1a"), ("murmur2", "murmur2"), ("murmur2", "murmur2_random")]
)
def test_a_librdkafka_producer_sends_every_key_where_we_say(ours, theirs):
    partitioner = partitioner_named(ours)
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": "unused",
            "test.mock.num.brokers": 1,
            "partitioner": theirs,
            "linger.ms": 5,
            "log_level": 3,
        }
    )
    partitions = len(producer.list_topics("keys", timeout=10).topics["keys"].partitions)
    sent: list[tuple[bytes, int]] = []

    def delivered(error, message):
        assert error is None
        sent.append((message.key(), message.partition()))

    keys = some_keys(10_000)
    for key in keys:
        producer.produce("keys", value=b"", key=key, on_delivery=delivered)
        producer.poll(0)
    assert producer.flush(30) == 0
    assert partitions > 1
    assert len(sent) == len(keys)
    assert [(key, p) for key, p in sent if partitioner(key, partitions) != p] == []


@pytest.mark.parametrize("name", PARTITIONERS)
def test_every_rule_uses_all_partitions_about_equally(name):
    partitioner = partitioner_named(name)
    shares = Counter(partitioner(f"user-{n}".encode(), 6) for n in range(12_000))
    assert sorted(shares) == list(range(6))
    assert min(shares.values()) > 1_500


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(ConfigurationError, match="fnv1a_librdkafka"):
        partitioner_named("crc32")


@pytest.mark.parametrize("name", sorted(PARTITIONERS))
@pytest.mark.parametrize("count", [0, 1, 15, 16, 500])
def test_a_column_of_keys_lies_where_each_of_them_lies(name: str, count: int) -> None:
    partitioner, chance = PARTITIONERS[name], random.Random(count)
    # Keys of any length, some that end in NUL, which is also what fills a column up, and an absurd one.
    keys = [chance.randbytes(chance.randrange(12)) + bytes(chance.randrange(3)) for _ in range(count)]
    for column in (keys, [*keys, LEAST_INT32, b"\0", b""], [*keys, b"k" * 10_000]):
        for partitions in (1, 7, 1_000):
            found = partitions_of(partitioner, column, partitions)
            assert found == [partitioner(key, partitions) for key in column]
            assert set(map(type, found)) <= {int}
