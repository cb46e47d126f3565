"""Tests read as sentences about behaviour; `ground` holds the real things they stand on."""
