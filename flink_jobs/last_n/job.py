"""The job ``last_n``: clicks and profiles in; sequences, seen items, dead letters and popularity out.

    python -m flink_jobs.last_n.job          one machine: starts Flink in its own JVM and resumes by itself
    flink run … -pym flink_jobs.last_n.job   a cluster: the same graph, started, resumed and ended with Flink's tools

    clicks ─┬─ user id by SQL ─ key by user ─ LastN ─┬─ sequence ─────────────────────────── user-sequences
    users ──┘                               (Python) ├─ gain by item ─ 5 s windows ─ sum ─── item-popularity
                                                     ├─ dead letters ─────────────────────── clicks-dlq
                                                     ├─ seen items, now and then ─────────── user-seen
                                                     └─ a merged session's events ────────── clicks

Without a checkpoint users are first read back from user-sequences and user-seen, by a job of its own (reading_back.py),
from whose checkpoint this one resumes (restoring.py).

Every event crosses from the JVM to Python once. Sources and sinks are tables, since only tables provide a record's
offset and append time and write a key with a raw value; SQL reads the key, so that Python is not called twice.

Flink identifies the state of SQL operators by their order in the plan: so both topics share one source and new sinks
come after old ones, to keep the checkpoints of earlier releases valid (a test compares them).
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from functools import partial

from py4j.protocol import Py4JError
from pyflink.common import Configuration
from pyflink.datastream import DataStream, OutputTag, StreamExecutionEnvironment
from pyflink.datastream.data_stream import KeyedStream
from pyflink.table import Schema, StreamTableEnvironment

from flink_jobs.last_n.checkpoints import RETAINED, JobFolder, Start
from flink_jobs.last_n.connection import as_options, client_properties
from flink_jobs.last_n.keyed_records import keyed_records
from flink_jobs.last_n.metrics import READ_BACK, RECENT_STARTS, RESTORED, STARTS
from flink_jobs.last_n.minicluster import Jvm, build_home, cluster_configuration, rest_url
from flink_jobs.last_n.operators import CHANGE, DEAD_LETTERS, FORWARDED, SNAPSHOTS, LastN
from flink_jobs.last_n.popularity import FORGOTTEN_AFTER_HALF_LIVES, LANDMARK_MS, check_half_life
from flink_jobs.last_n.reading_back import OWN_NAMES, read_back
from flink_jobs.last_n.replay_end import NO_REPLAY, Ends, ReplayEnd
from flink_jobs.last_n.restoration import (
    begin_restoration,
    end_restoration,
    is_to_restore,
    wait_until_read,
)
from flink_jobs.last_n.status import RESTORING, StatusServer, job_ended, job_problem
from flink_jobs.last_n.user_reducer import UserReducer
from nearline.adapters.kafka.admin import Topics, has_read, wait_for_topics
from nearline.adapters.kafka.group_reader import unreadable
from nearline.adapters.kafka.transactions import Transactions
from nearline.errors import Misconfigured, NearlineError, Unavailable
from nearline.settings import Settings, load_settings
from nearline.telemetry import configure_logs, get_logger
from nearline.topics import (
    CLICKS,
    CLICKS_DLQ,
    ITEM_POPULARITY,
    MAX_SEQUENCE_BYTES,
    USER_SEEN,
    USER_SEQUENCES,
    USERS,
)
from nearline.user_commands import OUTSIDE_TRANSACTION

NAME = "last_n"
_HOUR_MS = 3600 * 1000
_DAY_MS = 24 * _HOUR_MS
_MIB = 1024 * 1024
_LINGER_MS = 2  # how long a record waits for others of its partition
_BATCH_BYTES = 16 * 1024  # how many bytes of them are enough
_SEARCH_S = 10.0  # for a record that cannot be read, after the job failed
_MAX_LETTER_BYTES = 4 * _MIB  # a whole message of clicks (1 MiB) in base64, with some margin


def configuration(settings: Settings, folder: JobFolder, start: Start | None) -> dict[str, str]:
    """The job's Flink configuration, on one machine and on a cluster, where Flink knows the *start* itself."""
    asked = {
        "pipeline.name": NAME,
        "python.execution-mode": "thread",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "pipeline.object-reuse": "true",
        "execution.buffer-timeout.interval": "1 ms",
        "execution.checkpointing.interval": "3 s",
        "execution.checkpointing.min-pause": "500 ms",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.dir": folder.checkpoints.as_uri(),
        "execution.checkpointing.num-retained": str(RETAINED),
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        # Histories outgrow the heap long before the disk, and checkpoints write only changes.
        "execution.checkpointing.incremental": "true",
        "state.backend.type": "rocksdb",
        "state.backend.rocksdb.memory.fixed-per-slot": "96m",
        # After these the process ends, and its supervisor restarts it from the newest checkpoint.
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": "3",
        "restart-strategy.fixed-delay.delay": "1 s",
        "table.local-time-zone": "UTC",
        "table.exec.state.ttl": f"{FORGOTTEN_AFTER_HALF_LIVES * _half_life_ms(settings)} ms",
        "table.exec.sink.upsert-materialize": "NONE",
        "table.exec.uid.generation": "ALWAYS",
        "pipeline.auto-generate-uids": "false",
    }
    if start is not None and start.checkpoint is not None:
        asked["execution.state-recovery.path"] = start.checkpoint.as_uri()
        # Flink deletes a checkpoint once it has newer ones, but not a savepoint.
        asked["execution.state-recovery.claim-mode"] = "NO_CLAIM" if start.is_savepoint else "CLAIM"
        # The operators of reading_back.py are gone.
        asked["execution.state-recovery.ignore-unclaimed-state"] = str(start.is_restored).lower()
    return asked


