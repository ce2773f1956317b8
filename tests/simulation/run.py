"""Runs seeds in a process: ``python -m tests.simulation.run FIRST LAST [--without RULE] [--story]``.

Prints one JSON object for each seed that fails, and at last a summary. With ``--until-failure`` it stops
at the first. PYTHONHASHSEED must be set, since the order of sets is part of what a seed decides.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import logging
import sys
from typing import Any

from tests.simulation.rules import PLAIN_RULES, RULES, without
from tests.simulation.world import Verdict, run_seed


def say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.simulation.run")
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--without", choices=sorted({**RULES, **PLAIN_RULES}))
    parser.add_argument("--plain", action="store_true", help="no transactions: at least once")
    parser.add_argument("--until-failure", action="store_true")
    parser.add_argument(
        "--story", action="store_true", help="what happened in each world, and the engines' log"
    )
    options = parser.parse_args()
    if sys.flags.hash_randomization:
        parser.error("set PYTHONHASHSEED=0: else a seed does not mean the same twice")
    if options.story:
        logging.basicConfig(stream=sys.stderr, level=logging.DEBUG, format="%(name)s: %(message)s")
    else:
        logging.disable(logging.CRITICAL)
    # What was imported stays, and a world leaves little behind: an eighth of the time goes into looking.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    failed = run = kept = 0
    digests = hashlib.sha256()
    with without(options.without) as broken:
        for seed in range(options.first, options.last + 1):
            verdict: Verdict = run_seed(seed, plain=options.plain, **broken)
            run += 1
            kept += verdict.kept
            digests.update(verdict.digest.encode())
            if options.story:
                sys.stderr.write("\n".join(verdict.story) + "\n")
            if verdict.wrong:
                failed += 1
                say(seed=seed, wrong=verdict.wrong)
                if options.until_failure:
                    break
    say(run=run, failed=failed, kept=kept, digest=digests.hexdigest()[:16])


if __name__ == "__main__":
    main()
