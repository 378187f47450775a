"""Engines as processes behind one line protocol, taking turns on one core.

Machines that are shared drift by more than the engines differ. So the engines run in short slices, one at a time, each
round in another order, and what is compared is what two engines did in the same round.
"""
import json
import os
import pathlib
import select
import statistics
import subprocess
import tempfile
import time

# A load may optimize a large graph for minutes in plain tract; a slice may be as short as one inference and no shorter.
LOAD_S_MAX = 300
SLICE_EXTRA_S_MAX = 60
ANSWER_BYTES_MAX = 1 << 16


class Failed(Exception):
    """An engine that does not load or run a model, in its own last words."""


class Worker:
    """One engine with one model, pinned to one core, loaded and waiting for its turn."""

    def __init__(self, command, core, env=None):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            env={**os.environ, **(env or {})}, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
        self.buffer = b""
        try:
            self.ready = self.answer(LOAD_S_MAX, {"ready", "load_ms"})
        except BaseException:
            self.close()
            raise

    def run(self, seconds):
        try:
            self.process.stdin.write(f"run {seconds}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self.last_words()) from None
        return self.answer(seconds + SLICE_EXTRA_S_MAX, {"median_us", "p10_us", "p90_us", "iterations"})

    def answer(self, seconds_max, fields):
        """The next line as an object with these fields. Lines that are none (a library's greeting) are passed over."""
        end = time.monotonic() + seconds_max
        stdout = self.process.stdout.fileno()
        while True:
            line, newline, rest = self.buffer.partition(b"\n")
            if newline:
                self.buffer = rest
                if not line.startswith(b"{"):
                    continue
                try:
                    found = json.loads(line)
                except json.JSONDecodeError:
                    found = {}
                if not fields <= found.keys():
                    raise Failed(f"it answered {line[:200].decode(errors='replace')!r}")
                return found
            if len(self.buffer) > ANSWER_BYTES_MAX:
                raise Failed(f"a line of more than {ANSWER_BYTES_MAX} bytes")
            if not select.select([stdout], [], [], max(0, end - time.monotonic()))[0]:
                raise Failed(f"no answer within {seconds_max:.0f} s")
            chunk = os.read(stdout, 4096)
            if not chunk:
                raise Failed(self.last_words())
            self.buffer += chunk

    def last_words(self):
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "it closed its output and did not end"
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"it ended with code {self.process.returncode}"

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def measure(engines, core, rounds, slice_s):
    """What each engine did with one model. `engines` maps a name to command and environment, or to why there is none.

    Answers name → {"skipped": why} or {"failed": why} or the figures, with one median per round.
    """
    results, workers = {}, {}
    for name, engine in engines.items():
        if isinstance(engine, str):
            results[name] = {"skipped": engine}
            continue
        command, env = engine
        try:
            workers[name] = Worker(command, core, env)
            results[name] = {"medians_us": [], "p10_us": [], "p90_us": [], "iterations": 0}
        except (Failed, OSError) as why:
            results[name] = {"failed": str(why)}
    try:
        # The first round warms caches, clocks and branch predictors, and is not counted.
        for number in range(rounds + 1):
            order = list(workers)
            turn = number % max(1, len(order))
            for name in order[turn:] + order[:turn]:
                take_turn(name, workers, results, slice_s, counted=number > 0)
    finally:
        for worker in workers.values():
            worker.close()
    for name, worker in workers.items():
        results[name]["median_us"] = statistics.median(results[name]["medians_us"])
    return results


def take_turn(name, workers, results, slice_s, counted):
    worker, result = workers[name], results[name]
    try:
        answer = worker.run(slice_s)
    except Failed as why:
        results[name] = {"failed": str(why)}
        workers.pop(name).close()
        return
    ready = worker.ready
    base, peak = ready.get("rss_base_bytes", 0), max(ready.get("rss_peak_bytes", 0), answer.get("rss_peak_bytes", 0))
    result |= {"load_ms": ready["load_ms"], "rss_peak_bytes": peak, "rss_added_bytes": peak - base,
               "call_us": ready.get("call_us", 0)}
    if counted:
        result["medians_us"].append(answer["median_us"])
        result["p10_us"].append(answer["p10_us"])
        result["p90_us"].append(answer["p90_us"])
        result["iterations"] += answer["iterations"]


def ratio(ours, peer):
    """Ours by the peer's, round by round: median, quartiles and extremes; nothing where one of them has no figures."""
    if not ours.get("medians_us") or not peer.get("medians_us"):
        return None
    each = [a / b for a, b in zip(ours["medians_us"], peer["medians_us"])]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return {"median": middle, "q1": low, "q3": high, "min": min(each), "max": max(each)}


def stolen_share(before, after):
    """The share of a core's time that the hypervisor gave to others, between two readings of /proc/stat."""
    spent = [b - a for a, b in zip(before, after)]
    return spent[7] / max(1, sum(spent[:8]))


def core_times(core):
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            return [int(value) for value in line.split()[1:]]
    return [0] * 8
