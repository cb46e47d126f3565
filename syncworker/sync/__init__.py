"""From bank to table, in this order.

`plan` decides which steps are due, `fetch` walks the pages of one step, `decode` turns pages into records, `diff`
compares them with what is held, `apply` writes the outcome in one transaction, and `engine` runs the five for one
consent or for a batch of claims.  `pages` is what a walk leaves behind for the next one, `refusals` what a refusal
means, `reports` what a run says at its end.
"""
