# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt serve`: answer searches over HTTP, on this machine only unless told otherwise."""

import argparse
import ipaddress
import logging

from trainer.commands.common import add_gallery_arguments, load_retriever

logger = logging.getLogger(__name__)
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_gallery_arguments(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)"
    )
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--max-batch", type=int, default=32, help="queries answered together (default: %(default)s)")
    parser.add_argument(
        "--max-in-flight", type=int, default=128, help="searches that may wait; more get 429 (default: %(default)s)"
    )
    parser.add_argument(
        "--max-per-client", type=int, help="as many of one client (default: half; behind a proxy that hides them, all)"
    )
    parser.add_argument(
        "--max-upload", type=float, default=16, metavar="MIB", help="size of an upload (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads of the model; where cores are shared, 1 is often the fastest"
    )
    parser.add_argument("--timeout", type=float, default=30, help="seconds until an answer (default: %(default)s)")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name under which the service is asked; may be repeated (default: on this machine localhost and its "
        "addresses, else any)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted, then answer what is waiting and end."""
    try:
        import uvicorn

        from trainer.serving.connections import server_config
        from trainer.serving.service import ServeLimits, create_app
    except ImportError as error:
        raise ImportError(f"The service needs {error.name}. Install it with `pip install 'tgdt[serve]'`.") from error
    if not 0 <= args.port < 65536:
        raise ValueError(f"--port must be between 0 and 65535, found {args.port}.")
    for name in ("max_batch", "max_in_flight", "max_per_client", "max_upload", "threads", "timeout"):
        if getattr(args, name) is not None and not getattr(args, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, found {getattr(args, name)}.")
    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)
    limits = ServeLimits(
        max_batch=args.max_batch,
        max_in_flight=args.max_in_flight,
        max_per_client=args.max_per_client,
        max_body=int(args.max_upload * (1 << 20)),
        timeout=args.timeout,
    )
    names = [args.host, *_LOOPBACK, *args.allowed_host] if _is_loopback(args.host) else args.allowed_host or None
    app = create_app(load_retriever(args), limits, names)
    if not _is_loopback(args.host):
        logger.warning(
            "%s can be reached from other machines, and anybody there may search; there is no login.", args.host
        )
    config = server_config(app, limits, host=args.host, port=args.port, log_level="warning" if args.quiet else "info")
    uvicorn.Server(config).run()
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
