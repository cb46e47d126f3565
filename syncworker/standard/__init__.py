"""What the standard says: tables of facts and pure functions, no I/O.

`versions` names the published versions, `permissions` the permission codes, `resources` the catalogue of what can be
read, `consents` the states of a consent and the authorisation details that ask for one, `values` how the standard
writes money, instants and ids.
"""
