"""The arithmetic of size: known answers, by hand."""

import pytest

from benchmarks.scaling import MeasuredProcess, Nodes, engine_bytes, needs, read_measured, record_bytes, table

MEASURED = MeasuredProcess(mib=100.0, build_s=10.0, searches_per_s=1_000.0)


def test_an_item_in_an_engine_is_its_vector_its_links_and_its_columns() -> None:
    """128 values of 4 bytes, 33 links of 4, 68 bytes on one floor above for each fifteenth item, columns, text."""
    assert engine_bytes(128) == 512 + 132 + 4 + (20 + 8 + 8 + 8 + 8 + 128 + 32) + 300
    assert engine_bytes(128) - engine_bytes(128, value=1) == 384


def test_a_record_holds_both_vectors() -> None:
    assert record_bytes(128) - record_bytes(0) == 128 * 4 + 128 * 2


def test_the_estimate_for_100000_items_is_the_measurement() -> None:
    found = needs(100_000, MEASURED, Nodes(cores=1))
    assert found.process_gib * 1024 == pytest.approx(100)
    assert found.build_s == pytest.approx(10)
    assert found.shards == 1
    assert found.searches_of_a_copy == pytest.approx(1_000)


def test_memory_is_divided_among_nodes_and_every_node_searches_for_every_answer() -> None:
    one, ten = needs(10_000_000, MEASURED, Nodes()), needs(1_500_000_000, MEASURED, Nodes())
    assert ten.engine_gib == pytest.approx(150 * one.engine_gib)
    assert ten.shards == -(-ten.engine_gib // (64 * 0.6))
    assert one.searches_of_a_copy / 1.3 < ten.searches_of_a_copy < one.searches_of_a_copy * 1.3, (
        "nodes add memory, not answers"
    )


def test_the_table_has_a_row_for_each_size_and_the_bench_is_read() -> None:
    found = {"mib_per_100k": {"steady": 100.0}, "build_s": 10.0, "reads_beside": {"rps": 1_000.0}}
    assert read_measured(found) == MEASURED
    lines = table([needs(size, MEASURED, Nodes()) for size in (100_000, 1_500_000_000)]).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {8}
