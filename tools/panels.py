"""The dashboards' rows and panels, in the order of the flow, each with its queries and how to read it.

Queries cover the last minute, or ten minutes for rare events. They must find data on a system that has had each kind
of fault once (tests/e2e/test_dashboards.py).
"""

from dataclasses import dataclass

Query = tuple[str, str]  # PromQL, and the legend


@dataclass(frozen=True)
class Panel:
    """One graph, or with *is_figure* one number; *unit* is Grafana's name of the unit."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    about: str
    is_figure: bool = False


@dataclass(frozen=True)
class PanelRow:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """A dashboard; *uid* is its name in addresses and its file's name."""

    uid: str
    title: str
    about: str
    rows: tuple[PanelRow, ...]


def quantile(q: float, histogram: str, *by: str, where: str = "") -> str:
    """The *q* quantile of a histogram over the last minute."""
    kept = ", ".join(("le", *by))
    return f"histogram_quantile({q}, sum by ({kept}) (rate({histogram}_bucket{where}[1m])))"


def rate(counter: str, *by: str, where: str = "") -> str:
    """A counter's change per second over the last minute, summed over everything but *by*."""
    return f"sum by ({', '.join(by)}) (rate({counter}{where}[1m]))" if by else f"sum(rate({counter}{where}[1m]))"


def increase(counter: str, *by: str) -> str:
    """A counter's increase in ten minutes, summed over everything but *by*."""
    return f"sum by ({', '.join(by)}) (increase({counter}[10m]))" if by else f"sum(increase({counter}[10m]))"


def both(histogram: str, what: str, where: str = "") -> tuple[Query, ...]:
    """The median and the 99th percentile."""
    words = ((0.5, "half within"), (0.99, "99 % within"))
    return tuple((quantile(q, histogram, where=where), f"{what}, {name}") for q, name in words)


def mean(histogram: str) -> str:
    """The mean of a histogram over the last minute."""
    return f"sum(rate({histogram}_sum[1m])) / sum(rate({histogram}_count[1m]))"


def figure(title: str, unit: str, query: str, about: str) -> Panel:
    """One number."""
    return Panel(title, unit, ((query, title),), about, is_figure=True)


CANARY = "nearline_canary_click_to_answer_seconds"
SERVABLE = "nearline_click_to_servable_seconds"
FLINK = "flink_taskmanager_job_task_operator"

FIGURES = PanelRow(
    "Now",
    (
        figure("Click to answer, half", "s", quantile(0.5, CANARY), "The canary's clicks, until an answer used them."),
        figure("Click to answer, 99 %", "s", quantile(0.99, CANARY), "The objective: 99 % within a second."),
        figure("Clicks a second", "cps", rate("nearline_sequences_total"), "That changed a user's history."),
        figure("Answers a second", "reqps", rate("nearline_recommend_seconds_count"), "Recommendations."),
        figure("Answers, 99 %", "s", quantile(0.99, "nearline_recommend_seconds"), "Time of an answer."),
        figure(
            "Not wholly personal",
            "percentunit",
            "nearline:answers_fallback:ratio_rate5m",
            "Share of answers, over five minutes.",
        ),
        figure("Freshness budget left", "percentunit", "nearline:canary_budget:ratio", "Of 30 days; 0: spent."),
        figure("Answers budget left", "percentunit", "nearline:answers_budget:ratio", "Of 30 days; 0: spent."),
    ),
)

