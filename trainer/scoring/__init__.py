# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Embeddings of a data set, and what ranks them."""
