"""The order of records across partitions, and the integer that stands for it."""

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from nearline.log import Record
from nearline.versions import is_misplaced, is_offset, order_of, partition_of, place_of, version_of

NOW_MS = 1_732_100_000_000
LAST_MS = 4_398_046_511_103  # in the year 2109
places = st.tuples(st.integers(0, LAST_MS), st.integers(0, 2047), st.integers(0, 2**62))


@given(places, places)
def test_records_are_ordered_by_append_time_then_partition_then_offset(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    assert (order_of(*one) < order_of(*other)) == (one < other)
    assert place_of(order_of(*one)) == one
    if version_of(*one[:2]) < version_of(*other[:2]):
        assert one < other


@given(places)
def test_a_version_is_the_same_to_every_reader_and_larger_than_any_offset(place: tuple[int, int, int]) -> None:
    version = version_of(*place[:2])
    assert int(float(version)) == version, "a JSON number is a double to JavaScript"
    assert orjson.loads(orjson.dumps(version)) == int(np.int64(version)) == version


def test_the_version_of_an_earlier_release_is_known_as_an_offset() -> None:
    assert is_offset(10**12)
    assert not is_offset(version_of(NOW_MS, 0))
    assert version_of(NOW_MS, 0) > 10**15


def test_of_one_millisecond_and_partition_the_later_record_has_the_same_version_and_a_later_order() -> None:
    first, second = (Record("items", 3, offset, NOW_MS, b"k", b"v") for offset in (7, 8))
    assert first.version == second.version
    assert first.order < second.order


@given(st.binary(max_size=130), st.integers(1, 64))
def test_a_key_has_the_partition_that_kafkas_own_clients_choose(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions


def test_only_a_value_is_misplaced() -> None:
    right = partition_of(b"lamp", 8)
    assert [is_misplaced(b"lamp", b"x", partition, 8) for partition in (right, 7 - right)] == [False, True]
    assert not is_misplaced(b"lamp", None, 7 - right, 8), "a delete goes to every partition that holds the key"
    assert not is_misplaced(None, b"x", 3, 8), "a record without a key has no partition of its own"
