"""Talking to one bank (an LFI); knows no database.

`participants` reads the directory of all LFIs, `directory` says where one is and what its discovery document promises,
`keys` loads our keys and certificates, `jose` signs and verifies PS256, `bounds` limits whatever comes in, `connector`
sees to it that each socket is closed once, `transport` sends over mTLS and measures each attempt, `oauth` reads what
the token side answers, `api` joins them to the calls the rest of the code makes, and `checkup` walks to an LFI and
looks at everything a first call needs.
"""
