"""`python -m causalcxr` is the command line."""

import sys

from causalcxr_cli import main

sys.exit(main())
