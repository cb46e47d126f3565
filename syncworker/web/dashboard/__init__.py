"""The dashboard: pages for operators under `/ops/`, rendered here, working without JavaScript.

    words      what is written: ages, counts, money, states with icon, word and colour
    charts     figures as coordinates of SVG
    render     templates, assets with hashed names, the headers of a page
    door       sign-in, sessions, and what every request passes
    overview, connections, lfis, runs, lists, exports, house   what the pages show
    actions    what an operator may do: preview, reason, audit row
    routes     the paths

Pages show ids, states, codes, counts and instants.  Tokens, codes, keys, customers' data, bodies and links of
authorisations are not read for them, and rows of another tenant are not found.
"""
