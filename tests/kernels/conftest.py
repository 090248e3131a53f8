import pytest
from attention_subjects import interpreting


@pytest.fixture
def interpreted():
    """TPU kernels that a test calls itself are interpreted."""
    with interpreting():
        yield
