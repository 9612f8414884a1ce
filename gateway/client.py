"""`stockade client`: sends a few images to a gateway and shows what it says, for a first look and for scripts."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors import SafetensorError
from safetensors.numpy import load

from gateway.config import load_config
from gateway.document import FileRejected, unusable
from gateway.place import from_here
from gateway.samples import sample_images
from stockade.open_inference import grpc_service_pb2 as pb

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MODEL = "kiosk"
TIMEOUT_S = 10.0
EX_REFUSED = 1
EX_UNUSABLE = 2


class ClientUnusable(Exception):
    """What is needed to ask is not there. The message is for the person at the terminal."""


def run(options: argparse.Namespace) -> int:
    """Send images; returns 0 when all were answered, 1 when some were refused."""
    console = Console(stderr=options.json, highlight=False)
    made = f"is {options.directory} a directory of `stockade init`?"
    try:
        config = load_config(options.directory / "stockade.yaml")
        file = options.key or options.directory / "clients" / "kiosk-7.key"
        key = read(file, made if options.key is None else "name an API key's file with --key").decode().strip()
        sample = load(read(options.images or sample_images(), "name a safetensors file with --images"))
        credentials = grpc.ssl_channel_credentials(read(options.directory / "tls" / "ca.crt", made))
    except (FileRejected, SafetensorError, UnicodeDecodeError, ClientUnusable) as problem:
        Console(stderr=True, highlight=False).print(f"[red]stockade:[/red] {escape(str(problem))}", soft_wrap=True)
        return EX_UNUSABLE
    with grpc.secure_channel(options.address or from_here(config.listen.data), credentials) as channel:
        answers = list(ask(channel, key, sample, options.count))
    if options.json:
        for answer in answers:
            sys.stdout.write(json.dumps(answer) + "\n")
    else:
        show(answers, console)
    return 0 if all(answer["status"] == "OK" for answer in answers) else EX_REFUSED


def read(file: Path, advice: str) -> bytes:
    """Return what a file holds, or say what to do."""
    try:
        return file.read_bytes()
    except OSError as problem:
        raise ClientUnusable(unusable(problem, advice)) from problem


def ask(channel: grpc.Channel, key: str, sample: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """Send images one after the other and yield what came back."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
    for number, image in enumerate(sample["images"][:count]):
        pixels = image.astype(np.float32).reshape(1, *image.shape) / np.float32(255)
        request = pb.ModelInferRequest(model_name=MODEL, id=str(number), raw_input_contents=[pixels.tobytes()])
        request.inputs.add(name="image", datatype="FP32", shape=pixels.shape)
        request.outputs.add(name="probabilities")
        request.outputs[0].parameters["classification"].int64_param = 1
        began = time.perf_counter()
        answer: dict[str, Any] = {
            "number": number,
            "label": int(sample["labels"][number]) if "labels" in sample else None,
        }
        try:
            body, done = call.with_call(
                request.SerializeToString(), metadata=(("authorization", f"Bearer {key}"),), timeout=TIMEOUT_S
            )
        except grpc.RpcError as refusal:
            answer |= {"status": refusal.code().name, "details": refusal.details()}
        else:
            told = dict(done.trailing_metadata() or ())
            reply = pb.ModelInferResponse.FromString(body)
            score, index, name = class_of(reply)
            answer |= {"status": "OK", "class": index, "name": name, "score": score}
            answer |= {"audit_index": told.get("x-stockade-audit-index"), "request_id": told.get("x-request-id")}
        answer["ms"] = round((time.perf_counter() - began) * 1000, 3)
        yield answer


def class_of(reply: pb.ModelInferResponse) -> tuple[float, int, str]:
    """Return score, number and name of the best class (the classification extension: "score:number:name")."""
    text = reply.raw_output_contents[0][4:].decode()
    score, index, name = [*text.split(":", 2), ""][:3]
    return float(score), int(index), name


def show(answers: list[dict[str, Any]], console: Console) -> None:
    """Print one line an image."""
    table = Table("image", "answer", "score", "record", "ms")
    for answer in answers:
        if answer["status"] == "OK":
            right = answer["label"] in (None, answer["class"])
            name = escape(answer["name"] or str(answer["class"]))
            text = f"[green]{name}[/green]" if right else f"[yellow]{name}[/yellow] (is {answer['label']})"
            table.add_row(
                str(answer["number"]), text, f"{answer['score']:.3f}", str(answer["audit_index"]), str(answer["ms"])
            )
        else:
            table.add_row(str(answer["number"]), f"[red]{escape(answer['details'])}[/red]", "", "", str(answer["ms"]))
    console.print(table)
