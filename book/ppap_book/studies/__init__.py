"""Studies: frozen parameters -> images -> metrics -> ledger rows.

What notebooks, papermill and a bare GPU box all call: `python -m ppap_book run NAME`.
"""
