"""When, and never twice at once.

`due` decides when something is due next (pure), `claims` takes what is due from the table and groups it into batches,
`handlers` runs the small kinds of work, `limits` admits calls to an LFI at the rate it was promised.
"""
