"""syncworker keeps bank data fresh for a licensed TPP in UAE Open Finance.

The data's way shows in the listing: `standard` says what may be asked, `lfi` asks, `sync` compares,
`store` keeps.  `consents` looks after tokens and consents, `schedule` decides when, `tasks` hands the
work to Celery, `wiring` builds the parts, `cli` is the same for a terminal.
"""

__version__ = "0.1.0"