def build(settings: Settings, asked: Mapping[str, str], ends: Ends | None = None) -> StreamExecutionEnvironment:
    """Build the graph; ``execute`` on the result runs it. *ends* is where the replay after a restoration ends."""
    environment, tables = _environment(asked)
    for statement in _tables(settings):
        tables.execute_sql(statement)
    replay_end = NO_REPLAY if ends is None else ReplayEnd(ends, partial(has_read, settings.brokers, NAME))
    look_up = partial(Transactions, settings.brokers, CLICKS)
    operator = LastN(_reducer(settings), look_up, partitions=settings.partitions, replay_end=replay_end)
    changes = _keyed_by_user(tables).process(operator, CHANGE).name("last n").uid("last-n")
    _attach(tables, changes, settings)
    return environment


def build_reading_back(settings: Settings, asked: Mapping[str, str], group: str) -> StreamExecutionEnvironment:
    """Build the graph that only reads users back, as *group* (reading_back.py)."""
    environment, tables = _environment({**asked, **OWN_NAMES, "pipeline.name": RESTORING})
    source = _source(settings, "published", f"{USER_SEQUENCES};{USER_SEEN}", group)
    read_back(tables, _reducer(settings), source)
    return environment


def _environment(asked: Mapping[str, str]) -> tuple[StreamExecutionEnvironment, StreamTableEnvironment]:
    config = Configuration()
    for name, value in asked.items():
        config.set_string(name, value)
    environment = StreamExecutionEnvironment.get_execution_environment(config)
    return environment, StreamTableEnvironment.create(environment)


def _reducer(settings: Settings) -> UserReducer:
    half_life_ms = _half_life_ms(settings)
    once_ms = int(settings.popularity_once_hours * _HOUR_MS)
    return UserReducer(settings.history_length, half_life_ms, settings.history_ttl_ms, settings.seen_policy, once_ms)


def _half_life_ms(settings: Settings) -> int:
    return int(settings.popularity_half_life_days * _DAY_MS)


