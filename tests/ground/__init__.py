"""What tests stand on: real servers on loopback, started here and dead when we are, and a clock that a test moves.

`postgres` and `valkey` are servers, `processes` are children in their own group, `proxy` breaks TCP on purpose,
`loopback` forbids every other network, `clock` is time by hand.  What cannot start fails the test with the reason; it
never skips.
"""
