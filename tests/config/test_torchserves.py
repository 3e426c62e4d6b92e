"""Configurations as TorchServe's users have them start without edits, or with the one documented refusal."""

from pathlib import Path

import pytest

from wfserve.config import Address, load
from wfserve.errors import ConfigError

CONTAINER = """
inference_address=http://0.0.0.0:8080
management_address=http://0.0.0.0:8081
metrics_address=http://0.0.0.0:8082
grpc_inference_address=0.0.0.0
grpc_management_address=0.0.0.0
number_of_netty_threads=16
job_queue_size=500
model_store=/srv/models
workflow_store=/srv/workflows
"""
BLANK = " "  # after a value, where editors leave them
TUNED = rf"""
# a server with plenty of memory
inference_address=http://127.0.0.1:8080
management_address=http://127.0.0.1:8081
grpc_inference_port=http://127.0.0.1:7070
vmargs=-Xmx8g -XX:+ExitOnOutOfMemoryError
prefer_direct_buffer=True
default_response_timeout=600
unregister_model_timeout=600
install_py_dep_per_model=true
enable_envvars_config=true
ipex_enable=true{BLANK}
cpu_launcher_enable=true{BLANK}
cpu_launcher_args=--node_id 1
load_models=standalone
models={{\
  "cnn": {{\
    "1.0": {{\
        "defaultVersion": true,\
        "marName": "cnn.mar",\
        "minWorkers": 2,\
        "batchSize": 16\
    }}\
  }}\
}}
"""
ENCRYPTED = """
inference_address=https://127.0.0.1:8443
management_address=https://127.0.0.1
metrics_address=https://127.0.0.1
private_key_file=resources/key.pem
certificate_file=resources/certs.pem
keystore=resources/keystore.p12
keystore_pass=changeit
keystore_type=PKCS12
max_request_size=2000000000
cors_allowed_origin=*
cors_allowed_methods=GET, POST, PUT, OPTIONS
cors_allowed_headers=X-Custom-Header
blacklist_env_vars=.*USERNAME.*|.*PASSWORD.*
async_logging=true
"""
CLOUD = """
vmargs=-XX:-UseContainerSupport
model_store=$$STORE$$
inference_address=http://0.0.0.0:$$BIND_TO_PORT$$
management_address=http://0.0.0.0:$$BIND_TO_PORT$$
default_response_timeout=$$RESPONSE_TIMEOUT$$
default_service_handler=$$HANDLER$$
decode_input_request=false
"""
CLUSTER = """
inference_address=http://0.0.0.0:8085
management_address=http://0.0.0.0:8085
metrics_address=http://0.0.0.0:8082
enable_metrics_api=true
metrics_mode=prometheus
metrics_config=/srv/metrics.yaml
model_metrics_auto_detect=true
NUM_WORKERS=1
number_of_gpu=1
load_models=all
model_snapshot={"name":"startup.cfg","modelCount":1,"models":{"cnn":{"1.0":{"marName":"cnn.mar"}}}}
"""
OPEN = (
    CONTAINER
    + "disable_token_authorization=true\nenable_model_api=true\nallowed_urls=https://a/.*,file://.*\n"
)
ALL = {"container": CONTAINER, "tuned": TUNED, "encrypted": ENCRYPTED, "cloud": CLOUD, "cluster": CLUSTER}
ENVIRON = {
    "STORE": "/srv/m",
    "BIND_TO_PORT": "8080",
    "RESPONSE_TIMEOUT": "60",
    "HANDLER": "service.py:handle",
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def started(text, flags=None):
    Path("config.properties").write_text(text)
    return load(flags=flags, environ=ENVIRON)


@pytest.mark.parametrize("name", ALL)
def test_it_starts(name):
    config = started(ALL[name])
    assert config.unknown == (("NUM_WORKERS",) if name == "cluster" else ())
    assert config.tokens is (name in ("container", "cloud", "cluster"))


def test_what_is_meant():
    assert started(CONTAINER).job_queue_size == 500
    assert started(TUNED).install_py_dep_per_model
    assert started(TUNED).unused[-1] == "models"
    assert started(ENCRYPTED).metrics_address == Address("127.0.0.1", 8445, "https")
    assert started(ENCRYPTED).certificate_file == Path.cwd() / "resources/certs.pem"
    assert started(CLOUD).exposed(("10.0.0.1", 8080)) == {"inference", "management"}
    assert started(CLUSTER).number_of_gpu == 1


def test_the_one_refusal():
    with pytest.raises(ConfigError, match="--insecure-management"):
        started(OPEN)
    assert not started(OPEN, {"insecure_management": "true"}).tokens
