# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Captioned photos from anywhere to one form; knows neither trainer nor evaluation."""
