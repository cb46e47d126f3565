"""The web process: what LFIs and the product ask of us over HTTP.

    app         joins everything into one FastAPI application
    guard       what every request passes: sizes, deadlines, pace, keys, headers of the answer
    problems    every refusal, in one shape
    api         `/v1` for the product: ask for consents, look at connections, act on them
    callbacks   users' browsers on their way to the LFI and back
    pages       what those users read
    events      event notifications from LFIs

The process holds no state that matters but the database's: a second one beside it counts paces on its own, no more.
"""
