"""The figures of one run as markdown tables and as one JSON object."""
from bench_engines.rounds import ratio

PEERS = {"tract": "tract", "tflite": "TFLite/XNNPACK", "onnxruntime": "ONNX Runtime",
         "onnxruntime-u8": "ONNX Runtime, uint8", "rten": "rten"}


SAVED = "sedge saved"


def title(engine):
    if engine == SAVED:
        return "sedge, saved"
    if engine.startswith("sedge"):
        return engine
    return PEERS[engine]


def milliseconds(result):
    if "median_us" not in result:
        return "failed" if "failed" in result else "–"
    value = result["median_us"] / 1e3
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def compared(found):
    return f"**{found['median']:.2f}** ({found['q1']:.2f}–{found['q3']:.2f})" if found else "–"


def megabytes(result):
    if "rss_peak_bytes" not in result:
        return "–"
    return f"{result['rss_peak_bytes'] / 1e6:.0f} ({result['rss_added_bytes'] / 1e6:.0f})"


def load(result):
    return f"{result['load_ms']:.1f}" if "load_ms" in result else "–"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def table(heads, rows):
    return "\n".join([row(heads), row(["---"] * len(heads)), *map(row, rows)])


def complete(run):
    """Adds what follows from the measured times: ratios of ours to each peer, and the rate."""
    for model in run["models"]:
        engines = model["engines"]
        model["ratios"] = {ours: {peer: ratio(engines[ours], engines[peer]) for peer in engines if peer != ours}
                           for ours in engines if ours.startswith("sedge") and ours != SAVED}
        for result in engines.values():
            if "median_us" in result:
                result["gmacs_per_s"] = model["macs"] / result["median_us"] / 1e3
    return run


def markdown(run):
    # An engine without a figure for any model gets no column, only its reason below.
    engines = list(dict.fromkeys(e for m in run["models"] for e, r in m["engines"].items() if "median_us" in r))
    # A model opened from its saved form computes what the loaded one does: only load and memory are of interest.
    timed = [e for e in engines if e != SAVED]
    ours = [e for e in timed if e.startswith("sedge")]
    pairs = [(o, p) for o in ours for p in timed if p not in ours]
    machine = run["machine"]
    parts = [
        f"{machine['cpu']}, core {run['core']}, one thread; {run['rounds']} rounds of {run['slice_s']} s for each "
        f"engine; load at the start {machine['load']:.1f}, time stolen by the hypervisor {100 * run['stolen']:.1f} %; "
        f"{run['date']}, {', '.join(run['versions'])}.",
        "Medians in milliseconds. They compare with each other within this run, and with nothing else.",
        table(["model", "GMAC", *map(title, timed), *([f"{ours[0]}, GMAC/s"] if ours else [])],
              [[m["model"], f"{m['macs'] / 1e9:.4g}", *(milliseconds(m["engines"][e]) for e in timed),
                *([f"{m['engines'][ours[0]].get('gmacs_per_s', 0):.0f}"] if ours else [])] for m in run["models"]]),
    ]
    if pairs:
        parts += [
            "Ours by the peer's in the same round: median (quartiles). Below one is faster than the peer.",
            table(["model", *(f"{o} / {title(p)}" for o, p in pairs)],
                  [[m["model"], *(compared(m["ratios"][o][p]) for o, p in pairs)] for m in run["models"]]),
        ]
    parts += [
        "Peak memory (RSS) of the engine's process in MB, in brackets without what the process had before it loaded "
        "the model.",
        table(["model", *map(title, engines)],
              [[m["model"], *(megabytes(m["engines"][e]) for e in engines)] for m in run["models"]]),
        "Time to load in milliseconds, from a file in the page cache until the first inference could begin.",
        table(["model", *map(title, engines)],
              [[m["model"], *(load(m["engines"][e]) for e in engines)] for m in run["models"]]),
    ]
    reasons = {}
    for model in run["models"]:
        for engine, result in model["engines"].items():
            if why := result.get("failed") or result.get("skipped"):
                reasons.setdefault((engine, why), []).append(model["model"])
    if reasons:
        parts.append("No figures:\n\n" + "\n".join(f"- {title(e)}, {', '.join(models)}: {why}"
                                                   for (e, why), models in reasons.items()))
    return "\n\n".join(parts) + "\n"
