"""Claims, published ones and this book's own, each with a verdict that ledger rows decide.

A claim is an entry of a YAML file, `book/claims.yml` in this book::

    - id: five_beat_one
      claim: Five experts guide better than one noise-aware model.
      source: go2023ppap                       # a key of the bibliography; none: this book
      where: the table of guidance methods     # section, table or figure of the source
      page: notebooks/06_guidance_ablation     # where the details are
      metric: gain                             # one of `measures.MEASURES`
      rows: {method: multi5, over: single}     # the metric's arguments
      readings:                                # what differs, by a label; nearest to what was
        by KID: {column: kid}                  # published first: it alone is counted
        by the judge: {}
      above: 0                                 # the claim: the metric lies above, below or both
      published: {by KID: 10.44}               # the metric in the published table, by reading

The claim holds if the whole 95 % interval lies within the bounds, does not hold if it lies
wholly beyond one of them, and is undecided otherwise: also while rows are missing, or are of
fewer images than `at_least`. Of two judges that disagree neither decides. A verdict is provisional
that compares networks of which each was trained fewer than three times, or that rests on fewer than
100 images. Where a table was published, the same rule is applied to it first. Nothing here holds a
result: a new row may turn a verdict.
"""

from ppap_book.claims.register import Claim, Verdict, load
from ppap_book.claims.verdicts import judge, markdown, provisional, published

__all__ = [
    "Claim",
    "Verdict",
    "judge",
    "load",
    "markdown",
    "provisional",
    "published",
]
