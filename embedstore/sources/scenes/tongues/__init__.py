"""The captions of a claim in several languages: a file and a line in the table each."""

from embedstore.sources.scenes.tongues.base import Tongue
from embedstore.sources.scenes.tongues.english import ENGLISH
from embedstore.sources.scenes.tongues.french import FRENCH
from embedstore.sources.scenes.tongues.german import GERMAN
from embedstore.sources.scenes.tongues.spanish import SPANISH

TONGUES = {"en": ENGLISH, "de": GERMAN, "fr": FRENCH, "es": SPANISH}
"""By language code, English first."""

__all__ = ["TONGUES", "Tongue"]
