"""An app's manifest, `dux.yaml`: what it takes, returns, needs and costs."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from .common import Koinu, Model

MAX_PAYLOAD = 64 * 1024 * 1024
"""Largest input or output, in bytes."""


def _inside(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError("must stay inside the app's folder")
    return path


RelativePath = Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{1,200}$"), AfterValidator(_inside)]


class Files(Model):
    """The one file that goes in, or comes out."""

    media: Annotated[list[str], Field(min_length=1, max_length=16)] = ["application/octet-stream"]
    max_bytes: Annotated[int, Field(ge=0, le=MAX_PAYLOAD)] = MAX_PAYLOAD
    required: bool = True


class Resources(Model):
    memory_mb: Annotated[int, Field(ge=16, le=1_048_576)] = 512
    cpu_s: Annotated[int, Field(ge=1, le=86_400)] = 60
    wall_s: Annotated[int, Field(ge=1, le=86_400)] = 120
    disk_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    processes: Annotated[int, Field(ge=1, le=4096)] = 32


class Sample(Model):
    """A call that `app test` and buyers can repeat; paths are relative to the bundle."""

    input: RelativePath | None = None
    params: dict[str, Any] = {}
    output: RelativePath | None = None
    """Expected result; compared byte for byte where the app is deterministic."""


class Manifest(Model):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+){0,3}$")]
    summary: Annotated[str, Field(min_length=1, max_length=200)]
    tags: Annotated[list[Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]], Field(max_length=16)] = []
    price: Koinu
    """Of one call; written in FLOP in `dux.yaml`."""
    runtime: Literal["command", "http"]
    command: Annotated[list[str], Field(max_length=64)] = []
    """argv inside the sandbox; the bundle is at /app, the input at /in/input, parameters at /in/params.json,
    and the result is to be written to /out/output."""
    url: str = ""
    """Of the provider's own local API (runtime http); loopback only."""
    input: Files = Files()
    output: Files = Files()
    params: dict[str, Any] = {"type": "object", "additionalProperties": False}
    """JSON Schema of the parameters."""
    resources: Resources = Resources()
    deterministic: bool = False
    terms: Annotated[str, Field(max_length=2000)] = ""
    sample: Sample | None = None

    @model_validator(mode="after")
    def _runtime_has_what_it_needs(self) -> "Manifest":
        if self.runtime == "command" and not self.command:
            raise ValueError("runtime 'command' needs 'command'")
        if self.runtime == "http" and not self.url.startswith(
            ("http://127.0.0.1:", "http://localhost:", "http://[::1]:")
        ):
            raise ValueError("runtime 'http' needs 'url' on this machine's loopback, with its port")
        return self
