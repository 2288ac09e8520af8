"""Property tests without settings of their own follow tests/support/properties.py."""

from hypothesis import settings

from tests.support.properties import USUAL

settings.register_profile("nearline", USUAL)
settings.load_profile("nearline")
