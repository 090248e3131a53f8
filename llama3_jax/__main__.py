"""`python -m llama3_jax` is the `llama3` command."""

import sys

from llama3_jax.commands.main import main

sys.exit(main())
