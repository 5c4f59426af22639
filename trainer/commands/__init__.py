# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The verbs of the `tgdt` command: each module has `add_arguments(parser)` and `run(args)`."""
