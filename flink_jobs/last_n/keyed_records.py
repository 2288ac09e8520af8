"""Records of the log as a stream keyed by user id, without a call to Python for the key."""

from pyflink.common import Types
from pyflink.datastream.data_stream import KeyedStream
from pyflink.java_gateway import get_gateway
from pyflink.table import StreamTableEnvironment

from flink_jobs.last_n.operators import RECORD


def keyed_records(tables: StreamTableEnvironment, pairs: str, *, uid: str) -> KeyedStream:
    """The records of the query *pairs*, whose rows are the user id and a ``RECORD``.

    ``DataStream.key_by`` would send each record through a Python operator that only prepends the key: (key, record).
    SQL does that here, and Flink's own selector for such pairs reads the key.
    """
    stream = tables.to_append_stream(
        tables.sql_query(pairs), Types.ROW_NAMED(["user", "record"], [Types.STRING(), RECORD])
    )
    stream._j_data_stream.getTransformation().setUid(uid)
    selector = get_gateway().jvm.KeyByKeySelector()
    keyed = stream._j_data_stream.keyBy(selector, Types.ROW([Types.STRING()]).get_java_type_info())
    return KeyedStream(keyed, RECORD, stream)
