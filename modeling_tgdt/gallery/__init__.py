# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery on disk or in Qdrant, and stage one over it; it knows no model."""
