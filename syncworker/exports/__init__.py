"""Exports: the tables as files an analyst can open, whole or not there.

`schema` says which tables and columns there are; `rows` makes of a batch its canonical text, guards cells and makes
pseudonyms; `writers` write parts; `layout` names folders and says what a manifest holds; `targets` are the places files
go to; `delta` is the other shape of a target; `verify` reads an export again and compares; `purge` takes old ones away.

pyarrow belongs to the extra `exports`, deltalake to the extra `delta`: `schema.needs` says so where they are missing.
"""
