"""A specification becomes complete settings, or errors that each say where."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.archive.spec import NodeSettings, SpecError, WorkflowSpec, decode_spec, parse_spec, read_spec

EXAMPLE = """\
models:
  #global model params
  min-workers: 1
  max-workers: 4
  batch-size: 3
  max-batch-delay : 5000
  retry-attempts : 3
  timeout-ms : 5000
  m1:
    url : model1.mar #local or public URI
    min-workers: 1   #override the global params
    max-workers: 2
    batch-size: 4
  m2:
    url : model2.mar
dag:
  pre_processing : [m1]
  m1 : [m2]
  m2 : [postprocessing]
"""


def parse(text: str) -> WorkflowSpec:
    return parse_spec(textwrap.dedent(text), "w.yaml")


def models(text: str) -> WorkflowSpec:
    """Parse a specification whose `models` section is `text`."""
    return parse("models:\n" + textwrap.indent(textwrap.dedent(text), "  ") + "\ndag: {a: [m]}\n")


def findings(text: str) -> list[str]:
    """Return all that is found, without the file's name."""
    return [str(found).removeprefix("w.yaml:") for found in read_spec(textwrap.dedent(text), "w.yaml")[1]]


def test_the_example() -> None:
    spec = parse(EXAMPLE)
    shared = NodeSettings(1, 4, 3, 5000, 3, 5000)
    assert spec.settings == shared
    assert spec.settings_of("m1") == NodeSettings(1, 2, 4, 5000, 3, 5000)
    assert spec.settings_of("m2") == shared
    assert spec.settings_of("postprocessing") == NodeSettings(1, 1, 1, 0, 3, 5000)
    assert spec.is_function("pre_processing")
    assert not spec.is_function("m1")
    assert spec.dag == {"pre_processing": ("m1",), "m1": ("m2",), "m2": ("postprocessing",)}
    assert spec.models["m1"].url == "model1.mar"
    assert spec.positions["models", "m1", "batch-size"] == (13, 5)
    assert spec.positions["dag", "m2", "postprocessing"] == (19, 9)


def test_the_defaults_are_those_of_torchserve() -> None:
    assert models("m: {url: m.mar}").settings_of("m") == NodeSettings(
        1, 1, 1, 50, 1, 10_000, "bytes", False, True
    )


def test_a_global_after_a_model_does_not_reach_it_but_reaches_functions() -> None:
    spec = models("timeout-ms: 1\nm: {url: m.mar}\ntimeout-ms2: {url: x}\nretry-attempts: 7")
    assert spec.settings_of("m").retry_attempts == 1
    assert spec.settings_of("a").retry_attempts == 7
    assert spec.settings.retry_attempts == 7


def test_own_settings_at_every_level() -> None:
    spec = parse("""
        models:
          data-format: native
          isolate: off
          share: on
          m: {url: m.mar, copy-inputs: on, data-format: bytes}
        functions:
          a: {timeout-ms: 9, isolate: on}
          b:
        dag: {a: [m], m: [b]}
    """)
    assert spec.settings_of("m") == NodeSettings(
        data_format="bytes", copy_inputs=True, isolate=False, share=True
    )
    assert spec.settings_of("a") == NodeSettings(max_batch_delay_ms=0, timeout_ms=9, data_format="native")
    assert spec.settings_of("b") == NodeSettings(max_batch_delay_ms=0, data_format="native", isolate=False)


def test_a_shape_is_one_nodes_own_and_a_global_one_is_no_functions() -> None:
    spec = parse("""
        models:
          input-shape: [3, 224, 224]
          m: {url: m.mar}
          n: {url: n.mar, input-shape: [], input-dtype: bfloat16}
        functions:
          a: {input-shape: [10], input-dtype: int64}
        dag: {a: [m], m: [n], n: [b]}
    """)
    declared = {
        node: (spec.settings_of(node).input_shape, spec.settings_of(node).input_dtype) for node in "manb"
    }
    assert declared == {
        "m": ((3, 224, 224), "float32"),
        "a": ((10,), "int64"),
        "n": ((), "bfloat16"),
        "b": (None, "float32"),
    }


@pytest.mark.parametrize(
    ("shared", "own", "least", "most"),
    [
        ("min-workers: 2", "", 2, 2),
        ("min-workers: 4\nmax-workers: 4", "max-workers: 2", 2, 2),
        ("max-workers: 2", "min-workers: 3", 3, 3),
        ("min-workers: 0\nmax-workers: 2", "", 0, 2),
        ("max-workers: 0", "", 0, 0),
    ],
)
def test_of_two_worker_counts_the_more_specific_holds(shared: str, own: str, least: int, most: int) -> None:
    spec = models(f"{shared}\nm:\n  url: m.mar\n  {own}")
    settings = spec.settings_of("m")
    assert (settings.min_workers, settings.max_workers) == (least, most)


