"""The job that reads users back from ``user-sequences`` and ``user-seen`` when ``last_n`` has no checkpoint.

It has the operator ``last-n`` and its state, and nothing else of the job's graph. It never ends by itself: once a
checkpoint includes all that was in the two topics, it is cancelled, and ``last_n`` resumes from that checkpoint.
"""

from pyflink.table import Schema, StreamTableEnvironment

from flink_jobs.last_n.keyed_records import keyed_records
from flink_jobs.last_n.operators import CHANGE, ReadingBack
from flink_jobs.last_n.user_reducer import UserReducer
from nearline.topics import USER_SEEN

# Other names than those of the job's own operators, so that its source does not take over this one's offsets.
OWN_NAMES = {"table.exec.uid.format": "restoring_<id>_<transformation>", "execution.checkpointing.num-retained": "1"}
_RECORDS = f"""
    SELECT user_id, ROW(user_id, `key`, `value`, append_ms, `partition`, `offset`, snapshot, TRUE)
    FROM (
        SELECT *, topic = '{USER_SEEN}' AS snapshot, COALESCE(CAST(`key` AS STRING), '') AS user_id,
            EXTRACT(EPOCH FROM append_time) * 1000 + EXTRACT(MILLISECOND FROM append_time) AS append_ms
        FROM published
    )
    """


def read_back(tables: StreamTableEnvironment, reducer: UserReducer, source: str) -> None:
    """Add the graph to *tables*; *source* is the statement that creates the table ``published`` of the two topics."""
    tables.execute_sql(source)
    tables.execute_sql("CREATE TABLE nothing (`user` STRING) WITH ('connector' = 'blackhole')")
    records = keyed_records(tables, _RECORDS, uid="restoring-records")
    read = records.process(ReadingBack(reducer.ttl_ms, reducer.policy), CHANGE).name("last n").uid("last-n")
    schema = Schema.new_builder().column("user", "STRING").build()
    tables.create_temporary_view("read", tables.from_data_stream(read, schema))
    statements = tables.create_statement_set()
    statements.add_insert_sql("INSERT INTO nothing SELECT `user` FROM `read`")
    statements.attach_as_datastream()
