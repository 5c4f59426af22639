# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery in Qdrant: its backend, the connection, the embedded engine, and filters in Qdrant's words."""
