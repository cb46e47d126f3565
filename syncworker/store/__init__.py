"""The tables and the only SQL; knows no HTTP.

`tables` is the schema, `dialect` holds what differs between PostgreSQL and SQLite, `keyring` and `sealed` encrypt what
must not lie open, `unit_of_work` is one transaction with every repository on it, `bulk` writes many rows at once,
`migrate` brings a database to the newest schema.  Each other module is one repository.
"""