def test_names_are_what_is_written() -> None:
    spec = parse("{models: {on: {url: 'a b.mar'}}, dag: {1: ['on', ~, ' ', no], no: []}}")
    assert spec.dag == {"1": ("on", "no"), "no": ()}
    assert not spec.is_function("on")


def test_merge_keys() -> None:
    spec = parse("""
        x: &base {url: m.mar, batch-size: 8}
        models:
          m: {<<: *base, batch-size: 4}
          n: *base
        dag: {m: [n]}
    """)
    assert spec.settings_of("m").batch_size == 4
    assert spec.settings_of("n").batch_size == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "",
            [
                "1:1: error: a specification needs a 'models' section",
                "1:1: error: a specification needs a 'dag' section",
            ],
        ),
        (
            "[a]",
            [
                "1:1: error: a specification must be a map",
                "1:1: error: a specification needs a 'models' section",
                "1:1: error: a specification needs a 'dag' section",
            ],
        ),
        ("models:\ndag: {a: []}", ["1:1: error: a specification needs a 'models' section"]),
        ("models: {}\ndag: [a]", ["2:6: error: 'dag' must be a map"]),
        ("models: {}\ndag: {a: b}", ["2:7: error: the children of 'a' must be a list, such as [a, b] or []"]),
        ("models: {}\ndag: {a: [[b]]}", ["2:11: error: a child must be the name of a node"]),
        ("models: {}\ndag: {[a]: [b]}", ["2:7: error: a key of 'dag' must be a name"]),
        ("models: {}\ndag: {a: [../b]}", ["2:11: error: '../b' cannot name a node"]),
        ("models: {}\ndag: {a: [], a: [b]}", ["2:14: warning: 'a' is given twice: the last one counts"]),
        (
            "models: {}\ndags: {}\ndag: {a: []}",
            ["2:1: warning: unknown section 'dags' is ignored (did you mean 'dag'?)"],
        ),
    ],
)
def test_sections(text: str, expected: list[str]) -> None:
    assert findings(text) == expected


@pytest.mark.parametrize("digest", ["ab" * 32, "AB" * 32, "12" * 32, "1e" + "10" * 31])
def test_a_digest_is_taken_as_it_is_written(digest: str) -> None:
    assert models(f"m: {{url: x, sha256: {digest}}}").models["m"].sha256 == digest
    assert models("m: {url: x}").models["m"].sha256 == ""


COUNT = "error: batch-size must be an integer from 1 to 2147483647"
URL = "error: url must be the name of a model archive, or a URL"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("batch-size: 0", f"2:15: {COUNT}"),
        ("batch-size: -1", f"2:15: {COUNT}"),
        ("batch-size: 2147483648", f"2:15: {COUNT}"),
        ("batch-size: " + "9" * 5000, f"2:15: {COUNT}"),
        ("batch-size: !!int x", f"2:15: {COUNT}"),
        ("batch-size: '3'", "2:15: error: batch-size must be an integer"),
        ("batch-size: 1.5", "2:15: error: batch-size must be an integer"),
        ("batch-size: [1]", "2:15: error: batch-size must be an integer"),
        ("batch-size:", "2:14: error: batch-size must be an integer"),
        ("max-workers: -1", "2:16: error: max-workers must be an integer from 0 to 1024"),
        ("data-format: text", "2:16: error: data-format must be bytes or native"),
        ("isolate: 1", "2:12: error: isolate must be on or off"),
        ("share: maybe", "2:10: error: share must be on or off"),
        ("input-shape: 3", "2:16: error: input-shape must be a list of sizes, such as [3, 224, 224]"),
        ("input-shape:", "2:15: error: input-shape must be a list of sizes, such as [3, 224, 224]"),
        ("input-shape: {a: 1}", "2:16: error: input-shape must be a list of sizes, such as [3, 224, 224]"),
        (f"input-shape: {[1] * 11}", "2:16: error: input-shape has at most 10 sizes"),
        (
            "input-shape: [3, -1]",
            "2:16: error: input-shape holds sizes, each of which must be an integer from 0 to 2147483647",
        ),
        (
            "input-shape: [3, [1]]",
            "2:16: error: input-shape holds sizes, each of which must be an integer",
        ),
        ("input-dtype: float", "2:16: error: input-dtype must be one of torch's, such as float64"),
        ("input-dtype: [float32]", "2:16: error: input-dtype must be one of torch's, such as float32"),
        (
            "batchsize: 4",
            "2:3: error: 'batchsize' is neither a setting nor a map with the model's url"
            " (did you mean 'batch-size'?)",
        ),
        ("m: {batch-size: 4}", "2:3: error: model 'm' needs a url"),
        ("m: {url: 5}", f"2:7: {URL}"),
        ("m: {url: ''}", f"2:7: {URL}"),
        (
            "m: {url: x, min-workers: 3, max-workers: 2}",
            "2:15: error: min-workers 3 is more than max-workers 2",
        ),
        (
            "m: {url: x, batch-sise: 3}",
            "2:15: warning: unknown setting 'batch-sise' is ignored (did you mean 'batch-size'?)",
        ),
        ("m/n: {url: x}", "2:3: error: 'm/n' cannot name a node"),
        ("m: {url: x, sha256: 12}", "2:23: error: sha256 must be 64 hexadecimal digits"),
        ("m: {url: x, sha256: [a]}", "2:23: error: sha256 must be 64 hexadecimal digits"),
    ],
)
def test_models(line: str, expected: str) -> None:
    assert findings(f"models:\n  {line}\ndag: {{a: []}}\n") == [expected]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "a: {timeout: 5}",
            "4:7: error: 'timeout' is not a setting of functions (did you mean 'timeout-ms'?)",
        ),
        ("a: {batch-size: 5}", "4:7: error: 'batch-size' is not a setting of functions"),
        ("a: {share: on}", "4:7: error: 'share' is not a setting of functions"),
        ("m: {timeout-ms: 5}", "4:3: error: 'm' is a model: its settings belong under 'models'"),
        ("a: 5", "4:6: error: function 'a' must be a map"),
    ],
)
def test_functions(line: str, expected: str) -> None:
    assert findings(f"models:\n  m: {{url: x}}\nfunctions:\n  {line}\ndag: {{a: [m]}}\n") == [expected]


