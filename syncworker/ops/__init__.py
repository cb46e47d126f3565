"""What an operator is shown: one value, and every view of it.

`status` collects what the database, the broker and this host say into a `Status` of plain values.  `diagnosis` judges
it without I/O: causes, numbered, and which cause each symptom belongs to.  Its rules stand by subject: `machinery`
(database, broker, processes, clocks, certificates), `banks` (LFIs and their work), `upkeep` (feed, deliveries, exports,
consents).  `targets` says when a connection goes stale and what is usual at an LFI; `recording` is the housekeeping
that notes both, and keeps causes with beginning and end.

The command line, the dashboard, metrics and alerts show this and judge nothing themselves.
"""
