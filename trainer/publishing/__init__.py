# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What goes to the Hub, and the cards that go with it."""
