# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Other runtimes than PyTorch for the two branches of a model."""