def _keyed_by_user(tables: StreamTableEnvironment) -> KeyedStream:
    """The records of clicks and users keyed by user id.

    Records without a user id share the empty key and become dead letters. The cast to bytes and back replaces lone
    surrogates: the bridge to Python throws on them where we cannot catch it.
    """
    pairs = f"""
        SELECT user_id, ROW(user_id, `key`, `value`, append_ms, `partition`, `offset`, profile, outside)
        FROM (
            SELECT *, topic = '{USERS}' AS profile, headers['{OUTSIDE_TRANSACTION[0]}'] IS NOT NULL AS outside,
                CAST(CAST(COALESCE(
                    CASE WHEN topic = '{USERS}' THEN CAST(`key` AS STRING)
                    ELSE JSON_VALUE(CAST(`value` AS STRING), '$.user_id' NULL ON EMPTY NULL ON ERROR) END, ''
                ) AS BYTES) AS STRING) AS user_id,
                EXTRACT(EPOCH FROM append_time) * 1000 + EXTRACT(MILLISECOND FROM append_time) AS append_ms
            FROM told
        )
        """
    return keyed_records(tables, pairs, uid="records")


def _attach(tables: StreamTableEnvironment, changes: DataStream, settings: Settings) -> None:
    """Write the operator's outputs to their topics.

    Popularity is first summed in windows of processing time: an item's score is written at most once in five seconds.
    """
    change = Schema.new_builder().column("user", "STRING NOT NULL").column("sequence", "BYTES")
    change = change.column("item", "STRING").column("gain", "DOUBLE").column_by_expression("now", "PROCTIME()")
    tables.create_temporary_view("changes", tables.from_data_stream(changes, change.build()))
    statements = tables.create_statement_set()
    # Events of a replay have a share in popularity, but no sequence (restoring.py); expired users have neither.
    statements.add_insert_sql(
        "INSERT INTO user_sequences SELECT `user`, sequence FROM changes WHERE sequence IS NOT NULL OR item IS NULL"
    )
    statements.add_insert_sql(_beside(tables, changes, DEAD_LETTERS, "dead_letters"))
    statements.add_insert_sql(
        f"""
        INSERT INTO item_popularity
        SELECT item, JSON_OBJECT('v' VALUE 1, 'item_id' VALUE item, 'score' VALUE SUM(gain),
            'landmark_ms' VALUE {LANDMARK_MS}, 'half_life_ms' VALUE {_half_life_ms(settings)})
        FROM (
            SELECT item, SUM(gain) AS gain
            FROM TABLE(TUMBLE(TABLE changes, DESCRIPTOR(now), INTERVAL '5' SECOND))
            WHERE item IS NOT NULL
            GROUP BY item, window_start, window_end
        )
        GROUP BY item
        """
    )
    statements.add_insert_sql(_beside(tables, changes, SNAPSHOTS, "user_seen"))
    # The headers are a column already: an expression here would be an operator, and the sink's name another one.
    statements.add_insert_sql(_beside(tables, changes, FORWARDED, "clicks_again", headers=True))
    statements.attach_as_datastream()


def _beside(
    tables: StreamTableEnvironment, changes: DataStream, output: OutputTag, sink: str, *, headers: bool = False
) -> str:
    """The statement that writes a side output of the operator, with *headers* if it has some, to the table *sink*."""
    stream = changes.get_side_output(output).name(output.tag_id.replace("-", " ")).uid(output.tag_id)
    written = Schema.new_builder().column("key", "BYTES").column("value", "BYTES")
    if headers:
        written = written.column("headers", "MAP<STRING, BYTES>")
    tables.create_temporary_view(f"to_{sink}", tables.from_data_stream(stream, written.build()))
    return f"INSERT INTO {sink} SELECT `key`, `value`{', headers' if headers else ''} FROM to_{sink}"