OVERVIEW = Board(
    "nearline",
    "Nearline: overview",
    "Is it fresh, does it answer, is everything up.",
    (
        FIGURES,
        PanelRow(
            "Freshness and answers",
            (
                Panel(
                    "Freshness: from the click",
                    "s",
                    (*both(CANARY, "canary to answer"), *both(SERVABLE, "real clicks to stored")),
                    "The canary asks until an answer has used its click; real clicks are from produced_ms to stored.",
                ),
                Panel(
                    "Freshness: where the time goes",
                    "s",
                    (
                        (quantile(0.99, "nearline_click_stage_seconds", "stage"), "{{stage}}, 99 % within"),
                        (quantile(0.5, "nearline_click_stage_seconds", "stage"), "{{stage}}, half within"),
                    ),
                    "append: to the log. sequence: through the job. vector: through user_tower, Triton and the store.",
                ),
                Panel(
                    "The canary's clicks",
                    "cps",
                    ((rate("nearline_canary_clicks_total", "outcome"), "{{outcome}}"),),
                    "late: no answer used the click in five seconds. refused: the click failed, or no answer came.",
                ),
                Panel(
                    "Answers: time",
                    "s",
                    both("nearline_recommend_seconds", "answer"),
                    "From the request to the answer's bytes.",
                ),
                Panel(
                    "Answers: rate and why not personal",
                    "reqps",
                    (
                        (rate("nearline_recommend_seconds_count"), "all"),
                        (rate("nearline_recommend_answers_total", "reason", where='{reason!="none"}'), "{{reason}}"),
                    ),
                    "If a share with a reason grows, the store, the user vectors or the index are behind or down.",
                ),
                Panel("Up", "short", (("min by (job) (up)", "{{job}}"),), "0: the part did not answer Prometheus."),
            ),
        ),
        PanelRow(
            "Behind and restarted",
            (
                Panel(
                    "Lag",
                    "short",
                    (
                        (f"sum({FLINK}_pendingRecords)", "clicks before last_n"),
                        ("nearline:lag_records:sum", "{{topic}} before {{job}}"),
                    ),
                    "Records in the log that are not read yet. If it grows, the part is too slow or waits for another.",
                ),
                Panel(
                    "Restarts in ten minutes",
                    "short",
                    (
                        ("nearline:restarts:changes10m", "{{job}}"),
                        ("sum(increase(flink_jobmanager_job_numRestarts[10m]))", "Flink, within the job"),
                    ),
                    "If a part keeps restarting, its log says why it ends.",
                ),
                Panel(
                    "Dead letters in ten minutes",
                    "short",
                    (("sum by (source, reason) (nearline:dead_letters:increase10m)", "{{source}}: {{reason}}"),),
                    "`nearline dlq list` shows the records with their reason.",
                ),
            ),
        ),
    ),
)

