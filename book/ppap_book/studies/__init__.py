"""Studies: runs with frozen parameters, each measured into a row of the ledger.

A module has the parameters of one run, the `grid` of runs, `measure`, and the `Study` made of
them; `python -m ppap_book run NAME` runs it, as pages and a bare GPU box do.
"""