def _tables(settings: Settings) -> list[str]:
    return [
        _source(settings, "told", f"{CLICKS};{USERS}", NAME),
        _sequences(settings),
        _popularity(settings),
        _written(settings, "dead_letters", CLICKS_DLQ, _MAX_LETTER_BYTES),
        # Snapshots are rare and may come a moment later; one request for each would be most of their cost.
        _written(settings, "user_seen", USER_SEEN, _MIB, linger_ms=100, batch_bytes=_MIB // 8),
        # At least once, as every sink: forwarded events keep their ids, so a repetition changes nothing.
        _written(settings, "clicks_again", CLICKS, _MIB, more="headers MAP<STRING, BYTES> METADATA"),
    ]


def _source(settings: Settings, table: str, topics: str, group: str) -> str:
    # Without a checkpoint it reads from the earliest record; the group only shows the progress.
    return f"""
        CREATE TABLE {table} (
            `key` BYTES, `value` BYTES, append_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
            `partition` INT METADATA VIRTUAL, `offset` BIGINT METADATA VIRTUAL, topic STRING METADATA VIRTUAL,
            headers MAP<STRING, BYTES> METADATA VIRTUAL
        ) WITH ({_kafka(settings, topics)}, 'connector' = 'kafka', 'key.fields' = 'key',
            'properties.group.id' = '{group}', 'scan.startup.mode' = 'earliest-offset')
    """


def _sequences(settings: Settings) -> str:
    return f"""
        CREATE TABLE user_sequences (`user` STRING NOT NULL, sequence BYTES, PRIMARY KEY (`user`) NOT ENFORCED)
        WITH ({_sink(settings, USER_SEQUENCES)}, 'connector' = 'upsert-kafka',
            'properties.max.request.size' = '{MAX_SEQUENCE_BYTES}')
    """


def _popularity(settings: Settings) -> str:
    return f"""
        CREATE TABLE item_popularity (item STRING NOT NULL, score STRING, PRIMARY KEY (item) NOT ENFORCED)
        WITH ({_sink(settings, ITEM_POPULARITY)}, 'connector' = 'upsert-kafka')
    """


def _written(
    settings: Settings,
    table: str,
    topic: str,
    most_bytes: int,
    *,
    linger_ms: int = _LINGER_MS,
    batch_bytes: int = _BATCH_BYTES,
    more: str = "",
) -> str:
    return f"""
        CREATE TABLE {table} (`key` BYTES, `value` BYTES{", " + more if more else ""})
        WITH ({_sink(settings, topic, linger_ms)}, 'connector' = 'kafka', 'key.fields' = 'key',
            'properties.max.request.size' = '{most_bytes}', 'properties.batch.size' = '{batch_bytes}')
    """


def _sink(settings: Settings, topic: str, linger_ms: int = _LINGER_MS) -> str:
    # At least once: transactions would hide sequences until the next checkpoint, and versions make repeats harmless.
    return f"""{_kafka(settings, topic)}, 'sink.delivery-guarantee' = 'at-least-once',
        'properties.linger.ms' = '{linger_ms}', 'properties.compression.type' = 'lz4', 'properties.acks' = 'all'"""


def _kafka(settings: Settings, topic: str) -> str:
    log = as_options(client_properties(settings.brokers, settings.data / "flink"))
    return f"""'topic' = '{topic}', {log},
        'key.format' = 'raw', 'value.format' = 'raw', 'value.fields-include' = 'EXCEPT_KEY'"""


def wait_for_log(settings: Settings) -> str:
    """Return the Kafka cluster's id once it has the job's topics; ``Unavailable`` after the deadline."""
    names = [CLICKS, CLICKS_DLQ, USERS, USER_SEQUENCES, USER_SEEN, ITEM_POPULARITY]
    wait_for_topics(settings.brokers, names, deadline_s=settings.startup_deadline_s)
    topics = Topics(settings.brokers)
    try:
        return topics.cluster_id()
    finally:
        topics.close()


def run(settings: Settings, *, inside_cluster: bool) -> None:
    """Run the job until it fails or this process gets a signal to end."""
    check_half_life(_half_life_ms(settings), now_ms=int(time.time() * 1000))
    folder = JobFolder(settings.data / "flink")
    if inside_cluster:
        folder.check_cluster(wait_for_log(settings))
        asked = configuration(settings, folder, None)
        restoration = folder.restoration
        if restoration is not None and not restoration.checkpoint:  # deploy/flink/jobmanager.py began it
            build_reading_back(settings, asked, restoration.group).execute(RESTORING)
        else:
            build(settings, asked, _ends(folder)).execute(NAME)
        return
    rest = rest_url(settings)
    status = StatusServer(settings.host, settings.job_port, lambda: job_problem(rest))
    try:
        folder.check_cluster(wait_for_log(settings))
        _run_alone(settings, folder)
    finally:
        status.close()


def _ends(folder: JobFolder) -> Ends | None:
    """Where the replay ends, if users were read back."""
    restoration = folder.restoration
    return None if restoration is None else restoration.ends


def _run_alone(settings: Settings, folder: JobFolder) -> None:
    start = folder.begin(now_s=time.time())
    _show(start, folder)
    jvm = Jvm(build_home(folder.folder, settings.flink_lib), folder.folder)
    surroundings = dict(os.environ)  # the JVM's start changes them
    try:
        jvm.start()
        if start.checkpoint is None and _read_back(settings, folder, jvm):
            # Flink numbers the operators of SQL within a JVM, and their names must be those of a first graph.
            os.execve(sys.executable, sys.orig_argv, surroundings)
        asked = configuration(settings, folder, start) | cluster_configuration(settings, folder.folder)
        build(settings, asked, _ends(folder)).execute(NAME)
    except Py4JError as error:
        # The error's text is fetched from the JVM, so it must be read while that runs.
        folder.check_graph(start, trace := str(error))
        cause = _cause(settings, trace)
        raise Unavailable(f"Flink gave up: {cause}; its log is {jvm.log}") from None
    finally:
        jvm.stop()


def _read_back(settings: Settings, folder: JobFolder, jvm: Jvm) -> bool:
    """Read users back in a job of its own, and stop *jvm*; false if there are no users."""
    rest = rest_url(settings)
    log = Topics(settings.brokers)
    try:
        if not is_to_restore(log):
            return False
        restoration = begin_restoration(log, folder, now_s=time.time())
        asked = configuration(settings, folder, None) | cluster_configuration(settings, folder.folder)
        build_reading_back(settings, asked, restoration.group).execute_async(RESTORING)
        wait_until_read(log, restoration, lambda: job_ended(rest))
        jvm.stop()
        logging.disable(logging.NOTSET)  # which its end set
        end_restoration(log, folder, restoration, now_s=time.time())
    finally:
        log.close()
    return True


def _root_cause(trace: str) -> str:
    causes = [line.removeprefix("Caused by: ") for line in trace.splitlines() if line.startswith(("Caused by", ": "))]
    return causes[-1][:500] if causes else trace[:500]


def _cause(settings: Settings, trace: str) -> str:
    """Why the job failed, with the place of a record that cannot be read: Java's errors do not always say it."""
    cause = _root_cause(trace)
    if "fetchers have encountered exception" not in trace:
        return cause
    found = unreadable(settings.brokers, NAME, (CLICKS, USERS), deadline_s=_SEARCH_S)
    return f"{cause}; {found}" if found else cause


def _show(start: Start, folder: JobFolder) -> None:
    STARTS.inc(start.number)
    RECENT_STARTS.set_function(lambda: folder.recent_starts(now_s=time.time()))
    if folder.restoration is not None:
        READ_BACK.set(folder.restoration.records)
    if start.checkpoint is not None:
        RESTORED.labels(str(start.checkpoint)).set(1)
    get_logger().info(
        "starting", start=start.number, checkpoint=str(start.checkpoint or "none: from the log's beginning")
    )


def _end(number: int, _: object) -> None:
    get_logger().info("stopping", signal=signal.Signals(number).name)
    sys.exit(0)


def main() -> None:
    """Entry point; exit status 0 after a signal, 2 if misconfigured, 1 if the supervisor should restart it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        settings = load_settings()
        configure_logs(NAME, **settings.log_options)
        # Flink's client sets this if it starts us; on one machine we start Flink.
        run(settings, inside_cluster="PYFLINK_GATEWAY_PORT" in os.environ)
    except Misconfigured as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        sys.exit(2)
    except NearlineError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
