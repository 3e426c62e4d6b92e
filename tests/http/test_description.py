"""Each port describes all that it serves, and nothing else, in valid OpenAPI."""

import re
from itertools import chain, combinations

import pytest
from openapi_spec_validator import validate

from wfserve.config import Config
from wfserve.http.application import application
from wfserve.http.auth import Tokens
from wfserve.http.description import OPERATIONS, document
from wfserve.http.parameters import ANY_METHOD
from wfserve.http.predict import PREFIX
from wfserve.http.predictions import PREFIXES

APIS = ("inference", "management", "metrics")
PORTS = list(chain.from_iterable(combinations(APIS, count) for count in (1, 2, 3)))
PAST_QUART = {f"/{PREFIX}/", *PREFIXES}


class NoRegistry:
    """What the routes need when they are made."""

    config = Config()

    def __getattr__(self, name):
        return None


@pytest.fixture
def routes(tmp_path):
    """Return what the application of a port routes: pairs of a method and a path."""

    def of(apis):
        app = application(NoRegistry(), apis, Tokens(tmp_path / "key_file.json", 60.0))
        for rule in app.url_map.iter_rules():
            path = re.sub(r"<(\w+)>", r"{\1}", rule.rule)
            methods = rule.methods - {"HEAD"}
            yield path, {"GET"} if methods >= set(ANY_METHOD) else methods

    return of


def unnamed(path):
    return re.sub(r"{\w+}", "{}", path)


@pytest.mark.parametrize("apis", PORTS, ids="+".join)
def test_what_is_described_is_what_is_routed(routes, apis):
    routed = {(method, unnamed(path)) for path, methods in routes(apis) for method in methods}
    described = {
        (method.upper(), unnamed(path))
        for path, methods in document(apis)["paths"].items()
        for method in methods
    }
    beside = {each for each in described - routed if each[1].startswith(tuple(PAST_QUART))}
    assert described - beside == routed
    assert {f"/{path.split('/')[1]}/" for _, path in beside} == (PAST_QUART if "inference" in apis else set())


@pytest.mark.parametrize("apis", PORTS, ids="+".join)
def test_it_is_valid(apis):
    validate(document(apis))


def test_a_part_of_it_is_valid():
    part = document(["management"], "/models/")
    validate(part)
    assert set(part["paths"]) == {
        "/models/{model_name}",
        "/models/{model_name}/{model_version}",
        "/models/{model_name}/{model_version}/set-default",
    }


def test_operations_have_names_of_their_own():
    assert len({operation.id for operation in OPERATIONS}) == len(OPERATIONS)
