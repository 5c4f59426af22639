import pytest


@pytest.fixture
def server():
    from tests.modeling_tgdt.gallery.qdrant_server import qdrant_server

    with qdrant_server() as running:
        yield running
