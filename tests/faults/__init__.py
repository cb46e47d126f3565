"""Random faults at random calls, seed after seed: the whole way of a sync, from the schedule to the tables.

wire     the network in memory, and what it carries back
kinds    what can go wrong with one request
ground   time by hand, worker processes that can die, a database that can fail
oracle   what a run owed, told from the bank's side
play     one seed: sick, then at peace, then audited
sockets  the same over TLS and HTTP
full     all seeds, from the command line
"""
