"""`python -m lpa_core`: see `lpa_core.cli`."""

import sys

from lpa_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
