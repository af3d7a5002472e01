"""What all tests start from."""

import signal

import pytest


@pytest.fixture(autouse=True)
def interrupts():
    """Ctrl-C is heard, also where the tests were started in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