STAGES = Board(
    "nearline-stages",
    "Nearline: the stages",
    "A row for each stage of a click: rate, errors, duration, and waiting work.",
    (
        PanelRow(
            "ingest",
            (
                Panel(
                    "Requests",
                    "reqps",
                    (
                        (
                            rate("nearline_requests_total", "route", "status", where='{job="ingest"}'),
                            "{{route}} {{status}}",
                        ),
                    ),
                    "By route and status. 429 is back-pressure; 503 means that the log is down.",
                ),
                Panel(
                    "Time",
                    "s",
                    (
                        *both("nearline_request_seconds", "request", where='{job="ingest", route="events"}'),
                        *both("nearline_ingest_acknowledged_seconds", "acknowledged", where='{topic="clicks"}'),
                    ),
                    "Of POST /events, and the part of it from the check to the log's acknowledgement.",
                ),
                Panel(
                    "Waiting, and together",
                    "short",
                    (
                        ("sum by (topic) (nearline_ingest_waiting_messages)", "{{topic}}: waiting"),
                        (mean("nearline_ingest_group_messages"), "messages in a group, on average"),
                        ("min by (topic) (nearline_ingest_log_up)", "{{topic}}: log up"),
                    ),
                    "Messages that the log has not acknowledged yet, and how many are sent together.",
                ),
            ),
        ),
        PanelRow(
            "log",
            (
                Panel(
                    "Messages",
                    "cps",
                    ((rate("kafka_server_BrokerTopicMetrics_MessagesIn_total", "topic"), "{{topic}}"),),
                    "Appended to each topic.",
                ),
                Panel(
                    "Broker's time of a request, 99 %",
                    "s",
                    (
                        (
                            'max by (request) (kafka_network_RequestMetrics_TotalTime_seconds{quantile="0.99"})',
                            "{{request}}",
                        ),
                    ),
                    "As Kafka measures it; consumers' fetches wait up to half a second for records.",
                ),
                Panel(
                    "Size and health",
                    "bytes",
                    (
                        ("sum by (topic) (kafka_log_Log_Size)", "{{topic}}"),
                        ("sum(kafka_server_ReplicaManager_UnderReplicatedPartitions)", "under-replicated partitions"),
                        ("sum(kafka_server_ReplicaManager_OfflineReplicaCount)", "offline replicas"),
                    ),
                    "Bytes on disk by topic; the other two should be 0.",
                ),
            ),
        ),
        PanelRow(
            "last_n",
            (
                Panel(
                    "Records",
                    "cps",
                    (
                        (f'sum(rate({FLINK}_numRecordsIn{{operator_name=~"last.n"}}[1m]))', "read"),
                        (f"sum(rate({FLINK}_nearline_unchanged[1m]))", "that changed nothing"),
                        (f"sum(rate({FLINK}_nearline_commands[1m]))", "commands and profiles"),
                        (f"sum(rate({FLINK}_nearline_ahead[1m]))", "of clocks that are ahead"),
                        (f"sum(rate({FLINK}_nearline_too_old[1m]))", "older than the window"),
                    ),
                    "Of the operator that keeps the last N events. The last two grow if a sender's clock is wrong.",
                ),
                Panel(
                    "Checkpoints and restarts",
                    "ms",
                    (
                        ("max(flink_jobmanager_job_lastCheckpointDuration)", "last checkpoint took"),
                        ("max(flink_jobmanager_job_numberOfFailedCheckpoints)", "failed checkpoints"),
                        ("max(flink_jobmanager_job_numRestarts)", "restarts since its start"),
                        ("max(nearline_job_recent_starts)", "starts of the process in ten minutes"),
                    ),
                    "If restarts keep growing, the same record or the same missing server causes each.",
                ),
                Panel(
                    "Waiting and busy",
                    "short",
                    (
                        (f"sum({FLINK}_pendingRecords)", "clicks that wait"),
                        ("max(flink_taskmanager_job_task_busyTimeMsPerSecond) / 1000", "busiest task's share of time"),
                    ),
                    "1: a task is fully busy; more task managers help (docs/scaling.md).",
                ),
            ),
        ),
        PanelRow(
            "user_tower",
            (
                Panel(
                    "Records",
                    "cps",
                    (
                        (rate("nearline_sequences_total"), "sequences read"),
                        (rate("nearline_seen_snapshots_total"), "snapshots of seen items read"),
                        (rate("nearline_user_vectors_total"), "vectors stored"),
                        (rate("nearline_user_write_races_total"), "rebuilt writes"),
                    ),
                    "A burst of one user's clicks gives many sequences and one vector.",
                ),
                Panel(
                    "Time",
                    "s",
                    (
                        *both("nearline_sequence_to_stored_seconds", "sequence to stored"),
                        *both("nearline_user_tower_batch_seconds", "batch"),
                    ),
                    "From a sequence's append to its stored vector; a batch from poll to stored.",
                ),
                Panel(
                    "Batches, and what waits",
                    "short",
                    (
                        (mean("nearline_user_tower_batch_users"), "users in a batch, on average"),
                        ("sum(nearline_user_tower_waiting_users)", "users whose vector waits"),
                        (rate("nearline_user_tower_waits_total"), "rounds without Triton or store, a second"),
                        (
                            'max by (partition) (nearline_lag_records{topic="user-sequences"})',
                            "partition {{partition}} behind",
                        ),
                    ),
                    "No record is lost while it waits: the log keeps it.",
                ),
            ),
        ),
        PanelRow(
            "item_tower",
            (
                Panel(
                    "Changes",
                    "cps",
                    (
                        (rate("nearline_items_total"), "read"),
                        (rate("nearline_item_changes_total", "kind"), "{{kind}}"),
                    ),
                    "encode: by Triton. publish: only fields that answers show have changed. bury: erased.",
                ),
                Panel(
                    "Time",
                    "s",
                    both("nearline_item_to_published_seconds", "item to published"),
                    "From an item's append to its published vector.",
                ),
                Panel(
                    "Batches, and what waits",
                    "short",
                    (
                        (mean("nearline_item_tower_batch_items"), "items in a batch, on average"),
                        (rate("nearline_item_tower_waits_total"), "rounds without Triton, a second"),
                        (
                            'max by (partition) (nearline_lag_records{topic="items", job="item_tower"})',
                            "partition {{partition}} behind",
                        ),
                    ),
                    "A new catalogue gives batches of hundreds.",
                ),
            ),
        ),
        PanelRow(
            "Triton",
            (
                Panel(
                    "Requests",
                    "reqps",
                    (
                        (rate("nv_inference_request_success", "model"), "{{model}}"),
                        (rate("nv_inference_request_failure", "model"), "{{model}}: failed"),
                    ),
                    "By model.",
                ),
                Panel(
                    "Time of a request, on average",
                    "s",
                    tuple(
                        (
                            f"sum by (model) (rate(nv_inference_{what}_duration_us[1m])) / 1e6"
                            " / sum by (model) (rate(nv_inference_request_success[1m]))",
                            f"{{{{model}}}}: {what.replace('_', ' ')}",
                        )
                        for what in ("request", "queue", "compute_infer")
                    ),
                    "queue: requests come faster than the model processes them.",
                ),
                Panel(
                    "Batches",
                    "short",
                    (
                        (
                            "sum by (model) (rate(nv_inference_count[1m]))"
                            " / sum by (model) (rate(nv_inference_exec_count[1m]))",
                            "{{model}}: inferences in one execution",
                        ),
                    ),
                    "How much Triton's own batching adds to the batches that it receives.",
                ),
            ),
        ),
        PanelRow(
            "retrieval",
            (
                Panel(
                    "Requests",
                    "reqps",
                    (
                        (
                            rate("nearline_requests_total", "route", "status", where='{job=~"retrieval.*"}'),
                            "{{route}} {{status}}",
                        ),
                    ),
                    "By route and status.",
                ),
                Panel(
                    "Time",
                    "s",
                    (
                        (
                            quantile(0.99, "nearline_request_seconds", "route", where='{job=~"retrieval.*"}'),
                            "{{route}}, 99 % within",
                        ),
                        *both("nearline_recommend_seconds", "recommendation"),
                    ),
                    "By route, and the work of recommendations.",
                ),
                Panel(
                    "Store, cache, waiting",
                    "short",
                    (
                        ("min(nearline_store_up)", "store answers"),
                        ("nearline:user_cache_hits:ratio_rate5m", "share of documents found in the cache"),
                        ("sum(nearline_recommend_waiting_requests)", "requests that wait for their click"),
                        ("sum(nearline_waiting_exposures)", "exposures that wait for the log"),
                        ("min(nearline_session_tower_up)", "the user tower answers sessions"),
                    ),
                    "Without the store every answer is trending and none is personal.",
                ),
            ),
        ),
    ),
)

