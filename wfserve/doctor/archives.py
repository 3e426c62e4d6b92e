"""Each archive of the stores is opened as the server opens it, and none of its code is run."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from wfserve.archive.extract import ArchiveKind, ExtractLimits, container_of, sniff
from wfserve.archive.fetch import Fetcher, FetchPolicy
from wfserve.archive.mar import open_model
from wfserve.archive.war import open_workflow
from wfserve.dag.check import check_file
from wfserve.doctor.code import TS, default_handlers, is_installed, missing_imports
from wfserve.doctor.finding import Area, Finding, Severity
from wfserve.errors import WfserveError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wfserve.archive.mar import ModelArchive
    from wfserve.archive.war import WorkflowArchive
    from wfserve.config import Config
    from wfserve.doctor.code import Missing

_NOT_HERE = {
    "parallelType": "each worker loads the whole model",
    "continuousBatching": "requests are batched before the handler is called",
    "sequenceBatching": "there are no sequences of requests",
    "asyncCommunication": "a worker answers a batch at a time",
}  # of model-config.yaml


class Archives:
    """The archives of the stores of one configuration."""

    def __init__(self, config: Config) -> None:
        """Raises `ConfigError` if the addresses that archives may come from are no regular expressions."""
        self._config = config
        stores = {store for store in (config.workflow_store, config.model_store) if store is not None}
        self._limits = ExtractLimits(max_bytes=config.max_archive_size)
        self._fetcher = Fetcher(FetchPolicy(config.allowed_urls, stores=tuple(stores)))
        self._files = sorted(file for store in stores if store.is_dir() for file in store.iterdir())
        self._used: set[Path] = set()  # models that a workflow names

    def examine(self) -> Iterator[Finding]:
        """Yield what is to be said of each archive, workflows first."""
        models = []
        for path in self._files:
            kind = _kind(path)
            if kind is ArchiveKind.WORKFLOW:
                yield from self._in_scratch("workflow", path, self._workflow)
            elif kind is ArchiveKind.MODEL:
                models.append(path)
            elif isinstance(kind, str):
                area: Area = "workflow" if path.suffix == ".war" else "model"
                yield Finding("error", area, path.name, f"it will not run: {kind}")
        for path in models:
            findings = self._in_scratch("model", path, self._model)
            yield from findings if path in self._used else _unused(path, findings)

    def examine_start(self) -> Iterator[Finding]:
        """Say of each workflow that is to be loaded at start whether it is there."""
        for entry in self._config.load_workflows:
            name, given, archive = entry.partition("=")
            url = archive if given and not set(name) & set("/:?") else entry
            problem, _ = self._find("workflow", url)
            if problem is not None:
                yield replace(problem, subject=entry)

    def _in_scratch(self, area: Area, path: Path, examine: Any) -> list[Finding]:
        """Return what `examine` finds in the archive `path`, given a new directory to unpack it to."""
        with tempfile.TemporaryDirectory(prefix="wfserve-doctor-") as scratch:
            try:
                found = list(examine(path, Path(scratch, "archive")))
            except WfserveError as error:
                found = [Finding("error", area, path.name, error.message)]
            except OSError as error:
                found = [Finding("error", area, path.name, f"cannot be read: {error.strerror}")]
        return found

    def _workflow(self, path: Path, scratch: Path) -> Iterator[Finding]:
        say = partial(_say, "workflow", path)
        found = check_file(path)
        yield from (say(each.severity, f"{_place(each)}{each.message}") for each in found)
        if any(each.is_error for each in found):
            return
        archive = open_workflow(path, scratch, self._limits)
        yield from _and_ok(
            [*self._nodes(archive, path), *_handler_file(archive, path)],
            say("ok", f"workflow {archive.name} will run"),
        )

    def _nodes(self, archive: WorkflowArchive, path: Path) -> Iterator[Finding]:
        spec = archive.spec
        nodes = dict.fromkeys(node for edge in spec.dag.items() for node in (edge[0], *edge[1]))
        for node in nodes:
            if spec.is_function(node):
                continue
            problem, file = self._find("model", spec.models[node].url)
            if problem is not None:
                yield _say("workflow", path, problem.severity, f"node {node}: {problem.message}")
            elif file is not None:
                self._used.add(file)
            settings = spec.models[node].settings
            if settings.min_workers < settings.max_workers:
                low, high = settings.min_workers, settings.max_workers
                what = f"node {node} grows from {low} to {high} workers under load"
                yield _say("workflow", path, "note", f"{what}; TorchServe started {high} at once")

    def _find(self, area: Area, url: str) -> tuple[Finding | None, Path | None]:
        """Return what is wrong with where an archive is, and its file if it is here."""
        config = self._config
        if url.lower().startswith(("http:", "https:")):
            return Finding("note", area, url, f"{url} is downloaded when the workflow is registered"), None
        find, store = (
            (self._fetcher.workflow, config.workflow_store)
            if area == "workflow"
            else (self._fetcher.model, config.model_store)
        )
        try:
            return None, trio.run(find, url, store).path
        except WfserveError as error:
            where = store or "a store"
            return Finding("error", area, url, f"{error.message}; put it into {where}"), None

    def _model(self, path: Path, scratch: Path) -> Iterator[Finding]:
        model = open_model(path, scratch, self._limits)
        findings = [*self._requirements(model, path), *self._handler(model, path)]
        if any(key in model.config for key in ("minWorkers", "maxWorkers")):
            what = "minWorkers and maxWorkers of its model-config.yaml count before the workflow's"
            findings.append(_say("model", path, "note", what))
        findings += [
            _say("model", path, "warning", f"{key} of its model-config.yaml means nothing here: {why}")
            for key, why in _NOT_HERE.items()
            if model.config.get(key)
        ]
        yield from _and_ok(
            findings, _say("model", path, "ok", f"model {model.name or path.stem} {model.version} will run")
        )

    def _handler(self, model: ModelArchive, path: Path) -> Iterator[Finding]:
        handler = model.handler or self._config.default_service_handler
        if handler:
            yield from _handler(model, handler, path, self._installs(model))
        else:
            what = "its manifest names no handler: set default_service_handler to what it was served with"
            yield _say("model", path, "error", what)

    def _installs(self, model: ModelArchive) -> bool:
        return bool(model.requirements_file) and self._config.install_py_dep_per_model

    def _requirements(self, model: ModelArchive, path: Path) -> Iterator[Finding]:
        if model.requirements_file and not self._config.install_py_dep_per_model:
            what = f"its {model.requirements_file} is not installed"
            yield _say("model", path, "warning", f"{what}: set install_py_dep_per_model=true or install it")


def _and_ok(findings: list[Finding], ok: Finding) -> list[Finding]:
    """Return `findings` with `ok` before them, unless something is to be looked at."""
    return [ok, *findings] if all(found.severity == "note" for found in findings) else findings


def _say(area: Area, path: Path, severity: Severity, message: str) -> Finding:
    return Finding(severity, area, path.name, message)


def _kind(path: Path) -> ArchiveKind | str | None:
    """Return what an archive holds, None if `path` is none, or why that cannot be told."""
    try:
        if not (path.is_file() or path.is_dir()) or container_of(path) is None:
            return "neither a zip nor a tar.gz" if path.suffix in (".war", ".mar") else None
        return sniff(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except WfserveError as error:
        return error.message if path.suffix in (".war", ".mar") else None


def _unused(path: Path, findings: list[Finding]) -> Iterator[Finding]:
    what = "no workflow of the store names it, and models outside workflows are not served here"
    yield _say("model", path, "note", what)
    for found in findings:
        if found.severity != "ok":
            yield replace(found, severity="warning" if found.severity == "error" else found.severity)


def _place(found: Any) -> str:
    return f"{Path(found.file).name}:{found.line}: "


def _handler_file(archive: WorkflowArchive, path: Path) -> list[Finding]:
    if not archive.handler:
        return []
    module = archive.handler.removesuffix(".py").replace("/", ".")
    return _imports(archive.directory, module, partial(_say, "workflow", path), installs=False)


def _handler(model: ModelArchive, handler: str, path: Path, installs: bool) -> Iterator[Finding]:
    say = partial(_say, "model", path)
    manifest = model.manifest.get("model", {})
    name = Path(handler.partition(":")[0]).name.removesuffix(".py")
    modules = [Path(str(manifest["modelFile"])).stem] if manifest.get("modelFile") else []
    if model.directory.joinpath(f"{name}.py").is_file():
        modules.append(name)
    elif _is_below(model.directory, handler):
        what = f"its handler {handler} is in a directory, where no worker looks: it would fail to start"
        yield say("error", f"{what}; pack {name}.py beside the manifest's directory")
    elif name in default_handlers():
        modules.append(f"{TS}.torch_handler.{name}")
        if not is_installed("captum"):
            yield say("note", "captum is not installed: install it if clients ask for explanations")
    elif not is_installed(name):
        yield say("error", f"its handler {handler} is neither in the archive nor a default handler")
    for module in modules:
        yield from _imports(model.directory, module, say, installs=installs)
    is_onnx = str(manifest.get("serializedFile", "")).endswith(".onnx")
    if is_onnx and not (installs or is_installed("onnxruntime")):
        yield say("error", "it is an ONNX model and onnxruntime is not installed: install it")


def _is_below(directory: Path, handler: str) -> bool:
    """Whether `handler` names a file of a subdirectory; only its last part is imported, as by TorchServe."""
    file = Path(f"{handler.partition(':')[0].removesuffix('.py')}.py")
    return any(file == found.relative_to(directory) for found in directory.glob("*/**/*.py"))


def _imports(directory: Path, module: str, say: Any, *, installs: bool) -> list[Finding]:
    try:
        missing = list(missing_imports(directory, module))
    except (SyntaxError, ValueError) as error:
        return [say("error", f"its handler is not Python: {error}")]
    return [say(*_judge(each, installs=installs)) for each in missing]


def _judge(missing: Missing, *, installs: bool) -> tuple[Severity, str]:
    where = f"{missing.file}:{missing.line} imports {missing.module}"
    severity: Severity = "error" if missing.certain else "warning"
    if missing.module.partition(".")[0] == TS:
        return severity, f"{where}, which is not in wfserve's ts: rewrite that import"
    if installs:
        return "note", f"{where}, which its requirements have to bring"
    return severity, f"{where}, which is not installed: install it"
