# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Old name of `modeling_tgdt.gallery.storage`; both names are one module."""

import sys

from .gallery import storage

sys.modules[__name__] = storage
