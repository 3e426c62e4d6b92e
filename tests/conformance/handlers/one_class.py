"""One class, as most handlers are."""


class One:
    def initialize(self, context):
        self.answer = "one"

    def handle(self, data, context):
        return [self.answer for _ in data]
