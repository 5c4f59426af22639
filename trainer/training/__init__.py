# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What trains in which stage, and how: parts of [`CMCTrainer`]."""
