"""Webhooks to the product: what its endpoints are sent, and how.

    sending   one POST: signature, address, answer
    job       the kind of work that sends what waits, queue by queue

Messages are written where the thing they tell happens, in its transaction (`store.messages`).  They are thin: ids,
counts, dates and codes; the product reads the rest through the API.  The format is that of Standard Webhooks.
"""
