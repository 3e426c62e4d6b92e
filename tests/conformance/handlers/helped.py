"""A class that is a handler, and one that helps it."""


class Helper:
    answer = "helped"


class Helped:
    def initialize(self, context):
        self.helper = Helper()

    def handle(self, data, context):
        return [self.helper.answer for _ in data]
