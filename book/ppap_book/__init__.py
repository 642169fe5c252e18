"""The code of the book: studies, the ledger, claims, measures, figures."""
