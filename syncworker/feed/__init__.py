"""THE FEED FOR READERS: pages of changes that a mirror applies one after the other.

    cursor.py   where a reader stands, as opaque text that is checked when it comes back (pure)
    read.py     pages: changes behind a cursor, markers expanded, repeats taken together, each row as it is now

What is written, and why nothing is skipped, stands in `store.changes`; which history a cursor belongs to in
`store.epochs`; whose rows can be read in `store.readable`.
"""
