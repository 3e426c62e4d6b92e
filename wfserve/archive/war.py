"""A WorkflowArchive is unpacked, its manifest and specification are valid, and its handler file exists."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wfserve.archive.extract import WORKFLOW_MANIFEST, ExtractLimits
from wfserve.archive.manifest import Manifest, member_of, read_manifest, section_of, text_of, unpack
from wfserve.archive.spec import WorkflowSpec, decode_spec, is_version, parse_spec
from wfserve.errors import InvalidWorkflowError

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES = "warm-up"  # the directory of an archive whose files are bodies of requests to try it with


@dataclass(frozen=True, slots=True)
class WorkflowManifest:
    """What the manifest of a workflow archive says."""

    name: str
    spec_file: str
    handler: str  # file name; empty if there is none
    version: str | None
    content: Manifest


@dataclass(frozen=True, slots=True)
class WorkflowArchive:
    """A workflow archive on disk, ready to be started."""

    name: str
    spec: WorkflowSpec
    spec_text: str
    handler: str  # name of the file with the functions; empty only if no node is a function
    directory: Path
    manifest: Manifest
    archive_version: str | None  # `workflowVersion` of the manifest, if it has one

    @property
    def version(self) -> str | None:
        """The manifest's version, else the specification's; what is no version counts as none, as ever."""
        return self.archive_version if is_version(self.archive_version) else self.spec.version


def open_workflow(path: Path, into: Path, limits: ExtractLimits | None = None) -> WorkflowArchive:
    """Unpack the workflow archive at `path` into the new directory `into`, and read it.

    Raises `InvalidWorkflowError` (`SpecError` for its specification) or `TooLargeError`, and leaves nothing.
    """
    unpack(path, into, limits or ExtractLimits(), InvalidWorkflowError)
    try:
        return read_workflow(into)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


def read_workflow(directory: Path) -> WorkflowArchive:
    """Read an unpacked workflow archive in place. Raises `InvalidWorkflowError`."""
    manifest = read_workflow_manifest(directory)
    file = member_of(directory, manifest.spec_file, InvalidWorkflowError)
    text = decode_spec(file.read_bytes(), manifest.spec_file)
    spec = parse_spec(text, manifest.spec_file)
    return WorkflowArchive(
        name=manifest.name,
        spec=spec,
        spec_text=text,
        handler=_handler_of(directory, manifest, spec),
        directory=directory,
        manifest=manifest.content,
        archive_version=manifest.version,
    )


def read_workflow_manifest(directory: Path) -> WorkflowManifest:
    """Read and check the manifest in TorchServe's order, with its texts. Raises `InvalidWorkflowError`."""
    content = read_manifest(directory / WORKFLOW_MANIFEST, InvalidWorkflowError)
    workflow = section_of({"workflow": {}, **content}, "workflow", InvalidWorkflowError)
    name = text_of(workflow, "workflowName", InvalidWorkflowError)
    if name is None:
        raise InvalidWorkflowError("Workflow name is not defined.")
    if text_of(content, "archiverVersion", InvalidWorkflowError) is None:
        raise InvalidWorkflowError("Workflow archive version is not defined.")
    if text_of(content, "createdOn", InvalidWorkflowError) is None:
        raise InvalidWorkflowError("Workflow archive createdOn is not defined.")
    spec_file = text_of(workflow, "specFile", InvalidWorkflowError)
    if spec_file is None:
        raise InvalidWorkflowError("Workflow specification file is not defined.", code=400)
    handler = text_of(workflow, "handler", InvalidWorkflowError) or ""
    version = text_of(workflow, "workflowVersion", InvalidWorkflowError)
    return WorkflowManifest(name, spec_file, handler, version, content)


def handler_file(directory: Path, manifest: WorkflowManifest) -> Path:
    """Return the path of the file with the functions. Raises `InvalidWorkflowError` if there is none.

    The manifest may name it with or without its suffix, as a module or as a file.
    """
    if not manifest.handler:
        raise InvalidWorkflowError("Workflow handler is not defined.", code=400)
    name = manifest.handler
    return member_of(directory, name if name.endswith(".py") else f"{name}.py", InvalidWorkflowError)


def _handler_of(directory: Path, manifest: WorkflowManifest, spec: WorkflowSpec) -> str:
    nodes = {*spec.dag, *(child for children in spec.dag.values() for child in children)}
    if not any(spec.is_function(node) for node in nodes):
        return ""
    return str(handler_file(directory, manifest).relative_to(directory))
