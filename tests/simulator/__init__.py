"""The sandbox bank, judged by a client that signs with other code than the bank checks with."""
