import urllib.request
from urllib.error import URLError

import pytest

from tests.data.torchvision_files import SIZES, WRITERS


@pytest.fixture
def downloads(monkeypatch):
    """The urls that were asked for, in vain. The well-known datasets are as small as ``torchvision_files`` makes them."""
    asked = []

    def refuse(request):
        asked.append(request.full_url)
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    for dataset in WRITERS:
        monkeypatch.setattr(dataset, "sizes", SIZES)
    return asked
