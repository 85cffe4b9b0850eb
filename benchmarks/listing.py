"""Keys a second of listing an S3 prefix whose answers take as long as over a network, beside fsspec's client.

The server runs in a process of its own and holds nothing but keys; it waits before each page of 1,000, as S3 takes 50
to 200 ms for one. Both list all keys; grepr also orders them and makes entries of a manifest.

Example: python -m benchmarks.listing --keys 200000 --latency 0.1
"""

import argparse
import bisect
import http.server
import multiprocessing
import os
import statistics
import time
import urllib.parse
from collections.abc import Callable
from xml.sax.saxutils import escape

import s3fs

from pipelines.lake.sources import Listing

PAGE = 1000
ROUNDS = 5


def make_keys(keys: int, folders: int) -> list[str]:
    return [f"photos/{i * folders // keys:05d}/IMG_{i:09d}.jpg" for i in range(keys)]


def serve(keys: list[str], latency: float, port: "multiprocessing.queues.Queue[int]") -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(latency)
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            prefix = query.get("prefix", "")
            after = query.get("continuation-token", query.get("start-after", ""))
            begin = max(bisect.bisect_left(keys, prefix), bisect.bisect_right(keys, after))
            end = bisect.bisect_left(keys, prefix + "\U0010ffff")
            page = keys[begin : min(end, begin + PAGE)]
            more = begin + PAGE < end
            items = "".join(
                f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f'<ETag>"{hash(key) & (2**64 - 1):032x}"</ETag><Size>3000000</Size></Contents>'
                for key in page
            )
            token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
            body = (
                '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>lake</Name>'
                f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
                f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{items}</ListBucketResult>"
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        port.put(server.server_address[1])
        server.serve_forever()


def with_grepr() -> int:
    return sum(1 for _ in Listing("s3://lake/photos"))


def with_fsspec() -> int:
    return len(s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False).find("lake/photos", detail=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--folders", type=int, default=100)
    parser.add_argument("--latency", type=float, default=0.1, help="seconds a page")
    options = parser.parse_args()
    port: multiprocessing.queues.Queue[int] = multiprocessing.Queue()
    keys = make_keys(options.keys, options.folders)
    server = multiprocessing.Process(target=serve, args=(keys, options.latency, port), daemon=True)
    server.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port.get()}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    ways: dict[str, Callable[[], int]] = {"grepr": with_grepr, "s3fs": with_fsspec}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began, used = time.perf_counter(), time.process_time()
            assert way() == options.keys
            speeds[name].append(options.keys / (time.perf_counter() - began))
            cpu[name].append(1e6 * (time.process_time() - used) / options.keys)
    print("| way | keys/s, median | CPU, us a key |\n|---|---|---|")
    for name in ways:
        print(f"| {name} | {statistics.median(speeds[name]):,.0f} | {statistics.median(cpu[name]):.1f} |")
    ratios = [one / other for one, other in zip(speeds["grepr"], speeds["s3fs"], strict=True)]
    print(f"\nratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    server.terminate()


if __name__ == "__main__":
    main()
