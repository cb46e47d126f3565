"""Values for Celery, with their reasons: queues, acknowledgement, the beat table.

The database holds what is due, the broker carries hints that may be lost.  The broker's URL, the tick's length and
the number of threads come from the settings when a worker or beat starts (`syncworker.broker.configure`).
"""

# Delivery -------------------------------------------------------------------------------------------------------------
task_acks_late = True
task_reject_on_worker_lost = True  # safe only because crashes are counted in the row before the work begins
task_ignore_result = True  # the tables hold outcomes; a result store would be a second truth
result_backend = None
accept_content = ["json"]  # pickle runs code
task_serializer = "json"
result_serializer = "json"
task_publish_retry_policy = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1.0}

# Worker ---------------------------------------------------------------------------------------------------------------
worker_pool = "threads"  # each thread only waits for the process's one event loop
worker_prefetch_multiplier = 1
worker_cancel_long_running_tasks_on_connection_loss = False  # True would kill refreshes half-way at each broker blip
# SIGTERM is Celery's warm shutdown, bounded by our own `runtime.stop` (tasks.STOP_GRACE_S): it ends as soon as the
# last run has.  REMAP_SIGTERM=SIGQUIT works too, but then Celery sleeps the whole of this time whenever a task runs.
worker_soft_shutdown_timeout = 25  # > the longest token call
worker_enable_remote_control = False  # one pub/sub connection less to die, one door less
worker_send_task_events = False
worker_hijack_root_logger = False
worker_redirect_stdouts = False

# Broker ---------------------------------------------------------------------------------------------------------------
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # for ever: the database remembers what is due meanwhile
broker_transport_options = {
    "visibility_timeout": 3600,  # above every time limit; lost work comes back by its lease, not by this
    "unacked_restore_interval": 10,  # default: up to 100 s late on top
    "unacked_restore_throttle": 1,
    # with the defaults a half-open connection stops a worker for ever
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 5,
}

amqp_transport_options = {  # in the place of those above when the broker is RabbitMQ
    "read_timeout": 20,  # TCP alone would wait for ever; above the heartbeat, which RabbitMQ answers in between
    "write_timeout": 10,
    "connect_timeout": 5,
    "confirm_publish": True,  # published means that the broker has it
}
broker_heartbeat = 10  # AMQP only: both sides notice a connection that went silent

# Queues: a token refresh must not wait behind long syncs, and a tick behind neither -----------------------------------
task_queues: dict[str, dict[str, str]] = {"sync": {}, "token": {}, "tick": {}}
task_default_queue = "sync"
task_create_missing_queues = False
task_routes = {
    "sync_batch": {"queue": "sync"},
    "token_batch": {"queue": "token"},
    "consent_batch": {"queue": "token"},  # short, and a sync must not delay them
    "flag_batch": {"queue": "token"},
    "event_batch": {"queue": "token"},
    "opening_batch": {"queue": "token"},
    "delivery_batch": {"queue": "token"},
    "tick": {"queue": "tick"},
    # `canary` names its queue itself: each worker has one of its own
}

# Beat: one tick; what is due, and when, is in the table `work` --------------------------------------------------------
timezone = "UTC"
enable_utc = True
beat_scheduler = "syncworker.beat:Scheduler"  # counts by the monotonic clock, and keeps nothing on disk
beat_max_loop_interval = 1
beat_schedule = {
    "tick": {
        "task": "tick",
        "schedule": 5.0,
        "options": {"expires": 7200.0},
    },  # ticks that no worker took do not pile up
}
