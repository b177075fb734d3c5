"""`python -m h2spec --port N --path /x [--trust chain.pem] [--only http2/5.1]`: a line a case, and how many passed."""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

from . import compression, generic, http2  # noqa: F401  (they add the cases)
from .cases import CASES
from .wire import OTHER_CODE, Failed, Gone, Late, Target, Wire

# What h2spec has: 44 generic, 94 http2, 8 hpack, and one that it runs only when told to be strict.
USUAL, STRICT = 146, 1


def outcome(target, run, handshake):
    """What a case came to: whether it passed, and what the server did."""
    wire = None
    try:
        wire = Wire(target)
        if handshake:
            wire.handshake()
        return True, run(wire) or "done"
    except Failed as failed:
        return False, str(failed)
    except Gone:
        return False, "the connection was closed"
    except Late:
        return False, "nothing came"
    except OSError as fault:
        return False, f"no connection: {fault}"
    finally:
        if wire is not None:
            wire.close()


def main():
    parser = argparse.ArgumentParser(prog="h2spec", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--trust", help="PEM file with the certificate; without one, HTTP/2 in clear text")
    parser.add_argument("--only", default="", help="cases whose number begins so")
    arguments = parser.parse_args()
    target = Target(arguments.host, arguments.port, arguments.path, arguments.trust)

    strict = [case for case in CASES if case[4]]
    if (len(CASES) - len(strict), len(strict)) != (USUAL, STRICT) or len({case[0] for case in CASES}) != len(CASES):
        sys.exit(f"{len(CASES)} cases and {len(strict)} strict ones of them, which is not what h2spec has")

    chosen = [case for case in CASES if case[0].startswith(arguments.only)]
    # Each has a connection of its own, and most of its time goes by in waiting.
    with ThreadPoolExecutor(8) as threads:
        outcomes = threads.map(lambda case: outcome(target, case[2], case[3]), chosen)
    others = 0
    passed, asked = {False: 0, True: 0}, {False: 0, True: 0}
    for (number, title, _run, _handshake, strict), (good, what) in zip(chosen, outcomes, strict=True):
        asked[strict] += 1
        passed[strict] += good
        others += OTHER_CODE in what
        print(f"{'pass' if good else 'FAIL'}  {number:<16} {title}: {what}")
    print(f"closed by another code than the RFC names, which h2spec takes: {others}")
    print(f"{passed[False]} of {asked[False]} passed, {passed[True]} of {asked[True]} strict")
    sys.exit(0 if passed == asked else 1)


main()
