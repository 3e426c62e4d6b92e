"""A handler that tells what a model of an archive is given."""

from peek import attributes, headers, peek  # beside this file in the archive


class Attributes:
    """Tells of its first request what it sees."""

    def initialize(self, context):
        self.initialised_with = {
            "model_name": context.model_name,
            "server": context.system_properties["server_name"],
        }

    def handle(self, data, context):
        return [attributes(data, context)[0] | {"initialised_with": self.initialised_with} for _ in data]


def told(data, context):
    """What is peeked of data and of headers."""
    return None if data is None else [peek(data, context)[0] | headers(data, context)[0]]
