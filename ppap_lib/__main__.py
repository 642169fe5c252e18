"""`python -m ppap_lib`: see `ppap_lib.cli`."""

import sys

from ppap_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
