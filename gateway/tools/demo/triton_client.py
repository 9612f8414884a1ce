"""The demo's client: NVIDIA's unmodified tritonclient, in a process and a virtual environment of its own.

It knows nothing of Stockade. `python triton_client.py ADDRESS CA IMAGES KEY OUT [--in-flight N] [--shape-as ...]` sends
each image of an .npy file (n, 28, 28) as one request and writes what came back as JSON lines on standard output:
the class and its latency, or the status and the text of the refusal.
"""

import argparse
import json
import queue
import sys
import time
from typing import Any

import numpy as np
import tritonclient.grpc as triton


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Send images to a server of the Open Inference Protocol.")
    parser.add_argument("address", help="host:port")
    parser.add_argument("--ca", required=True, help="PEM of the authority that signed the server's certificate")
    parser.add_argument("--images", required=True, help=".npy of shape (n, height, width), any dtype")
    parser.add_argument("--key", default="", help="API key; empty sends none")
    parser.add_argument("--model", default="kiosk")
    parser.add_argument("--in-flight", type=int, default=32)
    return parser.parse_args()


DATATYPES = {"float32": "FP32", "float64": "FP64", "uint8": "UINT8"}


def main() -> int:
    """Send everything, keep `in_flight` requests on the way, print one line for each."""
    options = arguments()
    images = np.load(options.images)
    headers = {"authorization": f"Bearer {options.key}"} if options.key else None
    done: queue.Queue[tuple[int, float, Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(options.address, ssl=True, root_certificates=options.ca) as client:

        def send(number: int) -> None:
            image = images[number : number + 1]
            tensor = triton.InferInput("image", list(image.shape), DATATYPES[str(image.dtype)])
            tensor.set_data_from_numpy(image)
            began = time.perf_counter()

            def back(result: Any, error: Any) -> None:
                done.put((number, (time.perf_counter() - began) * 1000, result, error))

            client.async_infer(options.model, [tensor], back, headers=headers)

        began = time.perf_counter()
        sent = min(options.in_flight, len(images))
        for number in range(sent):
            send(number)
        for _ in range(len(images)):
            number, latency_ms, result, error = done.get(timeout=60)
            if sent < len(images):
                send(sent)
                sent += 1
            line: dict[str, Any] = {"number": number, "ms": latency_ms}
            if error is None:
                line["class"] = int(result.as_numpy("probabilities")[0].argmax())
            else:
                line |= {"status": str(error.status()), "details": error.message()}
            sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.write(json.dumps({"seconds": time.perf_counter() - began}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
