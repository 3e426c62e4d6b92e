"""The forms a handler can have that is a function, or a class beside one."""


def handle(data, context):
    return None if data is None else ["handle" for _ in data]


def other(data, context):
    return None if data is None else ["other" for _ in data]


class Unused:
    def handle(self, data, context):
        return ["class" for _ in data]