INDEX = Board(
    "nearline-index",
    "Nearline: index, model and space",
    "What is served: its size, its recall, and its towers.",
    (
        PanelRow(
            "Index",
            (
                Panel(
                    "Items",
                    "short",
                    (
                        ("max(nearline_index_items)", "available"),
                        ("max(nearline_index_delta_rows)", "searched exactly, beside the graph"),
                        ("max(nearline_index_removed_rows)", "removed, still in the graph"),
                        ("max(nearline_item_table_items)", "in user_tower"),
                    ),
                    "A growing delta slows searches until the next graph.",
                ),
                Panel(
                    "Live recall",
                    "percentunit",
                    (("min by (k) (nearline_index_recall_ratio)", "of the {{k}} nearest"),),
                    "Share of the true nearest items in answers, for queries that were also answered exactly.",
                ),
                Panel(
                    "Width and samples",
                    "short",
                    (
                        ("max by (k) (nearline_index_width_candidates)", "width for {{k}} results"),
                        ("min(nearline_index_recall_samples)", "sampled queries"),
                    ),
                    "The search width of the graph, as chosen by measurement.",
                ),
                Panel(
                    "Builds and snapshots in ten minutes",
                    "short",
                    (
                        (increase("nearline_index_builds_total"), "graphs built"),
                        (increase("nearline_index_snapshots_written_total"), "snapshots written"),
                        (increase("nearline_index_snapshots_failed_total"), "snapshots failed"),
                        (increase("nearline_index_snapshots_refused_total", "reason"), "refused: {{reason}}"),
                    ),
                    "Without a snapshot a restart reads the whole log.",
                ),
                Panel(
                    "Taken in",
                    "cps",
                    ((rate("nearline_records_applied_total", "job", "topic"), "{{topic}} by {{job}}"),),
                    "Records of the followed topics: vectors, popularity, rules, keys, users' updates.",
                ),
                Panel(
                    "Text search",
                    "s",
                    (
                        *both("nearline_text_search_seconds", "search"),
                        ("sum(nearline_text_waiting_changes)", "changes not written yet"),
                    ),
                    "From a search's start to its matches.",
                ),
            ),
        ),
        PanelRow(
            "Model and space",
            (
                Panel(
                    "Towers",
                    "short",
                    (("count by (job, digest) (nearline_features_info)", "{{job}}: {{digest}}"),),
                    "The served towers' declaration of features; it must be the same in every part.",
                ),
                Panel(
                    "Without a vector",
                    "cps",
                    (
                        (rate("nearline_unknown_items_total"), "events whose item has no vector yet"),
                        (
                            rate("nearline_item_waits_ended_total", "reason"),
                            "users who waited for an item's vector: {{reason}}",
                        ),
                        (rate("nearline_item_vectors_refused_total"), "item vectors of another space, or damaged ones"),
                        (
                            rate("nearline_recommend_answers_total", where='{reason="no_vector"}'),
                            "answers without a user vector",
                        ),
                    ),
                    "Higher after a new space, or while items are behind.",
                ),
                Panel(
                    "Users",
                    "short",
                    (
                        ("max(nearline_active_users)", "active users with a vector in memory"),
                        ("max(nearline_user_cache_users)", "users with a cached document"),
                        ("max(nearline_rules)", "merchandising rules"),
                        ("max(nearline_api_keys)", "API keys"),
                    ),
                    "In each retrieval process.",
                ),
            ),
        ),
        PanelRow(
            "Processes",
            (
                Panel(
                    "Processor",
                    "short",
                    ((rate("process_cpu_seconds_total", "job"), "{{job}}"),),
                    "Cores that each part uses.",
                ),
                Panel(
                    "Memory",
                    "bytes",
                    (
                        ("sum by (job) (process_resident_memory_bytes)", "{{job}}"),
                        ("sum(flink_taskmanager_Status_JVM_Memory_Heap_Used)", "Flink's heap"),
                    ),
                    "Resident, of each part.",
                ),
                Panel(
                    "Open files",
                    "short",
                    (("sum by (job) (process_open_fds)", "{{job}}"),),
                    "If it grows without end, connections are not closed.",
                ),
            ),
        ),
    ),
)

