"""Two classes, of which neither is the handler more than the other."""


class One:
    def handle(self, data, context):
        return ["one" for _ in data or ()]


class Two:
    def handle(self, data, context):
        return ["two" for _ in data or ()]
