# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Drawing: heat maps over pictures, contact sheets, and the fonts for them."""
