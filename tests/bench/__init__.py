"""The measurement measures what it says: books, bank, audit, the product driven whole."""
