"""`stockade client`: sends a few images to a gateway and shows what it says, for a first look and for scripts."""

from __future__ import annotations

import json
import sys
import time
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from safetensors import SafetensorError
from safetensors.numpy import load

from defenses.extraction.proof_of_work import solve
from gateway.config.document import FileRejected, unusable
from gateway.config.load import load_config
from gateway.config.place import from_here
from gateway.tools.operator import reason
from gateway.tools.samples import sample_images
from gateway.tools.terminal import EX_NO, fail
from stockade.open_inference import grpc_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MODEL = "kiosk"
TIMEOUT_S = 10.0
BAR_AFTER_S = 2.0
PROOFS_MAX = 3  # for one request: what a proof has to show may have grown while it was worked for
REFUSALS_MAX = 10  # that are written out below the table
IMAGE_DIMS = 3


class ClientUnusable(Exception):
    """What is needed to ask is not there. The message is for the person at the terminal."""


def run(options: SimpleNamespace) -> int:
    """Send images; returns 0 when all were answered, 1 when some were refused, 2 when nobody was there to ask."""
    console = Console(stderr=options.json, highlight=False)
    made = f"is {options.directory} a directory of `stockade init`?"
    authority = options.directory / "tls" / "ca.crt"
    try:
        config = load_config(options.directory / "stockade.yaml")
        file = options.key or options.directory / "clients" / "kiosk-7.key"
        key = read(file, made if options.key is None else "name an API key's file with --key").decode().strip()
        sample = sample_of(options.images or sample_images())
        credentials = grpc.ssl_channel_credentials(read(authority, made))
    except (FileRejected, UnicodeDecodeError, ClientUnusable) as problem:
        return fail(problem)
    address = options.address or from_here(config.listen.data)
    images = sample["images"][: options.count]
    with grpc.secure_channel(address, credentials) as channel:
        answers = list(with_bar(ask(channel, key, images, sample.get("labels")), len(images), console))
    if options.json:
        for answer in answers:
            sys.stdout.write(json.dumps(answer) + "\n")
    elif seen := [answer for answer in answers if not unanswered(answer)]:
        show(seen, class_names(config.bundles.directory), console)
    if unanswered(answers[-1]):
        why = reason(answers[-1]["details"], authority)
        advice = f"is `stockade serve {options.directory / 'stockade.yaml'}` running? --address names another gateway"
        return fail(f"{address}: {why}; {advice}")
    return 0 if all(answer["status"] == "OK" for answer in answers) else EX_NO


def read(file: Path, advice: str) -> bytes:
    """Return what a file holds, or say what to do."""
    try:
        return file.read_bytes()
    except OSError as problem:
        raise ClientUnusable(unusable(problem, advice)) from problem


def sample_of(file: Path) -> Mapping[str, Any]:
    """Return `images` (n, height, width), and `labels` (n) if there are any, of a safetensors file."""
    wanted = "name a safetensors file with --images whose tensor `images` is images x height x width"
    try:
        sample = load(read(file, wanted))
    except (SafetensorError, ValueError, KeyError) as problem:
        raise ClientUnusable(f"{file}: is no safetensors file ({problem}); {wanted}") from problem
    images, labels = sample.get("images"), sample.get("labels")
    if images is None or images.ndim != IMAGE_DIMS or not images.size:
        raise ClientUnusable(f"{file}: has no images; {wanted}")
    if labels is not None and labels.shape != images.shape[:1]:
        raise ClientUnusable(f"{file}: its tensor `labels` is not one label an image; mend it, or leave it out")
    return sample


