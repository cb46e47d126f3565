"""The same operations for a terminal: noun, verb, `--json`.

Data goes to stdout, talk to stderr.  Exit code 0: done; 1: failed; 2: used wrongly; 3: partly done.

`main` is the entry and turns errors into one line each; `show` prints tables and JSON; `frame` opens settings and
store for a command; the others hold one noun each, and `demo` the whole way on this machine.
"""