ERRORS = Board(
    "nearline-errors",
    "Nearline: errors",
    "Refused, dropped and degraded work, by reason. All of it is 0 on a good day.",
    (
        PanelRow(
            "Objectives",
            (
                Panel(
                    "Clicks late or lost",
                    "percentunit",
                    tuple((f"nearline:canary_slow:ratio_rate{window}", window) for window in ("5m", "1h", "6h", "3d")),
                    "Above 1 % the month's budget shrinks; above 14 % it is used up in two days.",
                ),
                Panel(
                    "Requests failed or shed",
                    "percentunit",
                    tuple(
                        (f"nearline:answers_failed:ratio_rate{window}", window) for window in ("5m", "1h", "6h", "3d")
                    ),
                    "Above 0.1 % the month's budget shrinks.",
                ),
                Panel(
                    "Alerts",
                    "short",
                    (('count by (alertname) (ALERTS{alertstate="firing"})', "{{alertname}}"),),
                    "The firing alerts; docs/operations.md has a section for each.",
                ),
            ),
        ),
        PanelRow(
            "Records",
            tuple(
                Panel(title, "short", ((f"{increase(name, *by)} > 0", legend),), about)
                for title, name, by, legend, about in (
                    (
                        "Clicks refused by last_n",
                        "flink_taskmanager_job_task_operator_reason_nearline_refused",
                        ("reason",),
                        "{{reason}}",
                        "In ten minutes; they are in clicks-dlq.",
                    ),
                    (
                        "Sequences refused by user_tower",
                        "nearline_sequences_refused_total",
                        ("reason",),
                        "{{reason}}",
                        "In ten minutes; they are in user-sequences-dlq.",
                    ),
                    (
                        "Items refused by item_tower",
                        "nearline_items_refused_total",
                        ("reason",),
                        "{{reason}}",
                        "In ten minutes; they are in items-dlq.",
                    ),
                    (
                        "Records refused by followers",
                        "nearline_records_refused_total",
                        ("job", "topic", "reason"),
                        "{{topic}} by {{job}}: {{reason}}",
                        "In ten minutes: records of compacted topics that can never be applied.",
                    ),
                    (
                        "Records refused by ingest's tables",
                        "nearline_ingest_listing_refused_total",
                        ("topic", "reason"),
                        "{{topic}}: {{reason}}",
                        "In ten minutes; the topic's consumer writes the dead letter.",
                    ),
                )
            ),
        ),
        PanelRow(
            "Requests",
            tuple(
                Panel(title, "short", ((f"{increase(name, *by)} > 0", legend),), about)
                for title, name, by, legend, about in (
                    (
                        "Events refused",
                        "nearline_ingest_events_refused_total",
                        ("reason",),
                        "{{reason}}",
                        "In ten minutes; if a reason grows, a caller has a bug.",
                    ),
                    (
                        "Requests refused by ingest",
                        "nearline_ingest_requests_refused_total",
                        ("status", "reason"),
                        "{{status}} {{reason}}",
                        "In ten minutes, as a whole.",
                    ),
                    (
                        "Refused by the guard",
                        "nearline_requests_refused_total",
                        ("job", "reason"),
                        "{{job}}: {{reason}}",
                        "In ten minutes: keys, scopes, limits.",
                    ),
                    (
                        "Degraded answers",
                        "nearline_recommend_steps_total",
                        ("step",),
                        "{{step}}",
                        "In ten minutes.",
                    ),
                    (
                        "Not wholly personal",
                        "nearline_recommend_answers_total",
                        ("reason",),
                        "{{reason}}",
                        "Answers in ten minutes by why; none: wholly personal.",
                    ),
                )
            ),
        ),
        PanelRow(
            "Outages of servers",
            (
                Panel(
                    "Waits and failures in ten minutes",
                    "short",
                    (
                        (increase("nearline_user_tower_waits_total"), "user_tower waited for Triton or the store"),
                        (increase("nearline_item_tower_waits_total"), "item_tower waited for Triton"),
                        (increase("nearline_session_failures_total"), "sessions without Triton"),
                        (increase("nearline_store_read_failures_total"), "reads of the store failed"),
                        (increase("nv_inference_request_failure", "model"), "Triton failed: {{model}}"),
                    ),
                    "No record is lost while the towers wait.",
                ),
                Panel(
                    "Shed and dropped in ten minutes",
                    "short",
                    (
                        (increase("nearline_requests_shed_total", "when"), "requests shed: {{when}}"),
                        (increase("nearline_connections_ended_total", "why"), "connections ended: {{why}}"),
                        (increase("nearline_exposures_dropped_total", "reason"), "exposures dropped: {{reason}}"),
                        (increase("nearline_user_updates_lost_total"), "updates lost"),
                        (increase("nearline_text_searches_cut_off_total"), "text searches cut off"),
                        (increase("nearline_active_users_skipped_total"), "active users skipped"),
                    ),
                    "A part received more than it accepts.",
                ),
                Panel(
                    "Up",
                    "short",
                    (
                        ("min by (job) (up)", "{{job}}"),
                        ("min by (topic) (nearline_ingest_log_up)", "log for {{topic}}"),
                        ("min(nearline_store_up)", "store"),
                        ("min(nearline_session_tower_up)", "user tower for sessions"),
                        ("min(nearline_canary_up)", "canary"),
                    ),
                    "0: away.",
                ),
            ),
        ),
    ),
)

BOARDS = (OVERVIEW, STAGES, INDEX, ERRORS)


def queries() -> list[tuple[str, str]]:
    """Every query with its place in the dashboards."""
    return [
        (f"{board.uid} / {row.title} / {panel.title} / {legend}", expr)
        for board in BOARDS
        for row in board.rows
        for panel in row.panels
        for expr, legend in panel.queries
    ]
