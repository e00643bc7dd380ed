"""`python -m causalcxr` is the command line."""

import sys

from causalcxr.cli import main

sys.exit(main())
