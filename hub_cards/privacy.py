# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What must not leave this machine: tokens of the Hub and paths, in commands and in texts that are published."""

from __future__ import annotations

import re
import shlex

_TOKEN = re.compile(r"(?:(?<=hub[_-]token[= ])|(?<=--token[= ]))[^\s\x22\x27\\]+|\bhf_[A-Za-z0-9]{16,}")


def public_command(command: str) -> str:
    """Return a command line without the folders of the machine it ran on, and without tokens.

    Example:
        >>> public_command("tgdt train --dataset /data/private/flickr8k --output runs/a")
        'tgdt train --dataset flickr8k --output runs/a'
    """
    words = []
    for word in shlex.split(mask_tokens(command)):
        option, equals, value = word.rpartition("=")
        is_path = value.startswith(("/", "~")) or ".." in value.split("/")
        words.append(option + equals + (value.rstrip("/").rpartition("/")[2] if is_path else value))
    return shlex.join(words)


def mask_tokens(text: str) -> str:
    """Return a text with asterisks in place of what looks like a token of the Hub.

    Example:
        >>> mask_tokens("python train.py --hub_token=secret --other hf_abcdefghijklmnop12")
        'python train.py --hub_token=*** --other ***'
    """
    return _TOKEN.sub("***", text)


__all__ = ["mask_tokens", "public_command"]
