"""One consent's life.

`authorize` asks a user for it and brings home its first tokens, `tokens` keeps an access token alive with one refresh
at a time, `lifecycle` listens to what the Hub says about it and draws the consequences.  `storing` is what the first
two share: what a bank has given out is stored before anything else happens.
"""
