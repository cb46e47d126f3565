"""What readers ask, each question answered once: for the API, the commands, exports and the dashboard alike.

    freshness   how old what we show is, and why (pure)
    changes     what changed: the feed, with rows as lists show them
    pages       places in a list, as opaque cursors
    questions   accounts, balances with totals, transactions, every other resource
    past        the same of accounts, balances and transactions, as of an instant
    webhooks    endpoints of webhooks, and what became of messages (pure)

All of it reads the views of the database (`store.sql_views`), so that an answer here and one by SQL have the same rows,
names and amounts.
"""
