"""`python -m vlmchat` is the same as `vlmchat`."""

import sys

from vlmchat.cli import main

sys.exit(main())
