"""Faults against the whole application: real workers, real beats, real broker, PostgreSQL, the simulated bank.

`installation` builds one installation and lets it run, `launcher` is a worker with a wrong clock or a poisoned consent,
`audit` is what every scenario ends in, `plots` are the scenarios themselves with their sizes as arguments.  The tests
run them small, `python -m tests.live.scenarios.full` as large as the table says.

The numbers are those of the table "Fault scenarios" in the reliability rules.
"""
