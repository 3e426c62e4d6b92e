"""A handler that gets vectors, in an envelope or not, and doubles them."""


def handle(data, context):
    return None if data is None else [[2 * x for x in row] for row in data]