def ask(channel: grpc.Channel, key: str, images: Any, labels: Any) -> Iterator[dict[str, Any]]:
    """Send images one after the other and yield what came back; ends when nobody is there who answers."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
    for number, image in enumerate(images):
        pixels = image.astype(np.float32).reshape(1, *image.shape) / np.float32(255)
        request = pb.ModelInferRequest(model_name=MODEL, id=str(number), raw_input_contents=[pixels.tobytes()])
        request.inputs.add(name="image", datatype="FP32", shape=pixels.shape)
        request.outputs.add(name="probabilities")
        request.outputs[0].parameters["classification"].int64_param = 1
        began = time.perf_counter()
        answer: dict[str, Any] = {"number": number, "label": None if labels is None else int(labels[number])}
        told: dict[str, str | bytes] = {}
        try:
            body, done = call_proving(call, request.SerializeToString(), key)
        except grpc.RpcError as refusal:
            told.update((pair.key, pair.value) for pair in refusal.trailing_metadata() or ())
            answer |= {"status": refusal.code().name, "details": refusal.details()}
        else:
            told.update(done.trailing_metadata() or ())
            score, index, name = class_of(pb.ModelInferResponse.FromString(body))
            answer |= {"status": "OK", "class": index, "name": name, "score": score}
            answer |= {"audit_index": told.get("x-stockade-audit-index")}
        answer["request_id"] = told.get("x-request-id")
        answer["ms"] = round((time.perf_counter() - began) * 1000, 3)
        yield answer
        if unanswered(answer):
            return


def call_proving(call: grpc.UnaryUnaryMultiCallable[bytes, bytes], body: bytes, key: str) -> tuple[bytes, Any]:
    """Call; where the gateway wants a proof of work, do the work and call again. Returns the reply and the call."""
    credential = ("authorization", f"Bearer {key}")
    metadata: tuple[tuple[str, str], ...] = (credential,)
    for _ in range(PROOFS_MAX):
        try:
            return call.with_call(body, metadata=metadata, timeout=TIMEOUT_S)
        except grpc.RpcError as refusal:
            told = {pair.key: pair.value for pair in refusal.trailing_metadata() or ()}
            proof = solve(str(told.get("x-stockade-challenge", "")))
            if proof is None:
                raise
            metadata = (credential, ("x-stockade-proof", proof))
    return call.with_call(body, metadata=metadata, timeout=TIMEOUT_S)


def unanswered(answer: Mapping[str, Any]) -> bool:
    """Say whether no gateway has seen the request: it names every request that it refuses."""
    return answer["status"] != "OK" and answer["request_id"] is None


def class_of(reply: pb.ModelInferResponse) -> tuple[float, int, str]:
    """Return score, number and name of the best class (the classification extension: "score:number:name")."""
    text = reply.raw_output_contents[0][4:].decode()
    score, index, name = [*text.split(":", 2), ""][:3]
    return float(score), int(index), name


def class_names(bundles: Path) -> list[str]:
    """Return what the classes of the model are called, as far as its bundle is here."""
    for manifest in sorted((bundles / MODEL).glob("*/manifest.json"), reverse=True):
        try:
            return [str(name) for name in json.loads(manifest.read_bytes())["class_names"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return []


def with_bar(
    answers: Iterable[dict[str, Any]], total: int, console: Console, clock: Callable[[], float] = time.monotonic
) -> Iterator[dict[str, Any]]:
    """Pass the answers on; on a terminal, with a progress bar once it has taken a while."""
    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task("asking", total=total)
    began, shown = clock(), False
    try:
        for answer in answers:
            progress.advance(task)
            if not shown and clock() - began > BAR_AFTER_S:
                shown = True
                progress.start()
            yield answer
    finally:
        progress.stop()


def show(answers: list[dict[str, Any]], names: list[str], console: Console) -> None:
    """Print one line an image, then refusals in full, which people copy, and what it comes to."""
    table = Table("image", "answer", "score", "record", "ms")
    refused = [answer for answer in answers if answer["status"] != "OK"]
    for answer in answers:
        number, ms = str(answer["number"]), f"{answer['ms']:.1f}"
        if answer["status"] == "OK":
            table.add_row(number, said(answer, names), f"{answer['score']:.3f}", str(answer["audit_index"]), ms)
        else:
            told = answer["details"].removeprefix("[").partition("]")[0]
            table.add_row(number, f"[red]{escape(told)}[/red]", "", "", ms)
    console.print(table)
    for answer in refused[:REFUSALS_MAX]:
        console.print(f"image {answer['number']}: {escape(answer['details'])}", soft_wrap=True)
    if len(refused) > REFUSALS_MAX:
        console.print(f"... and {len(refused) - REFUSALS_MAX} more; --json lists them")
    ok = len(answers) - len(refused)
    p50_ms = median(answer["ms"] for answer in answers)
    console.print(f"{len(answers):,} requests: {ok:,} ok, {len(refused):,} refused, p50 {p50_ms:.1f} ms")


def said(answer: Mapping[str, Any], names: list[str]) -> str:
    """Return the class that an image was given, and the one it is of where that is another."""
    given, label = escape(answer["name"] or str(answer["class"])), answer["label"]
    if label in (None, answer["class"]):
        return f"[green]{given}[/green]"
    return f"[yellow]{given}[/yellow] (is {escape(names[label] if 0 <= label < len(names) else str(label))})"
