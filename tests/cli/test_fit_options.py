"""Every field of a fit's configuration is an option of the command, and the other way round."""

import inspect

from embedstore.documents import FitConfig
from embedstore.stream.groups import BUFFER_MB
from embedstore_cli.commands.fit import fit

OF_THE_COMMAND = {
    "store", "out", "config", "sweep", "device", "overwrite", "json",
    "checkpoint_minutes", "checkpoint_steps", "tensorboard",
    # How tokens come, which changes no result.
    "buffer_mb", "cache_on_device",
}  # fmt: skip


def test_options_and_fields_are_the_same():
    options = {name.rstrip("_") for name in inspect.signature(fit).parameters}
    assert options - OF_THE_COMMAND == set(FitConfig.model_fields)


def test_the_room_for_reading_ahead_is_the_streams_own():
    assert inspect.signature(fit).parameters["buffer_mb"].default == BUFFER_MB
