"""The programs the product is compared with; each complete in itself and at most a hundred lines."""
