"""One class with `handle` and without `initialize`."""


class Plain:
    def handle(self, data, context):
        return ["plain" for _ in data or ()]