def test_all_errors_are_reported_and_http_gets_the_first() -> None:
    with pytest.raises(SpecError) as caught:
        parse("models:\n  timeout-ms: 0\n  m: {}\ndag: {a: b}\n")
    error = caught.value
    assert [found.line for found in error.diagnostics] == [2, 3, 4]
    assert error.body() == {
        "code": 400,
        "type": "InvalidWorkflowException",
        "message": "w.yaml:2:15: error: timeout-ms must be an integer from 1 to 2147483647",
    }


@pytest.mark.parametrize("text", ["a: [", "a: !!python/name:os.system x", "a: &a [*a]"])
def test_what_is_no_yaml_keeps_torchserves_text(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "w.yaml")
    assert (caught.value.code, caught.value.message) == (500, "Failed to parse yaml.")
    assert str(caught.value.diagnostics[0]).startswith("w.yaml:1:")


def test_a_text_must_be_utf8() -> None:
    assert decode_spec(b"\xef\xbb\xbfdag: \xc3\xa9", "w.yaml") == "dag: é"
    with pytest.raises(SpecError) as caught:
        decode_spec(b"a: 1\nb: \xff\n", "w.yaml")
    found = caught.value.diagnostics[0]
    assert (found.line, found.column) == (2, 4)


KEYS = st.sampled_from(
    [
        "models",
        "dag",
        "functions",
        "m",
        "n",
        "f",
        "url",
        "<<",
        "min-workers",
        "max-workers",
        "isolate",
        "data-format",
        "input-shape",
        "input-dtype",
    ]
)
VALUES = st.recursive(
    st.sampled_from(["m", "n", "f", "1", "-2", "on", "native", "~", "''", "1e3", "&a x", "*a", "!!int z"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(KEYS, inner), max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        )
    ),
)
WHOLE = st.tuples(VALUES, VALUES).map(lambda values: list(zip(("models", "dag"), values, strict=True)))


@given(st.lists(st.tuples(KEYS, VALUES), max_size=4) | WHOLE)
def test_any_document_is_a_specification_or_an_error(pairs: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{key}: {value}" for key, value in pairs)
    try:
        spec = parse_spec(text, "w.yaml")
    except SpecError:
        return
    for node in [*spec.dag, *spec.models]:
        settings = spec.settings_of(node)
        assert 0 <= settings.min_workers <= settings.max_workers


def test_a_version() -> None:
    assert parse('version: "1.10"\nmodels: {}\ndag: {a: []}').version == "1.10"
    assert parse("version: 1.2.3\nmodels: {}\ndag: {a: []}").version == "1.2.3"  # text without quotes
    assert parse("models: {}\ndag: {a: []}").version is None


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("1.10", 'a version is text: write it in quotes, "1.10"'),
        ("2", 'a version is text: write it in quotes, "2"'),
        ("v1", "a version is made of digits and dots, such as '1.10'"),
        ("'1.'", "a version is made of digits and dots, such as '1.10'"),
        ("[1]", "a version is made of digits and dots, such as '1.10'"),
        ("", "a version is made of digits and dots, such as '1.10'"),
        (f"'{'1' * 65}'", "a version is made of digits and dots, such as '1.10'"),
    ],
)
def test_a_version_that_is_none(written: str, problem: str) -> None:
    assert findings(f"version: {written}\nmodels: {{}}\ndag: {{a: []}}") == [f"1:1: error: {problem}"]
