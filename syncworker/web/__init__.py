"""The web process: what LFIs and the product ask of us over HTTP."""
